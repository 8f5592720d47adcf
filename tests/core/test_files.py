"""Nobody ever sees half a file, and what a killed process left behind is removed."""

import subprocess
import sys
from pathlib import Path

import pytest

from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.processes import identity

KILLED = """
import os, signal, sys
from pathlib import Path
from mnist_pipeline.core.files import atomic_path
with atomic_path(Path(sys.argv[1])) as temporary:
    temporary.write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_failed_writer_changes_nothing(tmp_path: Path) -> None:
    def write_half() -> None:
        with atomic_path(tmp_path / "file.txt") as temporary:
            temporary.write_text("half")
            raise ZeroDivisionError

    (tmp_path / "file.txt").write_text("before")
    with pytest.raises(ZeroDivisionError):
        write_half()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.txt", "before")]


def test_what_a_killed_writer_left_is_removed_by_the_next_but_not_what_a_living_one_writes(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    subprocess.run([sys.executable, "-c", KILLED, str(target)], check=False)
    assert not target.exists()
    assert len([*tmp_path.iterdir()]) == 1
    alive = tmp_path / f".file.txt-{identity()}-abc"
    alive.mkdir()
    with atomic_path(target) as temporary:
        temporary.write_text("whole")
    assert target.read_text() == "whole"
    assert {path.name for path in tmp_path.iterdir()} == {"file.txt", alive.name}
