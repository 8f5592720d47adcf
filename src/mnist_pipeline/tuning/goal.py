"""What a study is to reach: which number decides, and in which direction. Nothing here knows Optuna."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from mnist_pipeline.errors import UserError
from mnist_pipeline.training.history import Epoch


@dataclass(frozen=True)
class Goal:
    """What is good in a trial. All numbers are those of its best epoch, on the validation split."""

    name: str
    """As `--objective` has it."""
    number: Literal["accuracy", "loss"]
    """What decides, and by which the best epoch is chosen, too: the accuracy in [0, 1] or the mean cross-entropy."""
    small: bool
    """Whether few weights are wanted as well: then there is no single best trial, but a Pareto front."""

    @property
    def metric(self) -> str:
        """The number, by the name that it has in a history and in MLflow."""
        return f"validation_{self.number}"

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Which way each of a trial's values should go."""
        return ["maximize" if self.number == "accuracy" else "minimize", *(["minimize"] if self.small else [])]

    def measure(self, epoch: Epoch) -> float:
        """Return the number that decides."""
        return epoch.validation_accuracy if self.number == "accuracy" else epoch.validation_loss

    def values(self, best: Epoch, weights: int) -> list[float]:
        """Return the values of a trial with this best epoch and so many weights."""
        return [self.measure(best), *([float(weights)] if self.small else [])]

    def rank(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values such that higher is better in each place, and the first place counts most."""
        return tuple(value if way == "maximize" else -value for value, way in zip(values, self.directions, strict=True))

    def improves(self, new: Sequence[float], old: Sequence[float]) -> bool:
        """Say whether the new values are better than the old ones; of two values, one has to be."""
        return any(mine > other for mine, other in zip(self.rank(new), self.rank(old), strict=True))

    def text(self, values: Sequence[float]) -> str:
        """Return the values as people read them."""
        return self.number_text(values[0]) + (f", {values[1]:,.0f} weights" if self.small else "")

    def number_text(self, value: float) -> str:
        """Return the number that decides as people read it: `98.12%` or `0.0613`."""
        return f"{value:.2%}" if self.number == "accuracy" else f"{value:.4f}"

    def difference_text(self, difference: float) -> str:
        """Return a difference of two such numbers, with its sign."""
        return f"{difference:+.2%}" if self.number == "accuracy" else f"{difference:+.4f}"


GOALS = {
    goal.name: goal
    for goal in (
        Goal("accuracy", "accuracy", small=False),
        Goal("loss", "loss", small=False),
        Goal("accuracy,parameters", "accuracy", small=True),
    )
}
"""By what `--objective` may say."""


def find_goal(name: str) -> Goal:
    """Return the goal of that name.

    Raises:
        UserError: there is none.
    """
    if name not in GOALS:
        raise UserError(f"--objective {name!r} is not known: choose one of {'; '.join(GOALS)}.")
    return GOALS[name]
