"""`mnist summary`: what is trained, how good it is, and what to do with it."""

import os
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mnist_pipeline.core.console import console, say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.registry.candidate import read_best
from mnist_pipeline.training.params import Params

NEXT_STEPS = {
    "ui": "browse the runs and the registered model in MLflow",
    "tune cnn --trials 20": "search better hyperparameters with Optuna",
    "predict data/raw/t10k-images-idx3-ubyte --index 0": "classify a test image with the champion",
}
"""What to type after `mnist`, and why."""


@dataclass(frozen=True)
class Results:
    """What `reports/<model>/metrics.json` says, as far as it is shown."""

    val_accuracy: float
    """Share of the validation images that the model read rightly."""
    test_accuracy: float
    """Share of the test images that it read rightly."""
    parameters: int
    """Number of weights."""


def show(project: Project, params: Params) -> None:
    """Print one row per model of `train` in `params.yaml` and the next steps; a UserError says that none is trained."""
    trained = {name: _results(project, name) for name in params.train}
    if not any(trained.values()):
        raise UserError("No model is trained yet: run `dvc repro` (or `make run`) first.")
    best = read_best(project)
    table = Table("model", title="Trained models", title_justify="left")
    for heading in ("validation accuracy", "test accuracy", "parameters"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, of in trained.items():
        cells = (f"{of.val_accuracy:.2%}", f"{of.test_accuracy:.2%}", f"{of.parameters:,}") if of else ("-", "-", "-")
        table.add_row(name, *cells, "best" if best and name == best.model else "")
    console().print(table)
    width = max(map(len, NEXT_STEPS))
    say("Next:")
    for arguments, purpose in NEXT_STEPS.items():
        say(f"  {_mnist()} {arguments:<{width}}   {purpose}")


def _mnist() -> str:
    """Return how this user can type `mnist`: after `make run` nobody has activated the environment yet."""
    command = Path(sys.executable).with_name("mnist")
    if os.environ.get("VIRTUAL_ENV") or not command.is_relative_to(Path.cwd()):
        return "mnist"
    return str(command.relative_to(Path.cwd()))


def _results(project: Project, name: str) -> Results | None:
    """Return what the model's report says; None where it is not trained and evaluated."""
    if not (project.metrics(name).exists() and project.model_file(name).exists()):
        return None
    return read_json(project.metrics(name), Results, f"mnist evaluate {name}")
