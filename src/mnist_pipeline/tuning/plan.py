"""What a study is to do, checked before anything starts. Quick to import: neither TensorFlow nor Optuna."""

import json
import math
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, require
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import MADE_BY, train_file, validation_file
from mnist_pipeline.training.history import Epoch, Monitor
from mnist_pipeline.training.params import ModelParams, Params
from mnist_pipeline.tuning.params import Space, apply, fixed_values, space_of, tune_params

EPOCHS = "training.epochs"
MONITOR = "training.monitor"
"""The parameter that says which validation number chooses the best epoch: that of the goal, in every trial."""


@dataclass(frozen=True)
class Goal:
    """What is good in a trial. All numbers are those of its best epoch, on the validation split."""

    number: Monitor
    """What decides, and by which the best epoch is chosen, too: the accuracy in [0, 1] or the mean cross-entropy."""
    small: bool = False
    """Whether few weights are wanted as well: then there is no single best trial, but a Pareto front."""

    @property
    def directions(self) -> list[Literal["maximize", "minimize"]]:
        """Which way each of a trial's values should go: the number, and the weights if they count."""
        return ["maximize" if self.number == "accuracy" else "minimize", *(["minimize"] if self.small else [])]

    def measure(self, epoch: Epoch) -> float:
        """Return the number that decides."""
        return epoch.val_accuracy if self.number == "accuracy" else epoch.val_loss

    def rank(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values that count such that higher is better in each place, and the first place counts most."""
        number = values[0] if self.number == "accuracy" else -values[0]
        return (number, -values[1]) if self.small else (number,)

    def text(self, values: Sequence[float]) -> str:
        """Return the values as people read them."""
        return self.number_text(values[0]) + (f", {values[1]:,.0f} weights" if self.small else "")

    def number_text(self, value: float, sign: str = "") -> str:
        """Return the number that decides as people read it: `98.12%` or `0.0613`; with sign `+`, a difference."""
        return f"{value:{sign}.2%}" if self.number == "accuracy" else f"{value:{sign}.4f}"


GOALS = {"accuracy": Goal("accuracy"), "loss": Goal("loss"), "accuracy,parameters": Goal("accuracy", small=True)}
"""What `--objective` may say."""


@dataclass
class Plan:
    """What a study is about, and how long this session of it may run: what the user asked for, once it is checked.

    Raises:
        UserError: the space, the name, the time, the epochs or the objective cannot be used.
    """

    project: Project
    """Where the data, the study and the MLflow store are."""
    params: Params
    """All of `params.yaml`."""
    name: str
    """Name of the model."""
    study: str
    """Name of the study."""
    trials: int
    """How many must end complete, pruned or found too large, those of earlier sessions included."""
    timeout: str | None = None
    """How long trials may start, such as `30m`; None is for ever."""
    epochs: int | None = None
    """Epochs of each trial; None is the model's own number."""
    objective: str = "accuracy"
    """Name of the goal."""
    max_parameters: int | None = None
    """The most weights that a network may have; None is no limit."""
    adopt: bool = False
    """Whether the best trial is to be adopted afterwards, without anybody being asked which that is."""
    storage: str | None = None
    """Address of the database that keeps the study; None is the project's own journals."""
    until: float = field(init=False)
    """When no trial starts any more, in seconds of `time.monotonic`."""
    space: Space = field(init=False)
    """What varies."""
    model: ModelParams = field(init=False)
    """The model's current parameters, with the study's number of epochs and choice of the best one."""

    def __post_init__(self) -> None:
        """Check what was asked for."""
        self.space = space_of(self.params, self.name)
        if self.objective not in GOALS:
            raise UserError(f"--objective {self.objective!r} is not known: choose one of {'; '.join(GOALS)}.")
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", self.study):
            raise UserError(
                f"--study {self.study!r} cannot name a file: use letters, digits, - and _, 61 characters at most."
            )
        if self.epochs and EPOCHS in self.space:
            raise UserError(f"--epochs and tune.space.{self.name}.{EPOCHS} exclude each other: leave one out.")
        if MONITOR in self.space:
            raise UserError(f"tune.space.{self.name}.{MONITOR} cannot vary: --objective says which number decides.")
        if self.adopt and self.goal.small:
            raise UserError(
                f"--adopt cannot choose from the Pareto front of --objective {self.objective}: leave it out, look at "
                f"`mnist study show {self.study}`, and choose with `mnist adopt {self.study} --trial N`."
            )
        self.until = time.monotonic() + parse_duration(self.timeout) if self.timeout else math.inf
        fixed = {MONITOR: self.goal.number, **({EPOCHS: self.epochs} if self.epochs else {})}
        self.model = apply(self.params.model(self.name), fixed)

    @property
    def goal(self) -> Goal:
        """What is good."""
        return GOALS[self.objective]

    @property
    def is_time_up(self) -> bool:
        """Whether no further trial may start."""
        return time.monotonic() >= self.until

    @property
    def pruner(self) -> Literal["percentile", "hyperband", "none"]:
        """Which trials stop early: none where two values decide, because accuracy alone says little then."""
        return "none" if self.goal.small else tune_params(self.params).pruner

    def definition(self) -> dict[str, Any]:
        """Return all that makes the study this one and not another, as flat JSON.

        The current values of what varies are no part of it: adopting the winner must not end the study.
        """
        data = [train_file(self.project.split), validation_file(self.project.split)]
        return {
            "model": self.name,
            "objective": self.objective,
            "max_parameters": self.max_parameters or "none",
            "seed": self.params.seed,
            **{f"data.{file.stem}": file_digest(require(file, MADE_BY)) for file in data},
            **fixed_values(self.space, self.model),
            **{
                f"space.{path}": json.dumps(values.model_dump(exclude_defaults=True))
                for path, values in self.space.items()
            },
        }


def parse_duration(text: str) -> float:
    """Return the seconds in `90s`, `30m`, `2h` or `1h30m`; a UserError says if it is none of these, or zero."""
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := hours * 3600 + minutes * 60 + seconds):
        raise UserError(f"--timeout {text!r} is not a time: write it like 90s, 30m, 2h or 1h30m.")
    return float(total)


def amount(number: float, thing: str) -> str:
    """Return how many of a thing there are, such as `1 worker` or `0.5 GPUs`."""
    return f"{number:g} {thing}{'' if number == 1 else 's'}"
