"""How much of `dvc repro` is training and imports: see README.md."""

import os
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from bench import HERE, RESULTS, clone, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.tracking.store import find_runs
from tables import Grid, Statistic, publish

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class Turn:
    """Seconds of one `dvc repro --force`."""

    whole: float
    """From the command to its end."""
    fits: float
    """Of all trainings, as their runs have them: from building the model to the last epoch."""
    imports: float
    """Of all Python modules, in the processes of DVC and of all stages."""


@app.command()
def main(
    repetitions: Annotated[int, typer.Option(min=1, help="Of the pipeline.")] = 3,
    results: Annotated[Path, typer.Option(help="Where to write the table.")] = RESULTS / "whole_pipeline.md",
) -> None:
    """Time the pipeline of the last commit in new clones. Run it inside the project, after `make run`."""
    project, turns = find_project(), list[Turn]()
    for _ in range(repetitions):
        with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
            copy = clone(project, Path(folder) / "clone")
            shutil.copytree(project.raw, copy.raw)
            turns.append(one := measure(copy))
        say(f"{one.whole:.0f} s, of which {one.fits:.0f} s for trainings and {one.imports:.0f} s for imports")
    ratios = [one.whole / (one.fits + one.imports) for one in turns]
    rows = [
        ["`dvc repro --force`, s", Statistic.of([one.whole for one in turns]).text(".1f")],
        ["its trainings, s", Statistic.of([one.fits for one in turns]).text(".1f")],
        ["its imports, s", Statistic.of([one.imports for one in turns]).text(".1f")],
        ["whole / (trainings + imports)", Statistic.of(ratios).text(".3f")],
    ]
    notes = (machine(), f"Mean ± standard deviation, n = {repetitions}. The data are there and are verified.")
    publish(results, Grid("The whole pipeline", ("", ""), rows), notes)


def measure(project: Project) -> Turn:
    """Run the pipeline of a project that has no runs yet.

    Raises:
        UserError: it failed.
    """
    from mlflow import MlflowClient

    imports = project.root.with_name("imports")
    variables = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    path = os.pathsep.join([str(HERE / "import_clock"), *filter(None, [variables.get("PYTHONPATH")])])
    started = time.perf_counter()
    done = subprocess.run(
        ("dvc", "repro", "--force"),
        cwd=project.root,
        env={**variables, "PYTHONPATH": path, "IMPORT_SECONDS": str(imports)},
        capture_output=True,
        text=True,
        check=False,
    )
    whole = time.perf_counter() - started
    if done.returncode:
        raise UserError(f"`dvc repro --force` failed in a clone: {(done.stdout + done.stderr)[-500:]}")
    runs = find_runs(MlflowClient(f"sqlite:///{project.tracking_database}"), project, "")
    fits = sum(run.data.metrics["training_seconds"] for run in runs)
    return Turn(whole, fits, sum(map(float, imports.read_text(encoding="utf-8").split())))


if __name__ == "__main__":
    run_command(app)
