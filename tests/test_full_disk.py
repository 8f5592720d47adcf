"""A full disk is told by the place that is full, blamed on nothing else, and leaves nothing that stays broken."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_pipeline.core.errors import UserError, explain
from mnist_pipeline.core.files import atomic_path

# In a mount namespace of its own, in which an ordinary user may mount, too, and which ends with its process.
SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
MOUNT = 'mount -t tmpfs -o size=$0 tmpfs "$1"'
SESSION = """
import os, sys
from pathlib import Path
from mnist_pipeline.cli import main
from small_project import make_project

def mnist(command):
    sys.argv = ["mnist", command]
    try:
        main()
    except SystemExit as stop:
        print(command, stop.code, file=sys.stderr, flush=True)

def fill(left):
    disk = os.statvfs(".")
    filler.write_bytes(bytes(disk.f_bavail * disk.f_frsize - left))

make_project(Path.cwd())
filler = Path("filler")
fill(500_000)
mnist("sync")
filler.unlink()
mnist("sync")
fill(0)
mnist("normalize")
"""


def can_mount(folder: Path) -> bool:
    if shutil.which("unshare") is None:
        return False
    return subprocess.run([*SMALL_DISK, MOUNT, "1m", folder], capture_output=True, check=False).returncode == 0


def test_each_command_names_what_is_full_and_works_again_when_there_is_room(tmp_path: Path) -> None:
    if not can_mount(tmp_path):
        pytest.skip("this machine lets nobody mount a small disk")
    done = subprocess.run(
        [*SMALL_DISK, f'{MOUNT} && cd "$1" && "$2" -c "$3"', "8m", tmp_path, sys.executable, SESSION],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stderr.splitlines() == [
        f"error: There is no space left for {tmp_path}: make room, and run the command again.",
        "sync 1",  # while it made the database of the store
        "sync 0",
        f"error: There is no space left for {tmp_path}/reports/pixel_distribution.csv: make room, and run the command "
        "again.",
        "normalize 1",
    ]


def test_whoever_wraps_it_a_full_disk_is_what_is_told(tmp_path: Path) -> None:
    target = tmp_path / "model.keras"
    with pytest.raises(OSError, match="No space") as full, atomic_path(target):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # as of a write, which names no file
    assert f"no space left for {target}:" in explain(full.value)
    refusal = UserError("The MLflow store cannot be used: check MLFLOW_TRACKING_URI.")
    refusal.__cause__ = ValueError("(sqlite3.OperationalError) database or disk is full")
    assert explain(refusal).startswith("There is no space left for ")
    assert "MLFLOW_TRACKING_URI" not in explain(refusal)
