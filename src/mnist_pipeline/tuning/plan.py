"""What a study is to do, checked before anything starts. Quick to import: neither TensorFlow nor Optuna."""

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import file_digest, require
from mnist_pipeline.params import ModelParams, Params
from mnist_pipeline.project import Project
from mnist_pipeline.tuning.goal import Goal, find_goal
from mnist_pipeline.tuning.space import Space, apply, fixed_values, space_of

SUBSETS = ("train", "validation")
"""The data that a study reads. The test split is not for choosing."""
EPOCHS = "training.epochs"
MONITOR = "training.monitor"
"""The parameter that says which validation number chooses the best epoch: that of the goal, in every trial."""
SPACE = "space."
"""Prefix of the ranges in a definition."""


@dataclass(frozen=True)
class Plan:
    """All that a worker needs to know; it can be sent to another process."""

    project: Project
    params: Params
    name: str
    """Of the model."""
    model: ModelParams
    """Its current parameters, with the study's number of epochs and choice of the best one."""
    space: Space
    """What varies."""
    goal: Goal
    """What is good."""
    max_parameters: int | None
    """The most weights that a network may have; None is no limit."""
    study: str
    """Name of the study."""
    trials: int
    """How many must end complete, pruned or found too large."""
    timeout: str | None
    """How long trials may start, as the user wrote it; None is for ever."""
    until: float | None
    """So no trial starts after this (seconds since 1970)."""

    @property
    def file(self) -> Path:
        """The study's journal, which `optuna-dashboard` reads too."""
        return self.project.studies / f"{self.study}.log"

    @property
    def is_time_up(self) -> bool:
        """Whether no further trial may start."""
        return self.until is not None and time.time() >= self.until

    @property
    def length(self) -> str:
        """How long one trial may be, in words."""
        epochs = self.model.training.epochs
        return f"{epochs} epoch{'' if epochs == 1 else 's'} each at most"

    @property
    def budget(self) -> str:
        """What the study may cost, in words."""
        limits = [f"{self.trials} trials", self.length]
        return ", ".join([*limits, f"{self.timeout} at most"] if self.timeout else limits)

    @property
    def pruner(self) -> Literal["percentile", "hyperband", "none"]:
        """Which trials stop early: none where two values decide, because accuracy alone says little then."""
        return "none" if self.goal.small else self.params.tune.pruner

    def check_adoptable(self) -> None:
        """Check that the study will have one best trial, which can be adopted without being asked for.

        Raises:
            UserError: it will have a Pareto front.
        """
        if self.goal.small:
            raise UserError(
                f"--adopt cannot choose from the Pareto front of --objective {self.goal.name}: leave it out, look at "
                f"`mnist study show {self.study}`, and choose with `mnist adopt {self.study} --trial N`."
            )

    def definition(self) -> dict[str, Any]:
        """Return what makes this study this one and not another, as flat JSON.

        The current values of what varies are no part of it: adopting the winner must not end the study.
        """
        data = {subset: require(self.project.split / f"{subset}.npz", "mnist split") for subset in SUBSETS}
        return {
            "model": self.name,
            "objective": self.goal.name,
            "max_parameters": self.max_parameters or "none",
            "seed": self.params.seed,
            **{f"data.{subset}": file_digest(file) for subset, file in data.items()},
            **fixed_values(self.space, self.model),
            **{f"{SPACE}{path}": text for path, text in self.space_as_text().items()},
        }

    def space_as_text(self) -> dict[str, str]:
        """Return each range as JSON."""
        return {path: json.dumps(values.model_dump(exclude_defaults=True)) for path, values in self.space.items()}


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
) -> Plan:
    """Check what the user asked for.

    Args:
        project: whose data and store.
        params: all of `params.yaml`.
        name: of the model.
        trials: how many must end complete, pruned or found too large, those of earlier sessions included.
        timeout: how long trials may start, such as `30m`; None is for ever.
        study: its name; the model's if None.
        epochs: of each trial; the model's own if None.
        objective: the name of a goal.
        max_parameters: the most weights that a network may have.

    Raises:
        UserError: the space, the name, the time, the epochs or the objective cannot be used.
    """
    space, goal = space_of(params, name), find_goal(objective)
    study = study or name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,60}", study):
        raise UserError(f"--study {study!r} cannot name a file: use letters, digits, - and _, 61 characters at most.")
    if epochs and EPOCHS in space:
        raise UserError(f"--epochs and tune.space.{name}.{EPOCHS} exclude each other: leave one out.")
    if MONITOR in space:
        raise UserError(f"tune.space.{name}.{MONITOR} cannot vary: --objective says which number decides.")
    return Plan(
        project=project,
        params=params,
        name=name,
        model=apply(params.model(name), {MONITOR: goal.number, **({EPOCHS: epochs} if epochs else {})}),
        space=space,
        goal=goal,
        max_parameters=max_parameters,
        study=study,
        trials=trials,
        timeout=timeout,
        until=time.time() + parse_duration(timeout) if timeout else None,
    )


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
