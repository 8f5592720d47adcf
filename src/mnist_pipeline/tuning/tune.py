"""`mnist tune`: one session of a study, from the checks to the result."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import optuna

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.tuning.cluster import ON_THIS_MACHINE, Resources, ray_workers
from mnist_pipeline.tuning.driver import Driver
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import best_of, show_result, summary_numbers, tables, trial_ends
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import count_done, create_or_resume, load_study, recover, values_of
from mnist_pipeline.tuning.worker import Terms, Worker, code_here


def tune(plan: Plan, resources: Resources = ON_THIS_MACHINE, worker: type = Worker) -> None:
    """Run the study until it has the trials asked for; an interrupted or killed one goes on where it stopped.

    Args:
        plan: what the study is about.
        resources: what it may use.
        worker: class of the workers; benchmarks and tests have others, which do not train.

    Raises:
        UserError: the study is running elsewhere or is about something else, the data are missing, or trials fail.
    """
    data = TrainingData.load(plan.project)
    with find_studies(plan.project, plan.storage).session(plan.study):
        study = create_or_resume(plan)
        recover(study)
        try:
            with _recorded(plan.project, study) as record:
                record.reconcile(trial_ends(study))
                if missing := max(plan.trials - count_done(study), 0):
                    allotted = replace(resources, workers=min(resources.workers, missing))
                    terms = partial(_terms, plan, allotted, data.digest())
                    with ray_workers(allotted, worker, terms, data) as workers:
                        _log_session(plan, study, record, workers.count)
                        Driver(plan, study, record, workers).run()
        except KeyboardInterrupt:
            warn(f"{_state(plan, study)}; the same command goes on from here.")
            raise
    say(_state(plan, study))
    show_result(study, len(data.validation))


def sync_studies(project: Project) -> Iterator[str]:
    """Give the project's studies and their trials the runs that MLflow lacks; yield what was restored, in sentences."""
    client, studies = open_store(project), find_studies(project)
    for name in studies.names():
        try:
            with studies.session(name):
                study = load_study(studies, name)
                record, ends = StudyRun.find(client, study.user_attrs["id"]), trial_ends(study)
                if missing := record.untold(ends) if record else ends:
                    with _recorded(project, study) as record:
                        record.reconcile(ends)
                    yield f"study {name}: {len(missing)} trials had no run; restored from the study"
        except UserError as error:
            warn(str(error))


def _log_session(plan: Plan, study: optuna.Study, record: StudyRun, workers: int) -> None:
    """Print what this session is going to do, and log it."""
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


def _terms(plan: Plan, resources: Resources, data_md5: str, gpus: float) -> Terms:
    return Terms(
        model=plan.model,
        seed=plan.params.seed,
        device=plan.params.device,
        max_weights=plan.max_parameters,
        threads=resources.cpus_per_trial,
        gpu_share=gpus,
        data_md5=data_md5,
        code=code_here(),
    )


@contextmanager
def _recorded(project: Project, study: optuna.Study) -> Generator[StudyRun]:
    """Open the study's run in MLflow; leave in it what the study has come to, however the session ends."""
    attributes = study.user_attrs
    with study_run(project, study.study_name, attributes["id"], attributes["definition"]) as record:
        try:
            yield record
        finally:
            best = best_of(study)
            record.log_result(summary_numbers(study), values_of(best) if best else {}, tables(study))
        from mnist_pipeline.tuning.figures import draw, page  # importing what draws takes seconds

        record.log_figures(draw(study), page(study))


def _state(plan: Plan, study: optuna.Study) -> str:
    return f"Study {plan.study} of {plan.name}: {count_done(study)} of {plan.trials} trials done"
