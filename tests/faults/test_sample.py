"""A sample of the failure matrix; `make faults` plays all of it and writes docs/failure-matrix.md."""

from faults.matrix import CELLS
from faults.run import SEED, play_all

SAMPLE = ("SIGKILL in the last third", "SIGTERM", "disk full", "train.npz cut off")


def test_a_stage_that_is_killed_interrupted_without_space_or_whose_files_are_damaged_writes_the_same_in_the_end() -> (
    None
):
    cells = [cell for cell in CELLS if cell.component == "split" and cell.name in SAMPLE]
    outcomes = [*play_all(cells, SEED)]
    assert len(outcomes) == len(SAMPLE)
    assert [outcome for outcome in outcomes if outcome.verdict == "red"] == []
