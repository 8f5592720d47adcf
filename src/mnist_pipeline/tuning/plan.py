"""What a study is to do, checked before anything starts. Quick to import: neither TensorFlow nor Optuna."""

import json
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, require
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import MADE_BY, train_file, validation_file
from mnist_pipeline.training.history import Epoch, Monitor
from mnist_pipeline.training.params import ModelParams, Params
from mnist_pipeline.tuning.params import tune_params
from mnist_pipeline.tuning.space import Space, apply, fixed_values, space_of

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
        return epoch.validation_accuracy if self.number == "accuracy" else epoch.validation_loss

    def rank(self, values: Sequence[float]) -> tuple[float, ...]:
        """Return the values that count such that higher is better in each place, and the first place counts most."""
        signed = zip(values, self.directions, strict=False)  # weights may be there that do not count
        return tuple(value if direction == "maximize" else -value for value, direction in signed)

    def text(self, values: Sequence[float]) -> str:
        """Return the values as people read them."""
        return self.number_text(values[0]) + (f", {values[1]:,.0f} weights" if self.small else "")

    def number_text(self, value: float, sign: str = "") -> str:
        """Return the number that decides as people read it: `98.12%` or `0.0613`; with sign `+`, a difference."""
        return f"{value:{sign}.2%}" if self.number == "accuracy" else f"{value:{sign}.4f}"


GOALS = {"accuracy": Goal("accuracy"), "loss": Goal("loss"), "accuracy,parameters": Goal("accuracy", small=True)}
"""What `--objective` may say."""


@dataclass(frozen=True)
class Plan:
    """What a study is about, and how long this session of it may run."""

    project: Project
    """Where the data, the study and the MLflow store are."""
    params: Params
    """All of `params.yaml`."""
    name: str
    """Name of the model."""
    model: ModelParams
    """Its current parameters, with the study's number of epochs and choice of the best one."""
    space: Space
    """What varies."""
    objective: str
    """Name of the goal."""
    max_parameters: int | None
    """The most weights that a network may have; None is no limit."""
    study: str
    """Name of the study."""
    trials: int
    """How many must end complete, pruned or found too large, those of earlier sessions included."""
    timeout: str | None
    """How long trials may start, as the user wrote it, such as `30m`; None is for ever."""
    until: float | None
    """When no trial starts any more, in seconds of `time.monotonic`."""
    storage: str | None = None
    """Address of the database that keeps the study; None is the project's own journals."""

    @property
    def goal(self) -> Goal:
        """What is good."""
        return GOALS[self.objective]

    @property
    def is_time_up(self) -> bool:
        """Whether no further trial may start."""
        return self.until is not None and time.monotonic() >= self.until

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


def make_plan(
    project: Project,
    params: Params,
    name: str,
    *,
    trials: int,
    timeout: str | None = None,
    study: str | None = None,
    epochs: int | None = None,
    objective: str = "accuracy",
    max_parameters: int | None = None,
    adopt: bool = False,
    storage: str | None = None,
) -> Plan:
    """Check what the user asked for; what each argument means stands at the field of `Plan`.

    A study without a name has the model's, trials without a number of epochs have the model's own, and `adopt` says
    that the study's best trial is to be adopted without being asked for.

    Raises:
        UserError: the space, the name, the time, the epochs or the objective cannot be used.
    """
    space, study = space_of(params, name), study or name
    if objective not in GOALS:
        raise UserError(f"--objective {objective!r} is not known: choose one of {'; '.join(GOALS)}.")
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", study):
        raise UserError(f"--study {study!r} cannot name a file: use letters, digits, - and _, 61 characters at most.")
    if epochs and EPOCHS in space:
        raise UserError(f"--epochs and tune.space.{name}.{EPOCHS} exclude each other: leave one out.")
    if MONITOR in space:
        raise UserError(f"tune.space.{name}.{MONITOR} cannot vary: --objective says which number decides.")
    if adopt and GOALS[objective].small:
        raise UserError(
            f"--adopt cannot choose from the Pareto front of --objective {objective}: leave it out, look at "
            f"`mnist study show {study}`, and choose with `mnist adopt {study} --trial N`."
        )
    fixed = {MONITOR: GOALS[objective].number, **({EPOCHS: epochs} if epochs else {})}
    model, until = apply(params.model(name), fixed), time.monotonic() + parse_duration(timeout) if timeout else None
    return Plan(project, params, name, model, space, objective, max_parameters, study, trials, timeout, until, storage)


def parse_duration(text: str) -> float:
    """Return the seconds in `90s`, `30m`, `2h` or `1h30m`.

    Raises:
        UserError: it is none of these, or zero.
    """
    found = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?", text)
    hours, minutes, seconds = (int(part or 0) for part in found.groups()) if found else (0, 0, 0)
    if not (total := hours * 3600 + minutes * 60 + seconds):
        raise UserError(f"--timeout {text!r} is not a time: write it like 90s, 30m, 2h or 1h30m.")
    return float(total)
