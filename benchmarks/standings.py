"""From the records of trainings to the tables of `time_to_accuracy.py`."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench import Grid, Statistic, describe
from contestants import EXAMPLES
from mnist_pipeline.console import console, say
from mnist_pipeline.files import atomic_path, write_json

GOAL = 0.99
"""Test accuracy whose time is taken."""
EXAMPLE = "keras_convnet"
"""Whose times the targets speak of."""

TERMS = (
    "± is the standard deviation over the seeds. A fit starts before the network is built and includes compilation, "
    "validation and (ours) the checkpoints; imports and reading the data are left out for everyone.",
    "Ours learn from the pipeline's training split and choose the best epoch on its validation split; keras_convnet "
    "gets all 60,000 training images and keeps 10 % of them for validation (validation_split=0.1, as published), "
    "keras_mlp and tf_mlp learn from all 60,000 and validate on none.",
    "Test accuracy was computed after each training had ended, from the weights that it would have handed over after "
    "each epoch: the best on validation so far (ours), the latest (the others). It chose nothing.",
    "In the targets, our whole fits are compared with the time to the end of an epoch of keras_convnet: after the "
    "last, `fit` sometimes waits idly for seconds (tf.data's tuning thread).",
    "CPU s is the processor time of all threads: where it falls short of fit s times the cores, the machine was idle, "
    "or busy with something else. Peak memory is that of the training process, its data included.",
)

Record = Mapping[str, Any]
Records = Mapping[str, Sequence[Record]]


@dataclass(frozen=True)
class Target:
    """One promise of the issue, and what came of it."""

    text: str
    measured: str
    value: float
    limit: float
    wanted: str
    at_least: bool

    @property
    def met(self) -> bool:
        """Whether it is kept."""
        if math.isclose(self.value, self.limit):  # a mean of decimal fractions can miss its limit by its last bit
            return True
        return self.value >= self.limit if self.at_least else self.value <= self.limit


def seconds_to_goal(record: Record) -> float | None:
    """Return the wall seconds to the end of the first epoch that reached the goal; None if none did."""
    pairs = zip(record["seconds_after_epoch"], record["test_accuracy_after_epoch"], strict=True)
    return next((seconds for seconds, accuracy in pairs if accuracy >= GOAL), None)


def t99(record: Record) -> float:
    """Return the issue's t99: seconds to the goal, or to the end of the last epoch where it is never reached."""
    return seconds_to_goal(record) or full_time(record)


def full_time(record: Record) -> float:
    """Return the seconds to the end of the last epoch.

    Of the example this and not the whole fit is compared with ours: tf.data's tuning thread can keep `fit` waiting when
    all work is done, for seconds, and beating an idle wait is no merit.
    """
    return record["seconds_after_epoch"][-1]


def images_per_second(record: Record) -> float:
    """Return the training images seen per second of the whole fit."""
    return record["images_per_epoch"] * record["epochs"] / record["fit_seconds"]


MEASURES: dict[str, Callable[[Record], float | None]] = {
    "fit_seconds": lambda record: record["fit_seconds"],
    "seconds_after_last_epoch": lambda record: record["fit_seconds"] - full_time(record),
    "seconds_to_99": seconds_to_goal,
    "images_per_second": images_per_second,
    "test_accuracy": lambda record: record["test_accuracy_after_epoch"][-1],
    "validation_accuracy": lambda record: record["validation_accuracy"],
    "cpu_seconds": lambda record: record["cpu_seconds"],
    "peak_memory_bytes": lambda record: record["peak_memory_bytes"],
}


def statistic(records: Sequence[Record], measure: Callable[[Record], float | None]) -> Statistic:
    """Summarize one measure over the seeds, where it exists."""
    return Statistic.of([value for record in records if (value := measure(record)) is not None])


def report(chosen: Records, results: Path) -> None:
    """Print the tables and write them beside `results`, as Markdown and JSON."""
    grids = [standings(chosen), *([targets_grid(found)] if (found := targets(chosen)) else [])]
    places = sorted({describe(record["machine"], record["versions"]) for found in chosen.values() for record in found})
    notes = [*places, *TERMS]
    if is_trial(chosen):
        notes.insert(0, "A TRIAL with fewer epochs (--epochs): these numbers say nothing about the contestants.")
    for grid in grids:
        grid.show()
    for note in notes:
        console().print(f"- {note}", markup=False, soft_wrap=False)
    markdown, as_json = results.with_suffix(".md"), results.with_suffix(".json")
    with atomic_path(markdown) as temporary:
        text = "\n".join([*(grid.markdown() for grid in grids), *(f"- {note}" for note in notes)])
        temporary.write_text(f"# Time to accuracy\n\n{text}\n", encoding="utf-8")
    write_json(as_json, summary(chosen))
    say(f"Written: {markdown} and {as_json}")


def is_trial(chosen: Records) -> bool:
    """Return whether a contestant trained fewer epochs than it has."""
    return any(record["shortened"] for records in chosen.values() for record in records)


