"""Seconds of the commands that people wait for, imports included: see README.md."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image

from bench import RESULTS, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.project import find_project
from mnist_pipeline.data.dataset import load_validation
from tables import Grid, Statistic, publish

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

COMMANDS = (
    "mnist --help", "mnist models", "mnist predict DIGIT.png", "mnist predict --model cnn DIGIT.png", "dvc status",
    "dvc repro",
)  # fmt: skip
"""`dvc status` checks what `dvc repro` checks, and starts nothing."""


@app.command()
def main(
    repetitions: Annotated[int, typer.Option(min=1, help="Of each command, after one that is not counted.")] = 5,
    results: Annotated[Path, typer.Option(help="Where to write the table.")] = RESULTS / "start_up.md",
) -> None:
    """Time commands in turns, warm. Run it inside the project, after `make run`, so that `dvc repro` has no work."""
    project = find_project()
    seconds = {command: list[tuple[float, float]]() for command in COMMANDS}
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        Image.fromarray(load_validation(project.split).images[0]).save(digit := Path(folder) / "digit.png")
        for _ in range(repetitions + 1):
            for command, measured in seconds.items():
                measured.append(measure(command.replace("DIGIT.png", str(digit)).split(), project.root))
    rows = [
        [command, *(Statistic.of(column).text(".2f") for column in zip(*measured[1:], strict=True))]
        for command, measured in seconds.items()
    ]
    notes = (machine(), f"Mean ± standard deviation, n = {repetitions}, of one process each, after one to warm up.")
    publish(results, Grid("Start-up of commands", ("", "s", "CPU s"), rows), notes)


def measure(command: list[str], root: Path) -> tuple[float, float]:
    """Run a command in the project; return its wall and its processor seconds.

    Raises:
        CalledProcessError: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen(command, cwd=root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)
    return time.perf_counter() - started, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run_command(app)
