"""One line per trial, for a terminal and a log file alike."""

import time
from collections import Counter

import optuna
from optuna.trial import FrozenTrial

from mnist_pipeline.console import say
from mnist_pipeline.tuning.goal import Goal
from mnist_pipeline.tuning.outcome import NAMES, best_of, front_of, outcome_of
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import DONE


class Progress:
    """Says how each trial ended, how many did how, what is best so far and how long the rest will take."""

    def __init__(self, study: optuna.Study, plan: Plan) -> None:
        self._study = study
        self._plan = plan
        self._started = time.time()
        self._done_before = len(study.get_trials(deepcopy=False, states=DONE))

    def show(self, number: int) -> None:
        """Print the line of a trial that has ended."""
        trials = self._study.get_trials(deepcopy=False)
        done = sum(trial.state in DONE for trial in trials)
        trial, width = trials[number], len(str(self._plan.trials))
        say(
            f"trial {number:>{width}}  {outcome_of(trial):<9}  {_value(trial, self._plan.goal)}  "
            f"{_best(self._study, self._plan.goal)}  {done:>{width}}/{self._plan.trials} done"
            f"{others(trials)}{self._left(done)}{_error(trial)}"
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


def others(trials: list[FrozenTrial]) -> str:
    """Return how many trials ended otherwise than complete: ` (2 pruned, 1 failed)`, or nothing if none did."""
    counts = Counter(outcome_of(trial) for trial in trials if trial.state in NAMES)
    del counts["complete"]
    return f" ({', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))})" if counts else ""


def duration(seconds: float) -> str:
    """Return a time as people say it: `40 s`, `12 min`, `2.5 h`."""
    if seconds < 90:
        return f"{max(seconds, 0):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"


def _value(trial: FrozenTrial, goal: Goal) -> str:
    """Return what the trial came to (so far, if it was pruned), the same width for each."""
    text = goal.text(trial.values) if trial.values else ""
    return f"{text:>{len('98.12%, 12,345,678 weights' if goal.small else '100.00%')}}"


def _best(study: optuna.Study, goal: Goal) -> str:
    trials = study.get_trials(deepcopy=False)
    best = best_of(trials, goal)
    if best is None:
        return "none is complete yet"
    front = f"front of {len(front_of(study, goal))}, " if goal.small else ""
    return f"{front}best {goal.number_text(best.values[0])} (trial {best.number})"


def _error(trial: FrozenTrial) -> str:
    return f"  ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
