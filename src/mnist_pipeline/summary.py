"""`mnist summary`: what is trained, how good it is, and what to do with it."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from mnist_pipeline.core.console import console, say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import read_json
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params

COLUMNS = {
    "validation accuracy": ("val_accuracy", "{:.2%}"),
    "test accuracy": ("test_accuracy", "{:.2%}"),
    "parameters": ("parameters", "{:,}"),
}
"""Key in `metrics.json`, and form, of what each column shows."""
NEXT_STEPS = {
    "ui": "browse the runs and the registered model in MLflow",
    "tune cnn --trials 20": "search better hyperparameters with Optuna",
    "predict data/raw/t10k-images-idx3-ubyte --index 0": "read a digit with the best model",
}
"""What to type after `mnist`, and why."""


def show(project: Project, params: Params) -> None:
    """Print one row per model of `train` in `params.yaml` and the next steps.

    Raises:
        UserError: nothing is trained yet.
    """
    trained = {name: _results(project, name) for name in params.train}
    if not any(trained.values()):
        raise UserError("No model is trained yet: run `dvc repro` (or `make run`) first.")
    best = read_json(project.best, "mnist register")["model"] if project.best.exists() else None
    table = Table("model", title="Trained models", title_justify="left")
    for heading in COLUMNS:
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, results in trained.items():
        cells = [form.format(results[key]) if key in results else "-" for key, form in COLUMNS.values()]
        table.add_row(name, *cells, "best" if name == best else "")
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


def _results(project: Project, name: str) -> dict[str, Any]:
    """Return what the model's report says; empty where it is not trained and evaluated."""
    path = project.metrics(name)
    return read_json(path, f"mnist evaluate {name}") if path.exists() and project.model_file(name).exists() else {}
