"""How much sooner `mnist tune` finds good parameters than the loop of Optuna's Keras example: see README.md."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Annotated

import typer

from bench import HERE, RESULTS, Record, by_contestant, machine, measure_missing
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.project import find_project
from mnist_pipeline.training.checkpoint import training_key
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning.params import space_of
from one_study import EXAMPLE, OURS, StudyJob
from tables import Grid, Statistic, publish

NOTES = (
    "Mean ± standard deviation over the studies. Same search space, same epochs, equal wall time, one process per "
    "study; the clock starts with the process, so imports and Ray's start are counted in, and trials that ended too "
    "late are left out.",
    "The example (optuna-examples, keras/keras_simple.py): one fresh model after the other, Keras' own layers for the "
    "augmentation, `compile` and `fit`, no pruning, the first trials at random. `mnist tune` tries the current "
    "parameters first, and records everything: its journal, a run in MLflow for each trial, each epoch's numbers.",
    "On average as good: the share of the time after which the best accuracy so far, as a mean over all studies, is "
    "what the example's mean is in the end.",
    "Time to reach the example's final accuracy, relative to the example: seconds until the best validation accuracy "
    "that the example of the same seed reached in all its time, over the seconds at which the example itself reached "
    "it; where that never happened, all the time counts.",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Studies of each, with seeds 0, 1, ...")] = 8,
    minutes: Annotated[float, typer.Option(min=0.5, help="Wall time of each study.")] = 4,
    model: Annotated[str, typer.Option(help="A model with a space in params.yaml.")] = "mlp",
    epochs: Annotated[int, typer.Option(min=1, help="Of each trial, at most.")] = 10,
    images: Annotated[int, typer.Option(min=0, help="Train on so many images only; 0 takes all.")] = 12_000,
    workers: Annotated[int, typer.Option(min=1, help="Processes of `mnist tune`.")] = 1,
    results: Annotated[Path, typer.Option(help="JSON lines, one per study; an .md goes beside it.")] = (
        RESULTS / "tuning_throughput.jsonl"
    ),
) -> None:
    """Give the same time to `mnist tune` and to the loop of Optuna's Keras example, one process per study.

    Run it inside the project, after `dvc repro`. Every study is written down as it ends; the same command goes on where
    an interrupted one stopped.
    """
    jobs = plan(seeds, round(60 * minutes), model, epochs, images, workers)
    found = by_contestant(measure_missing(jobs, HERE / "one_study.py", results, result_of))
    columns = [column(records, found[EXAMPLE]) for records in found.values()]
    rows = [[what, *texts] for what, texts in zip(ROWS, zip(*columns, strict=True), strict=True)]
    title = f"Studies of {model}: {minutes:g} minutes, {epochs} epochs a trial, {images or 'all'} images, n = {seeds}"
    publish(results.with_suffix(".md"), Grid(title, ("", *found), rows), [machine(), *NOTES])


def plan(seeds: int, seconds: int, model: str, epochs: int, images: int, workers: int) -> list[StudyJob]:
    """Return all studies in order: round by round, so that a slow hour of the machine strikes both alike."""
    project = find_project()
    params = load_params(project.params)
    ranges = {path: values.model_dump_json() for path, values in space_of(params, model).items()}
    terms = {"seconds": seconds, "images": images, "epochs": epochs, "workers": workers}
    content = {"model": params.model(model).model_dump_json(), "terms": json.dumps(terms), "machine": machine()}
    key = training_key(content | ranges)[:16]
    first = StudyJob(EXAMPLE, 0, key, str(project.root), model, epochs, seconds, images, workers)
    return [replace(first, contestant=name, seed=seed) for seed in range(seeds) for name in (EXAMPLE, OURS)]


def result_of(record: Record) -> str:
    """Return what came of a study, in a few words."""
    return f"{len(record['trials']):3} trials  best {best_of(record):.2%}"


def best_of(record: Record) -> float:
    """Return the best accuracy of all trials; 0 if there is none."""
    return max((trial["accuracy"] for trial in record["trials"]), default=0.0)


def seconds_to(record: Record, accuracy: float, *, first: int = 0) -> float:
    """Return when a study was as good, by the trials from number `first` on; all its time if it never was."""
    good = (t["seconds"] for t in record["trials"] if t["accuracy"] >= accuracy and t["number"] >= first)
    return next(good, float(record["seconds"]))


ROWS = (
    "trials per hour",
    "of them pruned, %",
    "best validation accuracy, %",
    "share of the time until it is on average as good as the example ends",
    "the same, without the trial of the current parameters",
    "time to reach the example's final accuracy, relative to the example",
    "the same, without the trial of the current parameters",
)


def column(records: Sequence[Record], examples: Sequence[Record]) -> list[str]:
    """Return what the studies of one contestant came to, as text for `ROWS`."""
    counts = [len(record["trials"]) for record in records]
    pruned = [sum(trial["pruned"] for trial in record["trials"]) for record in records]
    return [
        Statistic.of([n * 3600 / record["seconds"] for n, record in zip(counts, records, strict=True)]).text(".0f"),
        Statistic.of([some / max(n, 1) for some, n in zip(pruned, counts, strict=True)]).text(".0f", 100),
        Statistic.of([best_of(record) for record in records]).text(".2f", 100),
        *(share_of_time(records, examples, first=first) for first in (0, 1)),
        *(relative_times(records, examples, first=first) for first in (0, 1)),
    ]


def share_of_time(records: Sequence[Record], examples: Sequence[Record], *, first: int) -> str:
    """Return after which share of the time the mean of the best so far is the examples' final mean, as text."""
    goal = mean(best_of(record) for record in examples)
    trials = [[t for t in record["trials"] if t["number"] >= first] for record in records]
    for moment in sorted(trial["seconds"] for each in trials for trial in each):
        so_far = (max((t["accuracy"] for t in each if t["seconds"] <= moment), default=0.0) for each in trials)
        if mean(so_far) >= goal:
            return f"{moment / records[0]['seconds']:.2f}"
    return "more than 1"


def relative_times(records: Sequence[Record], examples: Sequence[Record], *, first: int) -> str:
    """Return the seconds to the example's final accuracy over the example's own, by the seeds of both."""
    if records[0]["contestant"] == EXAMPLE:
        return "1"
    theirs = {record["seed"]: record for record in examples}
    pairs = [(record, theirs[record["seed"]]) for record in records if record["seed"] in theirs]
    return Statistic.of(
        [seconds_to(mine, best_of(other), first=first) / seconds_to(other, best_of(other)) for mine, other in pairs]
    ).text(".2f")


if __name__ == "__main__":
    run_command(app)
