"""What the benchmarks share: statistics, tables, records and the machine."""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from rich.table import Table

from mnist_pipeline.console import console, say, warn
from mnist_pipeline.errors import UserError

Record = dict[str, Any]
"""One measurement, as a line of JSON."""

PACKAGES = ("tensorflow", "keras", "numpy")
"""Whose versions decide how fast a training is."""


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of repeated measurements."""

    mean: float | None
    """None if nothing was measured."""
    spread: float | None
    """Standard deviation of the sample, with n - 1; None below two measurements."""
    n: int
    """How many measurements."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Summarize `values`, which may be none at all."""
        mean = statistics.fmean(values) if values else None
        return cls(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self, form: str, scale: float = 1) -> str:
        """Return `mean ± spread`, both times `scale` and formatted by `form`; a dash if there is none."""
        if self.mean is None:
            return "-"
        spread = "" if self.spread is None else f" ± {self.spread * scale:{form}}"
        return f"{self.mean * scale:{form}}{spread}"

    def as_json(self) -> dict[str, float | None]:
        """Return what goes to the JSON file."""
        return {"mean": self.mean, "standard_deviation": self.spread, "n": self.n}


@dataclass(frozen=True)
class Grid:
    """A table, for the terminal and for Markdown."""

    title: str
    headings: Sequence[str]
    rows: Sequence[Sequence[str]]

    def show(self) -> None:
        """Print it."""
        table = Table(title=self.title, title_justify="left")
        for index, heading in enumerate(self.headings):
            table.add_column(heading, justify="right" if index else "left")
        for row in self.rows:
            table.add_row(*row)
        console().print(table)

    def markdown(self) -> str:
        """Return it as Markdown, under a heading."""
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)], *self.rows]
        return f"## {self.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


class Job(Protocol):
    """One measurement to make, in a process of its own."""

    @property
    def contestant(self) -> str:
        """Who is measured."""
        ...

    @property
    def seed(self) -> int:
        """Which of its repetitions."""
        ...

    @property
    def key(self) -> str:
        """Digest of all else that decides the result."""
        ...

    def to_json(self) -> str:
        """Return it as the argument of the process."""
        ...


def measure_missing(jobs: Sequence[Job], script: Path, results: Path, tell: Callable[[Record], str]) -> None:
    """Make the measurements that are not in `results` yet, and append each as it ends.

    Args:
        jobs: all measurements, in order.
        script: takes a job as its argument; the last line that it prints is the record.
        results: JSON lines.
        tell: what to say of a record, in a few words.

    Raises:
        UserError: a process failed; it has said why.
    """
    done = {(record["contestant"], record["key"], record["seed"]) for record in read_records(results)}
    left = [job for job in jobs if (job.contestant, job.key, job.seed) not in done]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} measurements are in {results} already.")
    results.parent.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(left, start=1):
        record = _measure_in_process(job, script)
        append(results, record)
        say(f"{number}/{len(left)}  {job.contestant:<14} seed {job.seed}  {tell(record)}")


def _measure_in_process(job: Job, script: Path) -> Record:
    """Measure in a fresh process, which dies with this one."""
    done = subprocess.run([sys.executable, str(script), job.to_json()], stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{script.name} failed for {job.contestant} with seed {job.seed}, status {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def append(results: Path, record: Record) -> None:
    """Write one line at the end of the file, on a line of its own even if a kill cut the last one short."""
    torn = results.exists() and results.read_bytes()[-1:] not in (b"", b"\n")
    with results.open("a", encoding="utf-8") as file:
        file.write(("\n" if torn else "") + json.dumps(record) + "\n")


def read_records(path: Path) -> list[Record]:
    """Return every record in the file; none if there is no file. A line cut short by a kill is left out."""
    records: list[Record] = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines() if path.exists() else [], start=1):
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            warn(f"{path}, line {number}: not JSON, left out.")
    return records


def machine() -> dict[str, Any]:
    """Return the model of the CPU, the cores that this process may use, and the operating system."""
    usable = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    return {"cpu": _cpu_model(), "cores": usable, "system": f"{platform.system()} {platform.machine()}"}


def versions() -> dict[str, str]:
    """Return the versions of Python and of what computes."""
    return {"python": platform.python_version(), **{package: version(package) for package in PACKAGES}}


def describe(machine: dict[str, Any], versions: dict[str, str]) -> str:
    """Return machine and versions as one line."""
    packages = ", ".join(f"{name} {number}" for name, number in versions.items())
    return f"{machine['cpu']}, {machine['cores']} cores, {machine['system']}; {packages}"


def _cpu_model() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
