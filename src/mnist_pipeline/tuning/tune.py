"""`mnist tune`: one session of a study, from the checks to the result.

One process asks the study for trials, has workers train them, stops the bad ones, and tells the study and MLflow.
"""

import asyncio
import signal
import time
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.runs import epoch_metrics
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning import results
from mnist_pipeline.tuning.cluster import Hire, Resources, WorkerLostError, answer, ray_workers, warn_of_waiting
from mnist_pipeline.tuning.plan import EPOCHS, Plan, amount
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import ask, count_done, create_or_resume, load_study, recover, values_of, wants_more
from mnist_pipeline.tuning.worker import Result, Worker

FAILURES = 3
"""So many trials that fail one after the other are no accident: the study stops with the last one's error."""
DEATHS = 10
"""With so many workers killed since a trial ended well, the study stops; in large studies thrice their workers, because
a node that is lost takes many along."""
TRIALS_PER_PROCESS = 20
"""TensorFlow's memory grows with each training by 25 MB and four times the weights, whatever one clears: after so many
trials, a fresh process goes on."""
SILENCE = 30
"""Seconds without a worker after which it is said what is waited for."""


def tune(plan: Plan, resources: Resources | None = None, worker: type = Worker) -> None:
    """Run the study until it has the trials asked for; an interrupted or killed one goes on where it stopped.

    By default it may use all cores for one trial at a time. Benchmarks and tests have workers that do not train.

    Raises:
        UserError: the study is running elsewhere or is about something else, the data are missing, or trials fail.
    """
    data, resources = TrainingData.load(plan.project), resources or Resources()
    with find_studies(plan.project, plan.storage).session(plan.study) as storage:
        study = create_or_resume(plan, storage)
        recover(study)
        try:
            with _recorded(plan.project, study) as record:
                record.forget(len(study.get_trials(deepcopy=False)))
                record.reconcile(results.trial_ends(study))
                if missing := max(plan.trials - count_done(study), 0):
                    allotted = replace(resources, workers=min(resources.workers, missing))
                    with ray_workers(allotted, worker, plan, data) as hire:
                        Driver(plan, study, record, allotted.workers, hire).run()
        except KeyboardInterrupt:
            warn(f"{_state(plan, study)}; the same command goes on from here.")
            raise
    say(_state(plan, study))
    results.show_result(study, len(data.validation))


def sync_studies(project: Project) -> Iterator[str]:
    """Give the project's studies and their trials the runs that MLflow lacks; yield what was restored, in sentences."""
    client, studies = open_store(project), find_studies(project)
    for name in studies.names():
        try:
            with studies.session(name):
                study = load_study(studies, name)
                record, ends = StudyRun.find(client, project, study.user_attrs["id"]), results.trial_ends(study)
                if missing := record.untold(ends) if record else ends:
                    with _recorded(project, study, directly=True) as record:
                        record.reconcile(ends)
                    yield f"study {name}: {amount(len(missing), 'trial')} had no run; restored from the study"
        except UserError as error:
            warn(str(error))


@contextmanager
def _recorded(project: Project, study: optuna.Study, *, directly: bool = False) -> Generator[StudyRun]:
    """Open the study's run in MLflow; leave in it what the study has come to, however the session ends."""
    attributes = study.user_attrs
    definition = attributes["definition"]
    with study_run(project, study.study_name, attributes["id"], definition, directly=directly) as record:
        try:
            yield record
        finally:
            record.log_result(results.summary_numbers(study), results.files_of(study))
        if page := results.draw(study):
            record.log_result({}, {"figures.html": page})


def _log_session(plan: Plan, study: optuna.Study, record: StudyRun, workers: int) -> None:
    """Print what this session is going to do, and log it."""
    length = f"{amount(plan.model.training.epochs, 'epoch')} each at most"
    timeout = f", {plan.timeout} at most" if plan.timeout else ""
    sampler = "TPE, each parameter by itself" if plan.goal.small else "TPE, multivariate"
    budget = f"{amount(plan.trials, 'trial')}, {length}{timeout}, {workers} at once"
    tags = {"sampler": sampler, "pruner": plan.pruner, "objective": plan.objective, "budget": budget}
    record.log_session(plan.project, plan.params, plan.name, tags)
    say(f"{_state(plan, study)}, {length}, {workers} at once.")


def _state(plan: Plan, study: optuna.Study) -> str:
    return f"Study {plan.study} of {plan.name}: {count_done(study)} of {amount(plan.trials, 'trial')} done"