def standings(chosen: Records) -> Grid:
    """Return one column per contestant."""
    columns = [_column(records) for records in chosen.values()]
    rows = [[label, *(column[label] for column in columns)] for label in columns[0]]
    return Grid("Contestants", ("", *(f"{name} (copied)" if name in EXAMPLES else name for name in chosen)), rows)


def _column(records: Sequence[Record]) -> dict[str, str]:
    found = {key: statistic(records, measure) for key, measure in MEASURES.items()}
    reached, last = found["seconds_to_99"], records[-1]
    some = f" ({reached.n} of {len(records)})" if 0 < reached.n < len(records) else ""
    return {
        "trainings (n)": str(len(records)),
        "parameters": f"{last['parameters']:,}",
        "epochs": str(last["epochs"]),
        "fit s": found["fit_seconds"].text(".1f"),
        "of these after the last epoch": found["seconds_after_last_epoch"].text(".1f"),
        "s to 99.0 % on test": reached.text(".1f") + some if reached.n else "never",
        "images/s": found["images_per_second"].text(",.0f"),
        "test accuracy %": found["test_accuracy"].text(".3f", 100),
        "validation accuracy %": found["validation_accuracy"].text(".3f", 100),
        "CPU s": found["cpu_seconds"].text(".0f"),
        "peak MB": found["peak_memory_bytes"].text(",.0f", 1e-6),
    }


def targets(chosen: Records) -> list[Target]:
    """Return the targets whose contestants were measured; none after a trial with fewer epochs."""
    if is_trial(chosen):
        return []
    ratios = (
        ("fast", t99, 1 / 8, "fast: fit s / t99 of keras_convnet", "at most 1/8, aim 1/12"),
        ("cnn", full_time, 1 / 2, "cnn: fit s / all epochs of keras_convnet", "at most 1/2, aim 1/3"),
    )
    kept = [
        _ratio(chosen[name], chosen[EXAMPLE], measure, limit, text, wanted)
        for name, measure, limit, text, wanted in ratios
        if name in chosen and EXAMPLE in chosen
    ]
    accuracies = (("fast", 0.990, "5 seeds"), ("cnn", 0.995, "5 seeds"), ("cnn_large", 0.997, "3 seeds, aim 99.75"))
    for name, limit, terms in accuracies:
        if name in chosen:
            found = statistic(chosen[name], MEASURES["test_accuracy"])
            wanted = f"at least {limit:.2%}, {terms}"
            text = f"{name}: mean test accuracy %"
            kept.append(Target(text, found.text(".3f", 100), found.mean or 0.0, limit, wanted, at_least=True))
    return kept + _limits(chosen)


def _limits(chosen: Records) -> list[Target]:
    """Return the targets that no training may exceed."""
    kept: list[Target] = []
    if "cnn_large" in chosen:
        longest = max(record["fit_seconds"] for record in chosen["cnn_large"])
        text = "cnn_large: longest fit, minutes"
        kept.append(Target(text, f"{longest / 60:.1f}", longest, 1200, "at most 20, on 2 cores", at_least=False))
    if "cnn" in chosen:
        peak = max(record["peak_memory_bytes"] for record in chosen["cnn"])
        kept.append(Target("cnn: highest peak MB", f"{peak / 1e6:,.0f}", peak, 1.5e9, "under 1,500", at_least=False))
    return kept


def _ratio(
    ours: Sequence[Record],
    example: Sequence[Record],
    measure: Callable[[Record], float | None],
    limit: float,
    text: str,
    wanted: str,
) -> Target:
    """Compare our whole fit with a time of the example, by the seeds of both: the ratio of the means and its spread."""
    times = {record["seed"]: time for record in example if (time := measure(record))}
    pairs = [(record["fit_seconds"], times[record["seed"]]) for record in ours if record["seed"] in times]
    value = sum(fit for fit, _ in pairs) / (sum(time for _, time in pairs) or 1.0)
    spread = Statistic.of([fit / time for fit, time in pairs]).spread
    measured = f"{value:.4f}" + ("" if spread is None else f" ± {spread:.4f}") + f" = 1/{1 / value:.1f}"
    return Target(text, measured, value, limit, wanted, at_least=False)


def targets_grid(found: Sequence[Target]) -> Grid:
    """Return one row per target."""
    rows = [[target.text, target.measured, target.wanted, "yes" if target.met else "NO"] for target in found]
    return Grid("Targets", ("", "measured", "wanted", "met"), rows)


def summary(chosen: Records) -> dict[str, Any]:
    """Return the content of the JSON file."""
    return {
        "contestants": {
            name: {
                "parameters": records[-1]["parameters"],
                "epochs": records[-1]["epochs"],
                "seeds": sorted(record["seed"] for record in records),
                "shortened": any(record["shortened"] for record in records),
                "machine": records[-1]["machine"],
                "versions": records[-1]["versions"],
                **{key: statistic(records, measure).as_json() for key, measure in MEASURES.items()},
                "t99_seconds": statistic(records, t99).as_json(),
            }
            for name, records in chosen.items()
        },
        "targets": [
            {"target": each.text, "value": each.value, "limit": each.limit, "wanted": each.wanted, "met": each.met}
            for each in targets(chosen)
        ],
    }
