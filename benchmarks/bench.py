"""What both benchmarks need: statistics, the machine and tables."""

import os
import platform
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from mnist_pipeline.console import console

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
