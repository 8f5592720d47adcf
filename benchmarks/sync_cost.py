"""What `mnist sync` costs where there is nothing to do, against loading MLflow: see README.md."""

import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from bench import Grid, Statistic, describe, machine, versions
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import say
from mnist_pipeline.project import find_project

LIMIT = 1.5
"""Times `import mlflow` that a sync may take."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(rounds: Annotated[int, typer.Option(min=1, help="How often to measure each.")] = 5) -> None:
    """Take turns between `import mlflow`, `mnist sync` with nothing to do, and one that has to ask the store."""
    project = find_project()
    mnist = str(Path(sys.executable).with_name("mnist"))
    note = project.artifacts / ".synced"
    _seconds(mnist, "sync")  # whatever there is to do
    loading, settled, asking = list[float](), list[float](), list[float]()
    for _ in range(rounds):
        loading.append(_seconds(sys.executable, "-c", "import mlflow"))
        settled.append(_seconds(mnist, "sync"))
        note.unlink(missing_ok=True)  # as after a training, or where the store is a server
        asking.append(_seconds(mnist, "sync"))
    one = Statistic.of(loading)
    rows = [["import mlflow", one.text(".2f"), "", ""]]
    for what, values in (("mnist sync, nothing changed", settled), ("mnist sync, store asked", asking)):
        times = Statistic.of([value / base for value, base in zip(values, loading, strict=True)])
        rows.append([what, Statistic.of(values).text(".2f"), times.text(".2f"), f"at most {LIMIT}"])
    Grid(f"Sync, {rounds} rounds", ("", "seconds", "times import mlflow", "target"), rows).show()
    say(describe(machine(), versions()))


def _seconds(*command: str) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    run_command(app)
