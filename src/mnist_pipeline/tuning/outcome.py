"""What the trials of a study have come to: which is best, which make up the Pareto front, which are too large."""

from collections.abc import Iterable

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.tuning.goal import Goal, find_goal
from mnist_pipeline.tuning.study import CURRENT

TOO_LARGE = "too large"
"""The outcome of a trial that `--max-parameters` excludes. It is not trained, but it is one of the trials asked for."""
NAMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""The states that end a trial."""


def goal_of(study: optuna.Study) -> Goal:
    """Return what the study is to reach."""
    return find_goal(study.user_attrs["definition"]["objective"])


def outcome_of(trial: FrozenTrial) -> str:
    """Return how a trial ended, in a word or two."""
    return TOO_LARGE if is_too_large(trial) and trial.state is TrialState.PRUNED else NAMES[trial.state]


def is_too_large(trial: FrozenTrial) -> bool:
    """Say whether the trial's network has more weights than the study allows."""
    return any(excess > 0 for excess in trial.constraints.values())


def complete(trials: Iterable[FrozenTrial], goal: Goal) -> list[FrozenTrial]:
    """Return the trials that trained to the end, best first, the first of equals first."""
    trained = (trial for trial in trials if trial.state is TrialState.COMPLETE)
    return sorted(trained, key=lambda trial: goal.rank(trial.values), reverse=True)


def best_of(trials: Iterable[FrozenTrial], goal: Goal) -> FrozenTrial | None:
    """Return the best complete trial, on a Pareto front the most accurate one; None if there is none."""
    return next(iter(complete(trials, goal)), None)


def front_of(study: optuna.Study, goal: Goal) -> list[FrozenTrial]:
    """Return the complete trials that no other one beats in one value and equals in the rest, best first."""
    return sorted(study.best_trials, key=lambda trial: goal.rank(trial.values), reverse=True)


def current_trial(trials: Iterable[FrozenTrial]) -> FrozenTrial | None:
    """Return the newest trial of the parameters that were in `params.yaml` when the study began."""
    return next((trial for trial in reversed([*trials]) if trial.user_attrs.get("origin") == CURRENT), None)
