"""Time and memory of reading a folder of pictures, by their number: see README.md."""

import os
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from PIL import Image
from ruamel.yaml import YAML

from bench import RESULTS, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.project import find_project
from tables import Grid, publish

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

CLASSES = tuple("0123456789")
STAGES = ("download", "split", "normalize")


@app.command()
def main(
    counts: Annotated[str, typer.Option(help="How many pictures, separated by commas.")] = "20000,200000",
    results: Annotated[Path, typer.Option(help="Where to write the table.")] = RESULTS / "pictures.md",
) -> None:
    """Measure the stages before training on random PNG files of 28x28 pixels, in ten folders."""
    rows = list[list[str]]()
    for count in map(int, counts.split(",")):
        with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
            write_project(Path(folder), count)
            measured = [measure(Path(folder), stage) for stage in STAGES]
        rows.append([f"{count:,}", *(f"{seconds:.0f} s, {memory / 1e6:,.0f} MB" for seconds, memory in measured)])
    notes = (machine(), "Wall time and most memory ever resident, of one process each, imports included; n = 1.")
    publish(results, Grid("Pictures of 28x28 pixels", ("pictures", *STAGES), rows), notes)


def write_project(folder: Path, count: int) -> None:
    """Write `count` pictures, and the project's params.yaml with them as its data."""
    random = np.random.default_rng(0)
    for name in CLASSES:
        (folder / "pictures" / name).mkdir(parents=True)
    for index in range(count):
        image = Image.fromarray(random.integers(0, 256, (28, 28), dtype=np.uint8))
        image.save(folder / "pictures" / CLASSES[index % len(CLASSES)] / f"{index}.png", compress_level=1)
    yaml = YAML()
    content = yaml.load(find_project().params)
    source = {"format": "folder", "path": "pictures", "background": "black", "test_share": 0.15}
    content["data"] |= {"classes": [*CLASSES], "image_size": [28, 28], "source": source}
    yaml.dump(content, folder / "params.yaml")


def measure(folder: Path, stage: str) -> tuple[float, int]:
    """Run a stage in a process of its own; return its seconds, and the most bytes that were ever resident."""
    started = time.perf_counter()
    process = subprocess.Popen(("mnist", stage), cwd=folder, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return time.perf_counter() - started, usage.ru_maxrss * 1024


if __name__ == "__main__":
    run_command(app)
