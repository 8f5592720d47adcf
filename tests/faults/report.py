"""Writing docs/failure-matrix.md."""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version

import psutil

from faults.harness import Outcome
from small_project import ROOT

PAGE = ROOT / "docs" / "failure-matrix.md"
HEAD = """\
# Failure matrix

What happens to each part of the project when it is hurt, and what a user types afterwards. `make faults` plays all of
it, in {minutes:.0f} minutes here, and writes this page.

A cell starts a command in a small project, hurts it at a moment drawn with seed {seed}, and then types what a user
would: the same command again if it did not end well, and before it what its message or these pages say. It is **green**
if in the end

* the files are those of an undisturbed run, byte for byte, those in DVC's cache included;
* no run is left RUNNING, each epoch stands once in the metrics, and the run keeps the model;
* a study has exactly its trials, none twice, and MLflow tells the same;
* there is one version, which is the champion, and its lineage is verified;
* nothing outside the project has changed, and no command has printed a traceback.

What is **red** is not mended yet; the reasons follow the table. {counts}. {where}.
The seconds are those of the recovery, and in brackets those of the undisturbed command.

"""


def write_page(outcomes: Sequence[Outcome], seconds: float, seed: int) -> None:
    counts = Counter(outcome.verdict for outcome in outcomes)
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in ("green", "red", "skipped"))
    where = (
        f"Python {platform.python_version()}, TensorFlow {version('tensorflow')}, MLflow {version('mlflow')}, DVC "
        f"{version('dvc')}, Optuna {version('optuna')} and Ray {version('ray')} on {psutil.cpu_count()} cores, "
        f"load average {os.getloadavg()[2]:.0f}, n = 1"
    )
    head = HEAD.format(minutes=seconds / 60, seed=seed, counts=f"{len(outcomes)} cells: {told}", where=where)
    PAGE.write_text(head + "\n".join([*table(outcomes), "", *reasons(outcomes)]), encoding="utf-8")


def table(outcomes: Iterable[Outcome]) -> Iterator[str]:
    yield "| component | fault | hurt | outcome | typed then | took | work lost |"
    yield "| --- | --- | --- | --- | --- | ---: | --- |"
    for each in outcomes:
        verdict = "**red**" if each.verdict == "red" else each.verdict
        took = f"{each.seconds:.0f} s ({each.undisturbed:.0f})" if each.typed else ""
        typed = each.typed or ("nothing" if each.verdict == "green" else "")
        yield f"| {each.component} | {each.fault} | {each.hurt} | {verdict} | {typed} | {took} | {each.lost} |"


def reasons(outcomes: Iterable[Outcome]) -> Iterator[str]:
    if red := [each for each in outcomes if each.verdict == "red"]:
        yield "## Red cells\n"
        for each in red:
            said = "; ".join(" ".join(problem.split())[:300] for problem in each.problems)
            yield f"* **{each.component}, {each.fault}:** {said}"
        yield ""
