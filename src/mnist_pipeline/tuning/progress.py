"""One line per trial, for a terminal and a log file alike."""

import math
import time

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.console import say
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import DONE

NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}


class Progress:
    """Says how each trial ended, what is best so far and how long the rest will take."""

    def __init__(self, study: optuna.Study, plan: Plan) -> None:
        self._study = study
        self._plan = plan
        self._started = time.time()
        self._done_before = len(study.get_trials(deepcopy=False, states=DONE))

    def show(self, number: int) -> None:
        """Print the line of a trial that has ended."""
        trials = self._study.get_trials(deepcopy=False)
        done = sum(trial.state in DONE for trial in trials)
        width = len(str(self._plan.trials))
        say(
            f"trial {number:>{width}}  {_outcome(trials[number])}  {_best(trials)}  "
            f"{done:>{width}}/{self._plan.trials} done{self._left(done)}{_error(trials[number])}"
        )

    def _left(self, done: int) -> str:
        """Estimate from the trials of this session; the timeout may come first."""
        here = done - self._done_before
        missing = self._plan.trials - done
        if not here or missing <= 0:
            return ""
        now = time.time()
        seconds = missing * (now - self._started) / here
        if self._plan.until is not None and self._plan.until - now < seconds:
            return f", time is up in {duration(self._plan.until - now)}"
        return f", {duration(seconds)} left"


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial with the best value, the first of equals; None if there is none."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    return max(complete, key=_value, default=None)


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _value(trial: FrozenTrial) -> float:
    return -math.inf if trial.value is None else trial.value


def _outcome(trial: FrozenTrial) -> str:
    """Return the state and the value, the same width for each."""
    value = "" if trial.value is None else f"{trial.value:.2%}"
    return f"{NAMES[trial.state]:<8}  {value:>7}"


def _error(trial: FrozenTrial) -> str:
    return f"  ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""


def _best(trials: list[FrozenTrial]) -> str:
    best = best_of(trials)
    return "none is complete yet" if best is None else f"best {best.value:.2%} (trial {best.number})"
