"""How many trials at once one driver can look after, and what it spends its time on: see README.md."""

import json
from pathlib import Path
from typing import Annotated

import psutil
import typer

from bench import HERE, RESULTS, Record, machine, measure_missing
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.project import find_project
from mnist_pipeline.training.checkpoint import training_key
from mnist_pipeline.tuning.worker import code_here
from one_scaling import REPORTS, ScalingJob
from tables import Grid, publish

STORAGES = ("journal", "postgres")
"""Where studies are kept; the database runs on the same machine."""
ROUNDS = 5
"""Trials of each worker."""
app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    workers: Annotated[str, typer.Option(help="Trials at once, separated by commas.")] = "1,4,16,64,256",
    seconds: Annotated[float, typer.Option(min=0.1, help="How long a trial sleeps.")] = 10,
    finished: Annotated[int, typer.Option(min=50, help="Trials after which one is measured again.")] = 1_000,
    results: Annotated[Path, typer.Option(help="JSON lines, one per study; two .md go beside it.")] = (
        RESULTS / "cluster_scaling.jsonl"
    ),
) -> None:
    """Run studies of trials that sleep, and time the driver.

    Run it inside the project, after `dvc repro`. Every study is written down as it ends; the same command goes on where
    an interrupted one stopped.
    """
    counts = [int(count) for count in workers.split(",")]
    root = str(find_project().root)
    scaling = [(storage, count, ROUNDS * count, seconds) for storage in STORAGES for count in counts]
    growing = [(storage, 4, finished + 50, 0.0) for storage in STORAGES]
    jobs = [job_of(root, *terms) for terms in (*scaling, *growing)]
    records = measure_missing(jobs, HERE / "one_scaling.py", results, told)
    memory = f"{psutil.virtual_memory().total / 2**30:.0f} GB of memory"
    notes = [
        f"{machine()}, {memory}. A trial sleeps, reports {REPORTS} times, and has a run in MLflow (SQLite); it is "
        "asked of TPE over the space of mlp. Driver, workers and database share the machine.",
        "Milliseconds of the driver per trial, by what it calls; time in which it waits for workers is left out.",
    ]
    publish(results.with_suffix(".md"), scaling_table(records, seconds), notes)
    publish(results.with_name(f"{results.stem}_growth.md"), growth_table(records, finished), notes)


def job_of(root: str, storage: str, workers: int, trials: int, seconds: float) -> ScalingJob:
    """Return a study to measure."""
    terms = json.dumps([workers, trials, seconds])
    key = training_key({"machine": machine(), "code": json.dumps(code_here()), "terms": terms})[:16]
    return ScalingJob(storage, 0, key, root, workers, trials, seconds)


def told(record: Record) -> str:
    """Return what came of a study, in a few words."""
    return f"{record['workers']:3} workers  {record['share']:.1%} of the time  {sum(record['late'].values()):.0f} ms"


def scaling_table(records: list[Record], seconds: float) -> Grid:
    """Return one row per study: what part of their time the workers were training, and the driver's time per trial."""
    found = [record for record in records if record["seconds"]]
    kinds = sorted({kind for record in found for kind in record["late"]})
    rows = [
        [
            record["contestant"],
            str(record["workers"]),
            f"{record['per_second']:.2f}",
            f"{record['share']:.1%}",
            f"{record['ready_seconds']:.0f}",
            f"{sum(record['late'].values()):.1f}",
            *(f"{record['late'].get(kind, 0):.1f}" for kind in kinds),
        ]
        for record in found
    ]
    headings = ("study in", "workers", "trials/s", "of the ideal", "s to start", "ms per trial", *kinds)
    return Grid(f"Trials of {seconds:g} s", headings, rows)


def growth_table(records: list[Record], finished: int) -> Grid:
    """Return what a trial costs the driver at the beginning of a long study and at its end."""
    found = [record for record in records if not record["seconds"]]
    kinds = sorted({kind for record in found for kind in record["late"]})
    rows = [
        [record["contestant"], str(ended), f"{sum(costs.values()):.1f}", *(f"{costs.get(k, 0):.1f}" for k in kinds)]
        for record in found
        for ended, costs in ((10, record["early"]), (finished, record["late"]))
    ]
    return Grid("Cost of a trial as a study grows", ("study in", "finished", "ms per trial", *kinds), rows)


if __name__ == "__main__":
    run_command(app)
