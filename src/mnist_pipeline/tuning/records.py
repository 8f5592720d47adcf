"""How a trial of the journal is told to MLflow."""

from typing import Literal

import optuna
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.tracking.studies import TrialEnd
from mnist_pipeline.tuning.outcome import outcome_of
from mnist_pipeline.tuning.space import Space
from mnist_pipeline.tuning.study import decode

RESULT = "result."
"""Prefix of the user attributes that are a trial's metrics."""
STATUS: dict[TrialState, Literal["FINISHED", "KILLED", "FAILED"]] = {
    TrialState.COMPLETE: "FINISHED",
    TrialState.PRUNED: "KILLED",
    TrialState.FAIL: "FAILED",
}
"""What the state of a trial that has ended is called in MLflow."""


def trial_ends(study: optuna.Study, space: Space) -> list[TrialEnd]:
    """Say of each trial that has ended how it did."""
    return [trial_end(trial, space) for trial in study.get_trials(deepcopy=False) if trial.state in STATUS]


def trial_end(trial: FrozenTrial, space: Space) -> TrialEnd:
    """Say how a trial ended."""
    attributes = trial.user_attrs
    mishap = f"the process was {attributes['mishap']}" if "mishap" in attributes else None
    return TrialEnd(
        number=trial.number,
        status=STATUS[trial.state],
        outcome=outcome_of(trial),
        values=decode(space, trial.params),
        metrics={key.removeprefix(RESULT): value for key, value in attributes.items() if key.startswith(RESULT)},
        error=attributes.get("error", mishap) if trial.state is TrialState.FAIL else None,
    )
