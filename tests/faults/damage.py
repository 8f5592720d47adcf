"""Faults: what can be done to a process, a file, a disk and a clock."""

import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from faults.harness import Command, Component, Fault, SkipError, size

SMALL_DISK = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-c")
Whom = Callable[[Component, Command], list[int]]
"""Chooses the processes that are hurt."""


def leader(_: Component, command: Command) -> list[int]:
    """Choose the command alone, not the processes that it has started."""
    return [command.process.pid]


def everyone(victim: Component, _: Command) -> list[int]:
    """Choose all processes of the command."""
    return [process.pid for process in victim.processes()]


def one_named(*words: str) -> Whom:
    """Choose one process by its command line."""

    def choose(victim: Component, command: Command) -> list[int]:
        found = list[int]()

        def is_there() -> bool:
            for process in victim.processes():
                with suppress(psutil.Error):
                    if all(word in " ".join(process.cmdline()) for word in words):
                        found.append(process.pid)
            return bool(found)

        command.wait_until(is_there)
        return found[:1]

    return choose


def started(victim: Component, moments: random.Random, early: float, late: float) -> tuple[Command, str]:
    """Start the command and wait for a moment between two shares of its undisturbed duration; return which it was.

    If it has ended by then, because the machine has less to do now, that is its duration from now on.
    """
    while True:
        moment = victim.seconds * moments.uniform(early, late)
        command = victim.start(victim.command)
        command.run_for(moment)
        if command.process.poll() is None:
            return command, f"after {moment:.1f} of {victim.seconds:.1f} s"
        victim.seconds = time.monotonic() - command.started
        victim.restore()


def signalled(
    number: signal.Signals, early: float = 0.0, late: float = 1.0, whom: Whom = everyone, pause: float = 0.0
) -> Fault:
    """Return the fault of sending a signal at a moment between two shares of the undisturbed duration.

    With a `pause`, the processes go on after so many seconds.
    """

    def hurt(victim: Component, moments: random.Random) -> str:
        command, moment = started(victim, moments, early, late)
        for process in (chosen := whom(victim, command)):
            with suppress(ProcessLookupError):
                os.kill(process, number)
        if pause:
            time.sleep(pause)
            for process in chosen:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGCONT)
        command.wait()
        return f"{moment}, for {pause:.0f} s" if pause else moment

    return hurt


def twice_at_once(victim: Component, _: random.Random) -> str:
    """Type the command twice at the same moment; the second may refuse, in a sentence."""
    first, second = victim.start(victim.command), victim.start(victim.command)
    statuses = second.wait(), first.wait()
    return f"they ended with {statuses[1]} and {statuses[0]}"


def damaged(pattern: str, harm: Callable[[bytes, random.Random], bytes], when: str = "before") -> Fault:
    """Return the fault of damaging a file.

    Args:
        pattern: which, in the project.
        harm: makes the new content of the old one.
        when: "before" the command; "after" it has ended; or in the middle, where the command is killed: as soon as the
            file is there ("killed"), or as soon as these words were printed.
    """

    def hurt(victim: Component, moments: random.Random) -> str:
        if when == "after":
            victim.type(victim.command)
        elif when != "before":
            command = victim.start(victim.command)
            seen = (lambda: any(victim.project.glob(pattern))) if when == "killed" else (lambda: when in command.said)
            command.wait_until(seen)
            victim.end_all()
            command.wait()
        files = sorted(path for path in victim.project.glob(pattern) if path.is_file())
        assert files, f"no {pattern}"
        file = moments.choice(files)
        content = harm(file.read_bytes(), moments)
        file.chmod(0o644)
        file.write_bytes(content)
        victim.intact = False
        if when == "before":
            victim.start(victim.command).wait()
        middle = "when it was there, with a kill" if when == "killed" else f"at “{when}”, with a kill"
        return {"before": "before it began", "after": "after it had ended"}.get(when, middle)

    return hurt


def cut(content: bytes, moments: random.Random) -> bytes:
    """Leave the first half or so."""
    return content[: int(len(content) * moments.uniform(0.3, 0.7))]


def flip(content: bytes, moments: random.Random) -> bytes:
    """Turn one byte in the middle half."""
    place = int(len(content) * moments.uniform(0.25, 0.75))
    return content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :]


def page(content: bytes, moments: random.Random) -> bytes:
    """Overwrite one page of an SQLite database, not the first."""
    place = 4096 * moments.randrange(1, len(content) // 4096)
    return content[:place] + moments.randbytes(4096) + content[place + 4096 :]


def first_page(content: bytes, moments: random.Random) -> bytes:
    """Overwrite the first page of an SQLite database."""
    return moments.randbytes(4096) + content[4096:]


def garbage(content: bytes, _: random.Random) -> bytes:
    """Put a line of garbage into the middle of a text."""
    lines = content.splitlines(keepends=True)
    return b"".join([*lines[: len(lines) // 2], b"\x00garbage\xff\n", *lines[len(lines) // 2 :]])


def torn(content: bytes, _: random.Random) -> bytes:
    """Cut the last line in two, as a loss of power does."""
    return content[: -len(content.splitlines()[-1]) // 2]


def full_disk(least: float, most: float) -> Fault:
    """Return the fault of a disk that is full when a share of all is written, until the command has ended."""

    def hurt(victim: Component, moments: random.Random) -> str:
        if shutil.which("unshare") is None or subprocess.run([*SMALL_DISK, "true"], check=False).returncode:
            raise SkipError("this machine lets nobody mount a small disk")
        share = moments.uniform(least, most)
        room = size(victim.project) + int(share * victim.written)
        mount = f'mount -t tmpfs -o size={room} tmpfs "$0" && cp -a "$1/." "$0" && echo ready && exec sleep 3600'
        with subprocess.Popen(
            [*SMALL_DISK, mount, str(victim.project), str(victim.pristine)], stdout=subprocess.PIPE
        ) as disk:
            assert disk.stdout
            try:
                assert disk.stdout.readline() == b"ready\n"
                victim.prefix = ["nsenter", f"--target={disk.pid}", "--user", "--mount", "--preserve-credentials"]
                status = victim.start(victim.command).wait()
                aside = victim.folder / "tmp" / "disk"
                shutil.copytree(f"/proc/{disk.pid}/root{victim.project}", aside, symlinks=True)
            finally:
                victim.prefix = []
                victim.end_all()
                disk.kill()
        shutil.rmtree(victim.project)  # only now, because it takes away what is mounted there
        aside.replace(victim.project)
        return f"room for {share:.0%} of what it writes; it ended with {status}"

    return hurt


def clock_back(victim: Component, moments: random.Random) -> str:
    """Set the clock of the command back by two hours in the middle."""
    if shutil.which("cc") is None:
        raise SkipError("no C compiler for clock.c")
    source, library, back = (
        Path(__file__).with_name("clock.c"),
        victim.folder / "tmp/clock.so",
        victim.folder / "tmp/back",
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True)
    victim.environment |= {"LD_PRELOAD": str(library), "CLOCK_BACK": str(back)}
    try:
        command, moment = started(victim, moments, 0.2, 0.8)
        back.touch()
        command.wait()
    finally:
        victim.environment.pop("LD_PRELOAD")
    return f"by 2 h, {moment}"
