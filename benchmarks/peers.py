"""Our `cnn` against what a user would pick instead, on this machine, in turns: see README.md.

PyTorch and JAX are no part of the project: each has an environment of its own, anywhere outside it.

    python -m venv torch && torch/bin/pip install torch==2.13.0 numpy
    python -m venv jax && jax/bin/pip install jax==0.10.2 keras==3.15.1
    python benchmarks/peers.py --torch torch/bin/python --jax jax/bin/python

The table in docs/ has PyTorch's build for CPUs, where pip may install that for CUDA, which runs on a CPU, too.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from bench import HERE, RESULTS, Job, Record, by_contestant, machine, measure_missing
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import find_project
from mnist_pipeline.training.params import load_params
from one_peer import PEERS
from tables import Grid, Statistic, publish
from time_to_accuracy import job_of

IN_FLOAT32 = [name for name in PEERS if not name.endswith("bfloat16")]
"""The peers that any processor may train; `choose_device` refuses bfloat16 where it does not pay."""
GOAL = 0.99
"""Validation accuracy whose time is taken."""
HEADINGS = (
    "", "n", "epochs", "s per epoch", f"s to {GOAL:.1%}", "training s", "validation %", "test %", "peak MB",
)  # fmt: skip
NOTES = (
    "Mean ± standard deviation over the seeds, each training in a process of its own. All learn from the 55,000 images "
    "of the pipeline's train split, in float32 where the name has no other precision. The time starts before the "
    "network is built and includes compilation and validation on the 5,000 images of the validation split; imports and "
    "preparing the pixels are left out.",
    "s per epoch: of all but the first, in which some compile. s to the goal: to the end of the first epoch that "
    "reaches it on validation. The test accuracy is that of the weights handed over: the best on validation (cnn, "
    "torch_cnn), the last (the others). It chose nothing. Peak MB is the memory of the process.",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass(frozen=True)
class PeerJob(Job):
    """One training of a peer."""

    epochs: int | None
    """At most; all of the recipe if None."""
    images: int | None
    """Of each subset, at most; all if None."""


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each peer, with seeds 0, 1, ...")] = 1,
    only: Annotated[str, typer.Option(help=f"Peers, with commas; there are {', '.join(PEERS)}.")] = ",".join(
        IN_FLOAT32
    ),
    torch: Annotated[str, typer.Option(envvar="TORCH_PYTHON", help="Interpreter that has PyTorch.")] = "",
    jax: Annotated[str, typer.Option(envvar="JAX_PYTHON", help="Interpreter that has Keras and JAX.")] = "",
    results: Annotated[Path, typer.Option(help="JSON lines, one per training; an .md goes beside it.")] = (
        RESULTS / "peers.jsonl"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many, to try the benchmark out.")] = None,
    images: Annotated[int | None, typer.Option(min=1, help="Of each subset, to try the benchmark out.")] = None,
) -> None:
    """Measure seconds per epoch and to 99 %, accuracy and memory of our cnn and its peers, round by round.

    Run it inside the project, after `dvc repro`. Every training is written down as it ends; the same command goes on
    where an interrupted one stopped.
    """
    names = [name.strip() for name in only.split(",")]
    commands = {name: command_of(name, {"torch": torch, "jax": jax}) for name in names}
    jobs = [job_of_peer(name, commands[name], epochs, images) for name in names]
    rounds = [replace(job, seed=seed) for seed in range(seeds) for job in jobs]
    records = by_contestant(measure_missing(rounds, HERE / "one_peer.py", results, result_of, commands))
    versions = [f"{name}: {found[0]['version']}." for name, found in records.items()]
    trial = ["A TRIAL (--epochs or --images): these numbers say nothing about the peers."] if epochs or images else []
    grid = Grid("Peers on the same machine", HEADINGS, [row(*found) for found in records.items()])
    publish(results.with_suffix(".md"), grid, [*trial, machine(), *versions, *NOTES])


def command_of(name: str, interpreters: dict[str, str]) -> Sequence[str]:
    """Return how to start a peer's Python; nothing is our own.

    Raises:
        UserError: there is no such peer, or its interpreter was not given.
    """
    if name not in PEERS:
        raise UserError(f"--only {name}: there is no such peer; there are: {', '.join(PEERS)}.")
    package = PEERS[name][1]
    if package not in interpreters:
        return ()
    if not (python := interpreters[package]):
        raise UserError(
            f"{name} needs a Python that has {package}: make one as benchmarks/peers.py begins, and give it by "
            f"--{package} or {package.upper()}_PYTHON, or leave {name} out by --only."
        )
    return ("env", f"KERAS_BACKEND={package}", python)


def job_of_peer(name: str, command: Sequence[str], epochs: int | None, images: int | None) -> PeerJob:
    """Return the first training of a peer. Its key is another one as soon as our trainer, `cnn` or the data are."""
    project = find_project()
    ours = job_of(project, load_params(project.params), "cnn", None).key
    terms = [ours, *command, images, epochs, *(file_digest(HERE / file) for file in ("one_peer.py", "recipes.py"))]
    key = hashlib.sha256(json.dumps(terms).encode()).hexdigest()[:16]
    return PeerJob(name, 0, key, str(project.root), epochs, images)


def result_of(record: Record) -> str:
    """Return what came of a training, in a few words."""
    return f"{record['seconds'][-1]:7.1f} s  validation accuracy {record['validation_accuracy']:.2%}"


def row(name: str, records: Sequence[Record]) -> list[str]:
    """Return what the seeds of one peer came to, as text for `HEADINGS`."""
    per_epoch = [(one[-1] - one[0]) / (len(one) - 1) for record in records if len(one := record["seconds"]) > 1]
    reached = [seconds for record in records if (seconds := seconds_to_goal(record))]
    some = f" ({len(reached)} of {len(records)})" if 0 < len(reached) < len(records) else ""
    return [
        name,
        str(len(records)),
        str(len(records[0]["seconds"])),
        Statistic.of(per_epoch).text(".2f"),
        Statistic.of(reached).text(".1f") + some if reached else "never",
        Statistic.of([record["seconds"][-1] for record in records]).text(".1f"),
        Statistic.of([record["validation_accuracy"] for record in records]).text(".2f", 100),
        Statistic.of([record["test_accuracy"] for record in records]).text(".2f", 100),
        Statistic.of([record["peak_memory_bytes"] for record in records]).text(",.0f", 1e-6),
    ]


def seconds_to_goal(record: Record) -> float | None:
    """Return the wall seconds to the end of the first epoch that reached the goal; None if none did."""
    pairs = zip(record["seconds"], record["validation"], strict=True)
    return next((seconds for seconds, accuracy in pairs if accuracy >= GOAL), None)


if __name__ == "__main__":
    run_command(app)
