"""`make faults`: hurt everything in every way of the table, and write docs/failure-matrix.md.

Given a pattern, such as `study` or "training: SIG", it plays the cells whose name has it, and writes nothing.
"""

import re
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from faults.harness import Cell, Outcome, SkipError, play
from faults.matrix import CELLS, COMPONENTS
from faults.report import write_page
from mnist_pipeline.core.console import say

SEED = 0


def main() -> None:
    pattern = " ".join(sys.argv[1:])
    wanted = [cell for cell in CELLS if re.search(pattern, f"{cell.component}: {cell.name}")]
    start, outcomes = time.monotonic(), list[Outcome]()
    for outcome in play_all(wanted, SEED):
        outcomes.append(outcome)
        say(f"{time.monotonic() - start:5.0f} s  {outcome}")
    if not pattern:
        write_page(outcomes, time.monotonic() - start, SEED)
    red = [f"{outcome.component}: {outcome.fault}" for outcome in outcomes if outcome.verdict == "red"]
    say(f"{len(outcomes)} cells, {len(red)} of them red{': ' if red else ''}{'; '.join(red)}.")


def play_all(cells: Sequence[Cell], seed: int) -> Iterator[Outcome]:
    """Play cells, each component's in one folder, while its services run."""
    for name, kind in COMPONENTS.items():
        if mine := [cell for cell in cells if cell.component == name]:
            with tempfile.TemporaryDirectory(prefix="mnist-faults-") as folder:
                victim = kind(Path(folder))
                try:
                    with victim.services():
                        victim.make_ready()
                        for cell in mine:
                            yield play(cell, victim, seed)
                        victim.end_all()
                except SkipError as reason:
                    yield from (Outcome(name, cell.name, "skipped", str(reason)) for cell in mine)


if __name__ == "__main__":
    main()
