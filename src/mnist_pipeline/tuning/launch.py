"""`mnist tune`: one session of a study, from the checks to the result."""

from collections.abc import Generator
from contextlib import contextmanager

import optuna
from filelock import Timeout

from mnist_pipeline.console import quiet_native_logs, say, warn
from mnist_pipeline.data.dataset import load_validation
from mnist_pipeline.errors import UserError
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.tuning.outcome import best_of
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.pool import TRIALS_PER_PROCESS, run_workers
from mnist_pipeline.tuning.records import trial_ends
from mnist_pipeline.tuning.report import show_result, summary_numbers, tables
from mnist_pipeline.tuning.space import current_values
from mnist_pipeline.tuning.study import DONE, create_or_resume, decode, mend, session_lock


def tune(plan: Plan, workers: int = 1) -> None:
    """Run the study until it has the trials asked for; an interrupted or killed one goes on where it stopped.

    Args:
        plan: from `make_plan`.
        workers: processes at once; a single one is this process itself, unless its memory would grow too much.

    Raises:
        UserError: the study is running elsewhere or is about something else, the data are missing, or trials fail.
    """
    definition = plan.definition()
    with _alone(plan):
        study = create_or_resume(plan.file, definition, current_values(plan.space, plan.model))
        mend(study, plan.file)  # nobody else runs it, so what is RUNNING was left by a process that is gone
        with _recorded(plan, study) as record:
            record.reconcile(trial_ends(study, plan.space))
            if (missing := plan.trials - _done(study)) > 0:
                _run(plan, study, record, min(workers, missing))
    say(_state(plan, study))
    show_result(study, len(load_validation(plan.project.split)))


def _run(plan: Plan, study: optuna.Study, record: StudyRun, workers: int) -> None:
    tags = {
        "sampler": "TPE",
        "pruner": plan.pruner,
        "objective": plan.goal.name,
        "budget": f"{plan.budget}, {workers} at once",
    }
    record.log_session(plan.project, plan.params, plan.name, tags)
    say(f"{_state(plan, study)}, {plan.length}, {workers} at once.")
    try:
        if workers > 1 or plan.trials - _done(study) > TRIALS_PER_PROCESS:
            run_workers(plan, study, record, workers)
        else:
            with quiet_native_logs():
                from mnist_pipeline.tuning.workers import run_worker
            run_worker(plan, 0, record.run_id)
    except KeyboardInterrupt:
        warn(f"{_state(plan, study)}; the same command goes on from here.")
        raise


@contextmanager
def _alone(plan: Plan) -> Generator[None]:
    """Hold the study for this session."""
    lock = session_lock(plan.file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"The study {plan.study} is running in another process: wait for it, or start another with --study NAME."
        ) from error
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _recorded(plan: Plan, study: optuna.Study) -> Generator[StudyRun]:
    """Open the study's run in MLflow; leave in it what the study has come to, however the session ends."""
    attributes = study.user_attrs
    with study_run(plan.project, plan.study, attributes["id"], attributes["definition"]) as record:
        try:
            yield record
        finally:
            best = best_of(study.get_trials(deepcopy=False), plan.goal)
            values = decode(plan.space, best.params) if best else {}
            record.log_result(summary_numbers(study), values, tables(study))
        _draw(study, record)


def _draw(study: optuna.Study, record: StudyRun) -> None:
    """Leave the study's figures in its run; importing what draws them takes seconds."""
    from mnist_pipeline.tuning.figures import draw, page

    record.log_figures(draw(study), page(study))


def _done(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=DONE))


def _state(plan: Plan, study: optuna.Study) -> str:
    return f"Study {plan.study} of {plan.name}: {_done(study)} of {plan.trials} trials done"
