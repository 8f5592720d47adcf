"""`mnist tune`: one session of a study, from the checks to the result."""

from collections.abc import Generator
from contextlib import contextmanager

import optuna

from mnist_pipeline.core.console import quiet_native_logs, say, warn
from mnist_pipeline.data.dataset import load_validation
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.pool import TRIALS_PER_PROCESS, run_workers
from mnist_pipeline.tuning.results import best_of, show_result, summary_numbers, tables, trial_ends
from mnist_pipeline.tuning.study import count_done, create_or_resume, repair, session, values_of


def tune(plan: Plan, workers: int = 1) -> None:
    """Run the study until it has the trials asked for; an interrupted or killed one goes on where it stopped.

    A single worker is this process itself, unless its memory would grow too much.

    Raises:
        UserError: the study is running elsewhere or is about something else, the data are missing, or trials fail.
    """
    with session(plan.file):
        study = create_or_resume(plan)
        repair(study, plan.file)  # nobody else runs it, so what is RUNNING was left by a process that is gone
        with _recorded(plan, study) as record:
            record.reconcile(trial_ends(study))
            if (missing := plan.trials - count_done(study)) > 0:
                _run(plan, study, record, min(workers, missing))
    say(_state(plan, study))
    show_result(study, len(load_validation(plan.project.split)))


def _run(plan: Plan, study: optuna.Study, record: StudyRun, workers: int) -> None:
    """Run the trials that are missing, in this process or in others; leave none RUNNING."""
    epochs = plan.model.training.epochs
    length = f"{epochs} epoch{'' if epochs == 1 else 's'} each at most"
    timeout = f", {plan.timeout} at most" if plan.timeout else ""
    tags = {
        "sampler": "TPE, each parameter by itself" if plan.goal.small else "TPE, multivariate",
        "pruner": plan.pruner,
        "objective": plan.objective,
        "budget": f"{plan.trials} trials, {length}{timeout}, {workers} at once",
    }
    record.log_session(plan.project, plan.params, plan.name, tags)
    say(f"{_state(plan, study)}, {length}, {workers} at once.")
    try:
        if workers > 1 or plan.trials - count_done(study) > TRIALS_PER_PROCESS:
            run_workers(plan, study, record, workers)
        else:
            with quiet_native_logs():
                from mnist_pipeline.tuning.trial import run_trials
            run_trials(plan, 0, record.run_id)
    except KeyboardInterrupt:
        warn(f"{_state(plan, study)}; the same command goes on from here.")
        raise
    finally:
        repair(study, plan.file, mishap="interrupted")
        record.reconcile(trial_ends(study))


@contextmanager
def _recorded(plan: Plan, study: optuna.Study) -> Generator[StudyRun]:
    """Open the study's run in MLflow; leave in it what the study has come to, however the session ends."""
    attributes = study.user_attrs
    with study_run(plan.project, plan.study, attributes["id"], attributes["definition"]) as record:
        try:
            yield record
        finally:
            best = best_of(study)
            record.log_result(summary_numbers(study), values_of(best) if best else {}, tables(study))
        from mnist_pipeline.tuning.figures import draw, page  # importing what draws takes seconds

        record.log_figures(draw(study), page(study))


def _state(plan: Plan, study: optuna.Study) -> str:
    return f"Study {plan.study} of {plan.name}: {count_done(study)} of {plan.trials} trials done"
