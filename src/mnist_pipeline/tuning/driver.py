"""The one process that asks a study for trials, tells it how they ended, stops the bad ones, and tells MLflow."""

import math
import time
from dataclasses import dataclass, field
from datetime import timedelta

import optuna
from optuna.trial import Trial, TrialState

from mnist_pipeline.core.console import say
from mnist_pipeline.tracking.studies import StudyRun, TrialRun
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning.cluster import WorkerLostError, Workers
from mnist_pipeline.tuning.plan import EPOCHS, Plan
from mnist_pipeline.tuning.results import RESULT, best_of, count_others, front_of, outcome_of, trial_end, trial_ends
from mnist_pipeline.tuning.study import ask, count_done, fail, recover, values_of
from mnist_pipeline.tuning.worker import Result

FAILURES = 3
"""So many trials that fail one after the other are no accident: the study stops with the last one's error."""


@dataclass
class _Running:
    """A trial that a worker is training."""

    trial: Trial
    run: TrialRun
    stopped: bool = False
    """Whether the pruner has stopped it."""


@dataclass
class Driver:
    """A session of a study, while its trials run."""

    plan: Plan
    study: optuna.Study
    record: StudyRun
    workers: Workers
    _running: dict[int, _Running] = field(default_factory=dict[int, _Running])
    _failures: int = 0
    """Trials that failed since one ended well."""

    def run(self) -> None:
        """Run trials until the study has all that were asked for or the time is up; leave none RUNNING.

        Raises:
            Exception: of the last of three trials that failed one after the other.
            UserError: the workers cannot work.
        """
        since, before = time.monotonic(), count_done(self.study)
        try:
            while self._start_trials() or self._running:
                match self.workers.next():
                    case (number, Epoch() as epoch):
                        self._report(number, epoch)
                    case (number, Result() | Exception() as end):
                        self._end(number, end)
                        say(_line(self.study, self.plan, number, time.monotonic() - since, before))
                        self._stop_if_hopeless(end)
                    case None:
                        pass
        except BaseException:
            # An interruption can come anywhere, such as between the words to the study and those to MLflow.
            recover(self.study, {number: running.trial for number, running in self._running.items()})
            for number in [*self._running]:
                self._close(number)
            self.record.reconcile(trial_ends(self.study))
            raise

    def _start_trials(self) -> bool:
        """Give each idle worker a trial; return whether the study wants more than are running."""
        while self.workers.has_idle:
            if (trial := ask(self.study, self.plan)) is None:
                return False
            values = values_of(trial)
            tags = self.workers.start(trial.number, values)
            self._running[trial.number] = _Running(trial, self.record.start_trial(trial.number, values, tags))
        return not self.plan.is_time_up and count_done(self.study) + len(self._running) < self.plan.trials

    def _report(self, number: int, epoch: Epoch) -> None:
        """Tell Optuna of an epoch and the worker whether to go on; then MLflow, because the worker need not wait."""
        running, goal = self._running[number], self.plan.goal
        if not goal.small:  # Optuna prunes by one value only
            running.trial.report(goal.measure(epoch), epoch.epoch)
            # In the last epoch there is nothing left to save.
            running.stopped = not self._is_last(running.trial, epoch) and running.trial.should_prune()
        self.workers.answer(number, stop=running.stopped)
        running.run.log_epoch(epoch)

    def _is_last(self, trial: Trial, epoch: Epoch) -> bool:
        return epoch.epoch >= values_of(trial).get(EPOCHS, self.plan.model.training.epochs)

    def _end(self, number: int, event: Result | Exception) -> None:
        """Write down how a trial ended: in the study first, which decides."""
        running = self._running[number]
        match event:
            case WorkerLostError():
                fail(self.study, running.trial)
            case Exception():
                self._failures += 1
                fail(self.study, running.trial, f"{type(event).__name__}: {event}")
            case Result():
                self._failures = 0
                self._tell(running, event)
        self._close(number)

    def _tell(self, running: _Running, result: Result) -> None:
        trial, goal, best = running.trial, self.plan.goal, result.best
        trial.set_user_attr(RESULT, _metrics(result))
        if self.plan.max_parameters is not None:
            trial.set_constraint("weights", result.weights - self.plan.max_parameters)
        if best is None or running.stopped:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [goal.measure(best), *([float(result.weights)] if goal.small else [])])

    def _stop_if_hopeless(self, end: Result | Exception) -> None:
        if isinstance(end, Exception) and self._failures == FAILURES:
            raise end

    def _close(self, number: int) -> None:
        trial = self.study.get_trials(deepcopy=False)[number]
        self._running.pop(number).run.end(trial_end(self.study, trial))


def _metrics(result: Result) -> dict[str, float]:
    """Return what a trial came to, for the study and MLflow alike."""
    if result.best is None:
        return {"parameters": result.weights}
    return {
        "parameters": result.weights,
        "best_epoch": result.best.epoch,
        "best_validation_accuracy": result.best.validation_accuracy,
        "best_validation_loss": result.best.validation_loss,
        "epochs": result.epochs,
        "training_seconds": round(result.seconds, 1),
    }


def _line(study: optuna.Study, plan: Plan, number: int, seconds: float, before: int) -> str:
    """Return one line on a trial that has ended, for a terminal and a log file alike.

    It says how the trial ended, what is best so far, how many are done and how long the rest will take, as far as one
    can tell from this session: it began so many seconds ago, when `before` trials were done.
    """
    goal, done, best, width = plan.goal, count_done(study), best_of(study), len(str(plan.trials))
    trial = study.get_trials(deepcopy=False)[number]
    value = goal.text(trial.values) if trial.values else ""  # so far, if it was pruned
    aligned = f"{value:>{len('98.12%, 12,345,678 weights' if goal.small else '100.00%')}}"
    front = f"front of {len(front_of(study))}, " if goal.small else ""
    found = f"{front}best {goal.number_text(best.values[0])} (trial {best.number})" if best else "none is complete yet"
    left = _left(plan, done, seconds / (done - before)) if done > before else ""
    error = f"  ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
    return (
        f"trial {number:>{width}}  {outcome_of(trial):<9}  {aligned}  {found}  "
        f"{done:>{width}}/{plan.trials} done{count_others(study)}{left}{error}"
    )


def _left(plan: Plan, done: int, pace: float) -> str:
    """Estimate the time left as h:mm:ss, at so many seconds a trial; the timeout may come first."""
    if done >= plan.trials:
        return ""
    seconds, until_timeout = (plan.trials - done) * pace, max((plan.until or math.inf) - time.monotonic(), 0)
    if seconds <= until_timeout:
        return f", {timedelta(seconds=round(seconds))} left"
    return f", time is up in {timedelta(seconds=round(until_timeout))}"
