"""One lucky score is no improvement: new parameters and current ones, trained again with seeds of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean
from typing import TYPE_CHECKING, Literal

import pandas as pd

from mnist_pipeline.console import quiet_native_logs, say
from mnist_pipeline.params import ModelParams, Params
from mnist_pipeline.project import Project
from mnist_pipeline.tuning.goal import Goal

if TYPE_CHECKING:
    from mnist_pipeline.tuning.objective import Score

Side = Literal["current", "new"]
"""The two that are compared."""


@dataclass(frozen=True)
class Confirmation:
    """What trainings with other seeds came to."""

    goal: Goal
    """By what they are compared."""
    seeds: Sequence[int]
    """None if the word of the study was taken."""
    scores: "Mapping[Side, Sequence[Score]]"
    """One per seed."""

    def favours_new(self, max_weights: int | Literal["none"]) -> bool:
        """Decide whether the new parameters replace the current ones.

        They have to be better on average. But current ones with more weights than allowed cannot stay.
        """
        if not self.seeds:
            return True
        weights = self.scores["current"][0].parameters
        if max_weights != "none" and weights > max_weights:
            say(f"The current parameters have {weights:,} weights, more than {max_weights:,}: they cannot stay.")
            return True
        return self.goal.improves(self._mean("new"), self._mean("current"))

    @property
    def metrics(self) -> dict[str, float]:
        """The means of the number that decides, by their names in MLflow."""
        return {f"confirm_{side}_{self.goal.metric}": self._mean(side)[0] for side in self.scores if self.seeds}

    @property
    def table(self) -> str:
        """The number that decides, seed by seed, as CSV."""
        columns = {side: [self.goal.measure(score.best) for score in scores] for side, scores in self.scores.items()}
        return pd.DataFrame({"seed": self.seeds, **columns}).to_csv(index=False)

    @property
    def text(self) -> str:
        """The means."""
        sides = "; ".join(f"{side} {self.goal.text(self._mean(side))}" for side in self.scores)
        return f"mean of {len(self.seeds)}: {sides} (validation {self.goal.number})"

    def _mean(self, side: Side) -> list[float]:
        """Return the mean of each value over the seeds."""
        values = [self.goal.values(score.best, score.parameters) for score in self.scores[side]]
        return [mean(column) for column in zip(*values, strict=True)]


def train_again(
    project: Project, params: Params, current: ModelParams, new: ModelParams, goal: Goal, count: int
) -> Confirmation:
    """Train both models with `count` seeds that the study has not used; print what comes of it.

    Args:
        project: whose train and validation splits.
        params: whose seed the study used, and the device.
        current: parameters to compare with.
        new: parameters to confirm.
        goal: by what they are compared.
        count: of the seeds; 0 trains nothing.
    """
    models: dict[Side, ModelParams] = {"current": current, "new": new}
    scores: dict[Side, list[Score]] = {side: [] for side in models}
    seeds = [(params.seed + 1 + index) % 2**32 for index in range(count)]
    confirmation = Confirmation(goal, seeds, scores)
    if not seeds:
        return confirmation
    with quiet_native_logs():
        from mnist_pipeline.training.devices import choose_device
        from mnist_pipeline.tuning import objective
    trainer = objective.load_trainer(project, choose_device(params.device))
    for seed in seeds:
        for side, model in models.items():
            scores[side].append(objective.score(model, trainer, lambda _: False, seed=seed))
        told = (f"{side} {goal.number_text(goal.measure(done[-1].best))}" for side, done in scores.items())
        say(f"seed {seed}: {'; '.join(told)}")
    say(confirmation.text)
    return confirmation
