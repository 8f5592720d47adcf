"""`mnist summary`: what is trained, how good it is, and what to do with it."""

import os
import sys
from pathlib import Path
from typing import Any

from rich.table import Table

from mnist_pipeline.console import console
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import read_json
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project

NEXT_STEPS = (
    ("ui", "browse the runs and the registered model in MLflow"),
    ("tune cnn --trials 20", "search better hyperparameters with Optuna"),
    ("predict data/raw/t10k-images-idx3-ubyte --index 0", "read a digit with the best model"),
)
"""What to type after `mnist`, and why."""


def show(project: Project, params: Params) -> None:
    """Print one row per model of `train` in `params.yaml` and the next steps.

    Raises:
        UserError: nothing is trained yet.
    """
    rows = {name: _results(project, name) for name in params.train}
    if not any(rows.values()):
        raise UserError("No model is trained yet: run `dvc repro` (or `make run`) first.")
    best = read_json(project.champion, "mnist register")["model"] if project.champion.exists() else None
    table = Table(title="Trained models", title_justify="left")
    table.add_column("model")
    for heading in ("validation accuracy", "test accuracy", "parameters", "training seconds"):
        table.add_column(heading, justify="right")
    table.add_column("")
    for name, results in rows.items():
        table.add_row(name, *_cells(results), "best" if name == best else "")
    console().print(table)
    width = max(len(arguments) for arguments, _ in NEXT_STEPS)
    console().print("Next:")
    for arguments, purpose in NEXT_STEPS:
        console().print(f"  {_mnist()} {arguments:<{width}}   {purpose}", markup=False)


def _mnist() -> str:
    """Return how this user can type `mnist`: after `make run` nobody has activated the environment yet."""
    command = Path(sys.executable).with_name("mnist")
    if os.environ.get("VIRTUAL_ENV") or not command.is_relative_to(Path.cwd()):
        return "mnist"
    return str(command.relative_to(Path.cwd()))


def _results(project: Project, name: str) -> dict[str, Any]:
    """Return what the model's files say; empty where it is not trained."""
    results: dict[str, Any] = {}
    for file in ("metrics.json", "evaluation.json"):
        path = project.model(name) / file
        results |= read_json(path, f"mnist train {name}") if path.exists() else {}
    return results


def _cells(results: dict[str, Any]) -> list[str]:
    formats = {
        "validation_accuracy": "{:.2%}",
        "test_accuracy": "{:.2%}",
        "parameters": "{:,}",
        "seconds": "{:.0f}",
    }
    return [form.format(results[key]) if key in results else "-" for key, form in formats.items()]