@dataclass
class Driver:
    """A session of a study, while its trials run. All of it happens in one thread, so that there is one writer."""

    plan: Plan
    study: optuna.Study
    record: StudyRun
    workers: int
    """Trials at once."""
    hire: Hire
    _running: dict[int, Trial] = field(default_factory=dict[int, Trial])
    _failures: int = 0
    """Trials that failed since one ended well."""
    _deaths: int = 0
    """Workers that were lost since a trial ended well."""
    _since: float = field(default_factory=time.monotonic)
    _before: int = 0
    """Trials that were done when this session began."""

    def run(self) -> None:
        """Run trials until the study has all that were asked for or the time is up; leave none RUNNING."""
        self._before = count_done(self.study)
        try:
            self._run_loop()
        except BaseException:
            # It can come anywhere, such as between the words to the study and those to MLflow.
            recover(self.study, self._running)
            self.record.reconcile(results.trial_ends(self.study))
            raise

    def _run_loop(self) -> None:
        """Work until all is done; SIGTERM and Ctrl+C are noticed between two steps, never amid a transaction."""
        on_terminate = signal.getsignal(signal.SIGTERM)
        try:
            asyncio.run(self._work_together())
        except asyncio.CancelledError as error:
            raise KeyboardInterrupt from error
        finally:
            signal.signal(signal.SIGTERM, on_terminate)

    async def _work_together(self) -> None:
        """Have all workers work until there is no trial to start and none is running, or one of them cannot go on."""
        if task := asyncio.current_task():
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        working = {asyncio.create_task(self._work()) for _ in range(self.workers)}
        try:
            await asyncio.sleep(0)  # the workers get ready meanwhile
            _log_session(self.plan, self.study, self.record, self.workers)
            while self._running or wants_more(self.study, self.plan):
                was_training = bool(self._running)
                ended, working = await asyncio.wait(working, timeout=SILENCE, return_when=asyncio.FIRST_COMPLETED)
                for task in ended:
                    task.result()
                if not (ended or was_training or self._running):
                    warn_of_waiting(self.workers)
        finally:
            for task in working:
                task.cancel()
            await asyncio.gather(*working, return_exceptions=True)

    async def _work(self) -> None:
        """Have a worker, or others in its place, train one trial after the other until no more are wanted."""
        while wants_more(self.study, self.plan):
            try:
                with self.hire() as worker:
                    await self._train_trials(worker)
            except WorkerLostError as error:
                self._deaths += 1
                if self._deaths >= max(DEATHS, 3 * self.workers):
                    raise UserError(
                        f"{self._deaths} workers were killed, most likely for want of memory: run it again with fewer "
                        f"--workers, or narrow the search space. The last one: {error}"
                    ) from error

    async def _train_trials(self, worker: Any) -> None:
        """Have a worker train as many trials as one process should, if so many are wanted."""
        tags = await answer(worker.prepare.remote())
        if isinstance(tags, Exception):
            raise tags
        for _ in range(TRIALS_PER_PROCESS):
            if not wants_more(self.study, self.plan):
                return
            await self._train(worker, ask(self.study, self.plan), tags)

    async def _train(self, worker: Any, trial: Trial, tags: Mapping[str, str]) -> None:
        """Have a worker train a trial; tell the study, which decides, and then MLflow what comes of it."""
        self._running[trial.number] = trial
        values, stopped, metrics = values_of(trial), False, list[Any]()
        reference = worker.start.remote(values)
        try:
            while isinstance(found := await answer(reference), Epoch):
                stopped = self._report(trial, found, values.get(EPOCHS, self.plan.model.training.epochs))
                reference = worker.go_on.remote(stopped)
                metrics += epoch_metrics(found)
        except WorkerLostError as error:
            found = error
        ended = self._tell(trial, found, stopped)
        del self._running[trial.number]
        self.record.log_trial(results.trial_end(self.study, ended, metrics), tags)
        say(self._line(ended))
        if isinstance(found, WorkerLostError) or self._failures == FAILURES:
            raise found

    def _report(self, trial: Trial, epoch: Epoch, last: int) -> bool:
        """Tell Optuna of an epoch; return whether the trial is to stop."""
        if self.plan.goal.small:  # Optuna prunes by one value only
            return False
        trial.report(self.plan.goal.measure(epoch), epoch.epoch)
        return epoch.epoch < last and trial.should_prune()  # in the last epoch there is nothing left to save

    def _tell(self, trial: Trial, end: Result | Exception, stopped: bool) -> FrozenTrial:
        """Tell the study how a trial ended."""
        if isinstance(end, Exception):
            if not isinstance(end, WorkerLostError):
                self._failures += 1
                trial.set_user_attr("error", f"{type(end).__name__}: {end}")
            return self.study.tell(trial, state=TrialState.FAIL)
        self._failures = self._deaths = 0
        trial.set_user_attr(results.RESULT, end.metrics)
        if self.plan.max_parameters is not None:
            trial.set_constraint("weights", end.weights - self.plan.max_parameters)
        if end.best is None or stopped:
            return self.study.tell(trial, state=TrialState.PRUNED)
        weights = [float(end.weights)] if self.plan.goal.small else []
        return self.study.tell(trial, [self.plan.goal.measure(end.best), *weights])

    def _line(self, trial: FrozenTrial) -> str:
        """Return one line on a trial that has ended, for a terminal and a log file alike.

        It says how the trial ended, what is best so far, how many are done and how long the rest will take, as far as
        one can tell from this session.
        """
        study, goal, done, width = self.study, self.plan.goal, count_done(self.study), len(str(self.plan.trials))
        number, best = trial.number, results.best_of(study)
        value = goal.text(trial.values) if trial.values else ""  # so far, if it was pruned
        aligned = f"{value:>{len('98.12%, 12,345,678 weights' if goal.small else '100.00%')}}"
        found = f"best {goal.number_text(best.values[0])} (trial {best.number})" if best else "none is complete yet"
        error = f"  ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
        return (
            f"trial {number:>{width}}  {results.outcome_of(trial):<9}  {aligned}  {found}  "
            f"{done:>{width}}/{self.plan.trials} done{results.count_others(study)}{self._left(done)}{error}"
        )

    def _left(self, done: int) -> str:
        """Estimate the time left, at most until the timeout, as h:mm:ss."""
        if not self._before < done < self.plan.trials:
            return ""
        now, left = time.monotonic(), self.plan.trials - done
        seconds = min(left * (now - self._since) / (done - self._before), max(self.plan.until - now, 0))
        return f", {timedelta(seconds=round(seconds))} left"
