"""Telling a process from all others, and one writer per thing."""

import os
import socket
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

from mnist_pipeline.core.errors import UserError

BOOT = Path("/proc/sys/kernel/random/boot_id")
"""Where Linux says which start of the machine this is."""


def identity(pid: int | None = None) -> str:
    """Return what tells a process from all that had or will have its number on this machine; empty if it is not alive.

    Args:
        pid: its number; this process by default.
    """
    number = os.getpid() if pid is None else pid
    start = _start(number)
    return f"{number} {start}" if start else ""


def is_alive(process: str) -> bool:
    """Return whether the process of this `identity` is alive; what is none, such as an older format, is not."""
    pid = process.partition(" ")[0]
    return pid.isdecimal() and identity(int(pid)) == process


@contextmanager
def held(lock_file: Path, what: str, otherwise: str) -> Generator[None]:
    """Hold a lock that the system releases however this process ends; a file beside it says who holds it.

    Args:
        lock_file: the lock; its folder is made if need be.
        what: is going on meanwhile, such as "cnn is being trained".
        otherwise: what can be done instead of waiting, such as "train another model".

    Raises:
        UserError: another process holds it.
    """
    from filelock import FileLock, Timeout

    holder = lock_file.with_suffix(".holder")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(lock_file).acquire(timeout=0)
    except Timeout as error:
        raise UserError(f"{what} in {_describe(holder)}: wait for it, or {otherwise}.") from error
    with lock:
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        holder.write_text(f"{socket.gethostname()}\n{identity()}\n{now}\n", encoding="utf-8")
        yield


def _describe(holder: Path) -> str:
    """Say which process holds a lock; the file may be that of an earlier one, where the present one has just begun."""
    try:
        host, process, since = holder.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return "another process"
    is_here = host == socket.gethostname()
    if is_here and not is_alive(process):
        return "another process"
    return f"process {process.partition(' ')[0]}{'' if is_here else f' on {host}'} since {since}"


def _start(pid: int) -> str:
    """Return when a living process started, on Linux by what does not change when somebody sets the clock."""
    if BOOT.exists():
        try:
            # What follows the name, which may hold anything: the state, and as 20th the ticks from boot to start.
            state, *numbers = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if state == "Z" else f"{numbers[18]} {BOOT.read_text().strip()}"  # a zombie is dead
    import psutil

    try:
        return f"{psutil.Process(pid).create_time():.2f}"
    except psutil.Error:
        return ""
