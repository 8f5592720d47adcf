"""How much sooner `mnist tune` finds good parameters than the loop of Optuna's Keras example: see README.md."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import typer

from bench import Grid, Record, Statistic, describe, machine, measure_missing, read_records, versions
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import console, say
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path, write_json
from mnist_pipeline.params import load_params
from mnist_pipeline.project import find_project
from mnist_pipeline.training.checkpoint import training_key
from mnist_pipeline.tuning.space import space_of
from one_study import CONTESTANTS, Job

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "tuning_throughput.jsonl"
LIMIT = 0.25
"""The issue's target: share of the example's time in which `mnist tune` is to be as good."""
EXAMPLE = "example"

TERMS = (
    "Same space, same epochs, equal wall time, one process per study; the clock starts with the first "
    "trial. Trials that ended too late are left out.",
    "The example (optuna-examples, keras/keras_simple.py): sequential, a fresh model for each trial, Keras' own layers "
    "for the augmentation, `compile` and `fit`, no pruning, the first trials at random. `mnist tune` tries the current "
    "parameters first, and writes everything down: its journal, a run in MLflow for each trial, each epoch's numbers.",
    "Best: validation accuracy of a trial's best epoch. As good as the example: seconds until the best accuracy that "
    "the example of the same seed reached in all its time, over the seconds at which the example itself reached it; "
    "where that never happened, all the time counts. The example is compared with its own studies of the other seeds, "
    "which shows what this measure says of equals. On average: the share of all the time after which the mean of the "
    "best so far, over the seeds, is what the mean of the example is in the end. Not counting the current parameters: "
    "the same, but what the trial that tries them has reached is left out.",
)

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Studies of each contestant, with seeds 0, 1, ...")] = 3,
    minutes: Annotated[float, typer.Option(min=0.5, help="Wall time of each study.")] = 2,
    model: Annotated[str, typer.Option(help="A model with a space in params.yaml.")] = "mlp",
    epochs: Annotated[int, typer.Option(min=1, help="Of each trial, at most.")] = 2,
    images: Annotated[int | None, typer.Option(min=1000, help="Train on so many images only.")] = None,
    results: Annotated[Path, typer.Option(help="JSON lines; .json, .md and .png go beside it.")] = RESULTS,
    only: Annotated[str, typer.Option(help="Contestants, with commas.")] = ",".join(CONTESTANTS),
    summarize: Annotated[bool, typer.Option("--summarize", help="Measure nothing: report on what there is.")] = False,
) -> None:
    """Measure the best validation accuracy against time, and what each measure contributes.

    Run it inside the project, after `dvc repro`. Every study is written down as it ends; the same command goes on where
    an interrupted one stopped.
    """
    names = [name for name in CONTESTANTS if name in only.split(",")]
    jobs = [job for job in plan(seeds, round(60 * minutes), model, epochs, images) if job.contestant in names]
    if EXAMPLE not in names:
        raise UserError(f"--only {only} leaves out {EXAMPLE}, which the others are compared with.")
    if not summarize:
        measure_missing(jobs, HERE / "one_study.py", results, result_of)
    records = {name: [r for r in read_records(results) if _is(r, name, jobs[0].key)] for name in names}
    if not records[EXAMPLE]:
        raise UserError(f"{results} has no study of the example on these terms: run this without --summarize.")
    report({name: found for name, found in records.items() if found}, jobs[0], results)


def plan(seeds: int, seconds: int, model: str, epochs: int, images: int | None) -> list[Job]:
    """Return all studies in order: round by round, so that a slow hour of the machine strikes everyone alike."""
    project = find_project()
    space = space_of(load_params(project.params), model)
    terms = {"seconds": seconds, "images": images, "epochs": epochs, "machine": machine(), "versions": versions()}
    ranges = {path: values.model_dump_json() for path, values in space.items()}
    content = {name: json.dumps(term) for name, term in terms.items()} | ranges
    first = Job(EXAMPLE, 0, model, epochs, seconds, images, str(project.root), training_key(content)[:16])
    return [replace(first, contestant=name, seed=seed) for seed in range(seeds) for name in CONTESTANTS]


def result_of(record: Record) -> str:
    """Return what came of a study, in a few words."""
    best = max((trial["accuracy"] for trial in record["trials"]), default=0.0)
    return f"{len(record['trials']):3} trials  best {best:.2%}"


def best_until(record: Record, seconds: float, *, skip: int = 0) -> float | None:
    """Return the best accuracy of all trials that ended by then, but for the `skip` first; None if there is none."""
    values = [trial["accuracy"] for trial in record["trials"][skip:] if trial["seconds"] <= seconds]
    return max(values, default=None)


def seconds_to(record: Record, accuracy: float, *, skip: int = 0) -> float:
    """Return when a study was first as good; all its time if it never was."""
    good = (trial["seconds"] for trial in record["trials"][skip:] if trial["accuracy"] >= accuracy)
    return next(good, float(record["seconds"]))


def ratios(records: Sequence[Record], examples: Sequence[Record], *, skip: int = 0) -> list[float]:
    """Return, seed by seed, the share of the example's time in which a contestant was as good as the example.

    The example itself is compared with its own studies of other seeds: that is what the measure says of equals.
    """
    is_example = records[0]["contestant"] == EXAMPLE
    pairs = [(m, e) for m in records for e in examples if (m["seed"] == e["seed"]) is not is_example]
    goals = [(mine, theirs, best_until(theirs, theirs["seconds"]) or 1.0) for mine, theirs in pairs]
    return [seconds_to(mine, goal, skip=skip) / seconds_to(theirs, goal) for mine, theirs, goal in goals]


def mean_ratio(records: Sequence[Record], examples: Sequence[Record], *, skip: int = 0) -> list[float]:
    """Return, as the only item, after what share of all the time the mean best is the example's mean best in the end.

    Nothing if the two were not measured with the same seeds.
    """
    if {record["seed"] for record in records} != {record["seed"] for record in examples}:
        return []
    everything = float(records[0]["seconds"])
    goal = fmean(best_until(record, everything) or 0.0 for record in examples)
    moments = sorted({trial["seconds"] for record in records for trial in record["trials"]})
    means = ((moment, fmean(best_until(r, moment, skip=skip) or 0.0 for r in records)) for moment in moments)
    return [next((moment for moment, mean in means if mean >= goal), everything) / everything]


def report(records: Mapping[str, Sequence[Record]], job: Job, results: Path) -> None:
    """Print the table and write it, the curves and all numbers beside `results`."""
    statistics = {name: _statistics(found, records[EXAMPLE]) for name, found in records.items()}
    grid = Grid(
        f"Studies of {job.model}, {job.seconds} s each; a trial has {job.epochs} epochs of "
        f"{job.images or 'all'} images at most",
        ("", *(CONTESTANTS[name].does for name in statistics)),
        [[row, *(column[row].text(form, scale) for column in statistics.values())] for row, form, scale in ROWS],
    )
    notes = [describe(machine(), versions()), *_verdict(statistics), *TERMS]
    grid.show()
    for note in notes:
        console().print(f"- {note}", markup=False, soft_wrap=False)
    with atomic_path(results.with_suffix(".md")) as temporary:
        text = "\n".join([grid.markdown(), *(f"- {note}" for note in notes)])
        temporary.write_text(f"# Throughput of tuning\n\n{text}\n", encoding="utf-8")
    write_json(results.with_suffix(".json"), _as_json(statistics))
    draw(records, job.seconds, results.with_suffix(".png"))
    say(f"Written: {results.with_suffix('.md')}, .json and .png")


ON_AVERAGE = "as good as the example on average, share of the time"
BY_SEED = "as good as the example by seed, share of its time"
ROWS = [
    ("trials per hour", ".0f", 1),
    ("of them pruned, %", ".0f", 100),
    ("best after a quarter of the time, %", ".2f", 100),
    ("best after half of the time, %", ".2f", 100),
    ("best in the end, %", ".2f", 100),
    (ON_AVERAGE, ".2f", 1),
    (f"{ON_AVERAGE}, not counting the current parameters", ".2f", 1),
    (BY_SEED, ".2f", 1),
    (f"{BY_SEED}, not counting the current parameters", ".2f", 1),
]
"""Of the table: what, how a number of it is written, and times what."""


def _statistics(records: Sequence[Record], examples: Sequence[Record]) -> dict[str, Statistic]:
    """Return the rows of one contestant."""
    counts = [len(record["trials"]) for record in records]
    shares = [sum(t["pruned"] for t in r["trials"]) / n for r, n in zip(records, counts, strict=True) if n]
    first = 1 if CONTESTANTS[records[0]["contestant"]].tunes else 0
    numbers: list[list[float]] = [
        [count * 3600 / record["seconds"] for count, record in zip(counts, records, strict=True)],
        shares,
        *([b for r in records if (b := best_until(r, r["seconds"] * part))] for part in (0.25, 0.5, 1.0)),
        mean_ratio(records, examples),
        mean_ratio(records, examples, skip=first),
        ratios(records, examples),
        ratios(records, examples, skip=first),
    ]
    return {row: Statistic.of(values) for (row, _, _), values in zip(ROWS, numbers, strict=True)}


def _verdict(statistics: Mapping[str, Mapping[str, Statistic]]) -> list[str]:
    """Return what came of the target, with all measures that were measured."""
    name = list(statistics)[-1]
    found = [(row, statistics[name][row]) for row in (ON_AVERAGE, BY_SEED)]
    verdicts = [f"{row}: {ratio.text('.2f')}: {'met' if _is_met(ratio) else 'NOT met'}" for row, ratio in found]
    return [f"Target, at most {LIMIT}, by {CONTESTANTS[name].does}, n = {found[-1][1].n}: {'; '.join(verdicts)}."]


def _is_met(ratio: Statistic) -> bool:
    return ratio.mean is not None and ratio.mean <= LIMIT


def _as_json(statistics: Mapping[str, Mapping[str, Statistic]]) -> dict[str, Any]:
    numbers = {name: {row: value.as_json() for row, value in rows.items()} for name, rows in statistics.items()}
    return {"contestants": numbers, "machine": machine(), "versions": versions()}


def draw(records: Mapping[str, Sequence[Record]], seconds: int, path: Path) -> None:
    """Draw the best accuracy so far against time, one line per study."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(9, 5), layout="constrained")
    for index, (name, found) in enumerate(records.items()):
        for number, record in enumerate(found):
            times = [trial["seconds"] for trial in record["trials"]]
            best = [100 * (best_until(record, moment) or 0.0) for moment in times]
            label = CONTESTANTS[name].does if number == 0 else None
            axes.step([*times, seconds], [*best, *best[-1:]], where="post", color=f"C{index}", alpha=0.8, label=label)
    axes.set(xlabel="seconds since the first trial began", ylabel="best validation accuracy, %", xlim=(0, seconds))
    axes.legend(loc="lower right")
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=100, format="png")
    plt.close(figure)


def _is(record: Record, name: str, key: str) -> bool:
    return (record["contestant"], record["key"]) == (name, key)


if __name__ == "__main__":
    run_command(app)
