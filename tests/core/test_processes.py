"""A process is told from all others whatever the clock says, and of two that want to write a thing one is refused."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from mnist_pipeline.core import processes
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.processes import held, identity, is_alive

HOLD = """
import sys
from pathlib import Path
from mnist_pipeline.core.processes import held, identity
with held(Path(sys.argv[1]), "cnn is being trained", "train another"):
    print(identity(), flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(lock: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Start a process that holds a lock; yield it and its identity."""
    command = [sys.executable, "-c", HOLD, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process, process.stdout.readline().strip()


def refusal(lock: Path) -> str:
    with pytest.raises(UserError) as refused, held(lock, "cnn is being trained", "train another"):
        pass
    return str(refused.value)


@pytest.fixture(params=["Linux", "elsewhere"])
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "elsewhere":
        monkeypatch.setattr(processes, "BOOT", Path("/no such file"))
    return request.param


def test_a_process_is_alive_until_it_ends_and_another_with_its_number_is_not_it(system: str, tmp_path: Path) -> None:
    with holder(tmp_path / "cnn.lock") as (process, _):
        recorded = identity(process.pid)
        assert is_alive(recorded)
        assert recorded != identity()
        number, _, start = recorded.partition(" ")
        assert not is_alive(f"{number} 1{start}")
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert system != "Linux" or not is_alive(recorded)  # though it still is in the list of processes
        process.wait()
        assert not is_alive(recorded)
    if system == "Linux":
        assert not is_alive(f"{os.getpid()} {psutil.Process().create_time():.2f}")  # as it was recorded formerly
    assert not is_alive("")


def test_a_clock_that_is_set_makes_nobody_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    recorded = identity()
    monkeypatch.setattr(psutil.Process, "create_time", float)
    assert is_alive(recorded)


def test_the_second_to_come_is_told_who_holds_the_lock_until_that_one_is_killed(tmp_path: Path) -> None:
    lock = tmp_path / "new folder" / "cnn.lock"
    with holder(lock) as (process, recorded):
        assert recorded == identity(process.pid)
        who = rf"process {process.pid} since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d"
        assert re.fullmatch(rf"cnn is being trained in {who}: wait for it, or train another\.", refusal(lock))
        with holder(lock.with_name("mlp.lock")) as (other, _):
            other.communicate()
            assert other.returncode == 0
        note = lock.with_suffix(".holder")
        host, *rest = note.read_text(encoding="utf-8").splitlines()
        note.write_text("\n".join([f"not{host}", *rest]), encoding="utf-8")
        assert f"in process {process.pid} on not{host} since" in refusal(lock)
        # Of one that was killed before, where the next has not written its own yet.
        note.write_text("\n".join([host, "999999999 1 1", "2026-01-01"]), encoding="utf-8")
        assert "in another process:" in refusal(lock)
        process.send_signal(signal.SIGKILL)
        process.wait()
        with held(lock, "cnn is being trained", "train another"):
            pass
