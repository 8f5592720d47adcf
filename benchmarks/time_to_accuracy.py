"""How long our trainer takes to a good model, against what a user would otherwise copy: see README.md."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench import HERE, RESULTS, Record, by_contestant, machine, measure_missing
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.files import file_digest, require
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.training.checkpoint import training_key
from mnist_pipeline.training.params import ModelParams, Params, load_params
from one_training import EXAMPLES, TrainingJob
from tables import Grid, Statistic, publish

FAST: dict[str, Any] = {
    "normalization": "standard",
    "architecture": {
        "blocks": [
            {"filters": 16, "kernel_size": 5, "convolutions": 1, "pooling": 2, "dropout": 0.0},
            {"filters": 32, "kernel_size": 3, "convolutions": 1, "pooling": 2, "dropout": 0.0},
        ],
        "dropout": 0.0,
    },
    "training": {
        "epochs": 1,
        "optimizer": {"learning_rate": 0.012, "weight_decay": 0.01, "beta_2": 0.9},
        "schedule": {"warmup": 0.15},
        "label_smoothing": 0.1,
        "weight_average": 0.0,
    },
    "augmentation": {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "shear": 0.0, "elastic": 0.0},
}
"""What `fast` has different from `cnn` in params.yaml: the least that has 99.0 % on validation.

It goes back to a published two-epoch recipe (tuomaso/train_mnist_fast). One epoch is enough with smoothed labels, which
add 0.2 % there. To change it, compare the column `validation %` of `--only fast`: the test images choose nothing."""

CONTESTANTS = ("fast", "cnn", *EXAMPLES)
"""In the order in which a round trains them."""
GOAL = 0.99
"""Test accuracy whose time is taken."""
EXAMPLE = "keras_convnet"
"""Whose times ours are compared with."""

NOTES = (
    "Mean ± standard deviation over the seeds, each training in a process of its own. The time starts before the "
    "network is built and includes compilation, validation and (ours) the checkpoints; imports and reading the data "
    "are left out for everyone. Peak MB is the memory of the process, its data included.",
    "keras_convnet, keras_mlp and tf_mlp are copied and run as they are: they get all 60,000 training images, of which "
    "keras_convnet keeps 10 % for validation. Ours learn from the pipeline's train split and choose the best epoch on "
    "its validation split.",
    f"s to {GOAL:.1%}: to the end of the first epoch after which the test accuracy is that high. It was computed after "
    "each training had ended, from the weights that it would have handed over after each epoch: the best on validation "
    "so far (ours), the latest (the others). It chose nothing.",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each contestant, with seeds 0, 1, ...")] = 3,
    only: Annotated[
        str, typer.Option(help="Contestants, with commas; also any other model of params.yaml, such as cnn_large.")
    ] = ",".join(CONTESTANTS),
    results: Annotated[Path, typer.Option(help="JSON lines, one per training; an .md goes beside it.")] = (
        RESULTS / "time_to_accuracy.jsonl"
    ),
    epochs: Annotated[int | None, typer.Option(min=1, help="Train only so many, to try the benchmark out.")] = None,
) -> None:
    """Measure seconds to accuracy: our cnn and its fast variant against copied recipes, one process per training.

    Run it inside the project, after `dvc repro`. Every training is written down as it ends; the same command goes on
    where an interrupted one stopped, and trains again whatever parameters, code, data or machine have changed for.
    """
    jobs = plan([name.strip() for name in only.split(",")], seeds, epochs)
    records = measure_missing(jobs, HERE / "one_training.py", results, result_of)
    grid = Grid("Time to accuracy", HEADINGS, [row(*found) for found in by_contestant(records).items()])
    trial = ["A TRIAL with fewer epochs (--epochs): these numbers say nothing about the contestants."] if epochs else []
    publish(results.with_suffix(".md"), grid, [*trial, *comparisons(by_contestant(records)), machine(), *NOTES])


def plan(names: Sequence[str], seeds: int, epochs: int | None) -> list[TrainingJob]:
    """Return all trainings in order: round by round, so that a slow hour of the machine strikes everyone alike.

    Raises:
        UserError: a contestant is unknown, or a data file is missing.
    """
    project = find_project()
    params = load_params(project.params)
    first = [job_of(project, params, name, epochs) for name in names]
    return [replace(job, seed=seed) for seed in range(seeds) for job in first]


def job_of(project: Project, params: Params, name: str, epochs: int | None) -> TrainingJob:
    """Return the first training of a contestant."""
    device = params.device, params.precision
    if name in EXAMPLES:
        # Not our code: the copied recipes need not be measured again because our trainer has changed.
        terms = {"recipe": name, "epochs": epochs or EXAMPLES[name], "code": file_digest(HERE / "recipes.py")}
        content = json.dumps([terms, digests(project.raw, "*-ubyte"), machine()])
        key = hashlib.sha256(content.encode()).hexdigest()
        return TrainingJob(name, 0, key[:16], str(project.root), epochs or EXAMPLES[name], *device, {})
    model = our_model(params, name, epochs)
    data = {**digests(project.split, "*.npz"), "normalization": file_digest(project.normalization)}
    terms = {"model": model.model_dump_json(), "device": " ".join(device), "machine": machine(), **data}
    key, length = training_key(terms)[:16], model.training.epochs
    return TrainingJob(name, 0, key, str(project.root), length, *device, model.model_dump(mode="json"))


def our_model(params: Params, name: str, epochs: int | None) -> ModelParams:
    """Return the parameters of one of our contestants.

    Raises:
        UserError: it is neither `fast` nor a model in params.yaml.
    """
    model = params.model("cnn" if name == "fast" else name).model_dump(mode="json")
    changes = [*([FAST] if name == "fast" else []), *([{"training": {"epochs": epochs}}] if epochs else [])]
    for change in changes:
        model = merge(model, change)
    return ModelParams.model_validate(model)


def digests(folder: Path, pattern: str) -> dict[str, str]:
    """Return the MD5 of each file of the data, by name."""
    return {file.name: file_digest(file) for file in sorted(require(folder, "make run").glob(pattern))}


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return `base` with the values of `changes` in their places."""
    return {
        key: merge(value, changes.get(key, {})) if isinstance(value, dict) else changes.get(key, value)
        for key, value in base.items()
    }


