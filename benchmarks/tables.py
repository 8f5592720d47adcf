"""The tables in which the benchmarks tell what they measured."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table

from mnist_pipeline.core.console import console, say
from mnist_pipeline.core.files import atomic_path


@dataclass(frozen=True)
class Statistic:
    """Mean and spread of repeated measurements."""

    mean: float
    """Not a number if nothing was measured."""
    spread: float | None
    """Standard deviation of the sample, with n - 1; None below two measurements."""
    n: int
    """How many measurements."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Statistic":
        """Summarize `values`, which may be none at all."""
        mean = statistics.fmean(values) if values else float("nan")
        return cls(mean, statistics.stdev(values) if len(values) > 1 else None, len(values))

    def text(self, form: str, scale: float = 1) -> str:
        """Return `mean ± spread`, both times `scale` and formatted by `form`; a dash if nothing was measured."""
        if not self.n:
            return "-"
        spread = "" if self.spread is None else f" ± {self.spread * scale:{form}}"
        return f"{self.mean * scale:{form}}{spread}"


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
        """Return it as Markdown, without its title."""
        lines = [self.headings, ["---", *["---:"] * (len(self.headings) - 1)], *self.rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def publish(file: Path, grid: Grid, notes: Sequence[str]) -> None:
    """Print a table with its notes, and write both as Markdown."""
    grid.show()
    for note in notes:
        say(f"- {note}")
    with atomic_path(file) as temporary:
        lines = "\n".join(f"- {note}" for note in notes)
        temporary.write_text(f"# {grid.title}\n\n{grid.markdown()}\n{lines}\n", encoding="utf-8")
    say(f"Written: {file}")