def result_of(record: Record) -> str:
    """Return what came of a training, in a few words."""
    return f"{record['seconds']:7.1f} s  test accuracy {record['test_accuracy_after_epoch'][-1]:.2%}"


HEADINGS = ("", "n", "epochs", "training s", f"s to {GOAL:.1%}", "test %", "validation %", "peak MB")


def row(name: str, records: Sequence[Record]) -> list[str]:
    """Return what the seeds of one contestant came to, as text for `HEADINGS`."""
    reached = [seconds for record in records if (seconds := seconds_to_goal(record))]
    some = f" ({len(reached)} of {len(records)})" if 0 < len(reached) < len(records) else ""
    validated = [record["validation_accuracy"] for record in records if record["validation_accuracy"]]
    return [
        name,
        str(len(records)),
        str(records[0]["epochs"]),
        Statistic.of([record["seconds"] for record in records]).text(".1f"),
        Statistic.of(reached).text(".1f") + some if reached else "never",
        Statistic.of([record["test_accuracy_after_epoch"][-1] for record in records]).text(".3f", 100),
        Statistic.of(validated).text(".3f", 100),
        Statistic.of([record["peak_memory_bytes"] for record in records]).text(",.0f", 1e-6),
    ]


def seconds_to_goal(record: Record) -> float | None:
    """Return the wall seconds to the end of the first epoch that reached the goal; None if none did."""
    pairs = zip(record["seconds_after_epoch"], record["test_accuracy_after_epoch"], strict=True)
    return next((seconds for seconds, accuracy in pairs if accuracy >= GOAL), None)


def comparisons(chosen: Mapping[str, Sequence[Record]]) -> list[str]:
    """Return what the times of ours are to those of the example, by the seeds of both."""
    theirs = {record["seed"]: record for record in chosen.get(EXAMPLE, ())}
    to_goal = {seed: seconds_to_goal(record) or record["seconds"] for seed, record in theirs.items()}
    whole = {seed: record["seconds"] for seed, record in theirs.items()}
    lines: list[str] = []
    for name, times, what in (
        ("fast", to_goal, f"the time in which {EXAMPLE} reaches {GOAL:.1%} on test, or ends"),
        ("cnn", whole, f"all epochs of {EXAMPLE}"),
    ):
        pairs = [(one["seconds"], times[one["seed"]]) for one in chosen.get(name, ()) if one["seed"] in times]
        if pairs:
            ratio = Statistic.of([ours / other for ours, other in pairs])
            lines.append(f"Whole training of {name} / {what}: {ratio.text('.3f')} (n = {ratio.n}).")
    return lines


if __name__ == "__main__":
    run_command(app)
