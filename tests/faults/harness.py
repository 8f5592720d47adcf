"""Hurting a command of a user: start it, hurt it, recover as a user would, compare with an undisturbed run.

A component is a command in a project of its own, always in the same folder, because an MLflow store names its folders.
"""

import os
import random
import re
import shutil
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from mnist_pipeline.core.files import file_digest

PATIENCE = 60, 5
"""Seconds after which a command counts as hanging: so many, and so many times what an undisturbed one takes."""
LONG = 120
"""Seconds that an undisturbed command may take where nobody knows yet."""
MARK = "MNIST_FAULTS"
"""Environment variable that every process of a component inherits."""
PASSING = re.compile(
    r"^(\.git|\.dvc/tmp|\.dvc/config\.local|mlruns|mlflow\.db.*|\.checkpoints/.*\.(lock|holder|damaged)|.*__pycache__)(/|$)"
)
"""What two undisturbed runs do not have in common: times, ids, locks that nobody holds, and what was put aside."""
ERROR = re.compile(r"^[A-Za-z_.]+(?:Error|Exception).*", re.MULTILINE)


class StuckError(Exception):
    """A command did not end by itself."""


class SkipError(Exception):
    """A fault cannot be had on this machine."""


@dataclass
class Command:
    """A command that runs in a project, leader of a process group, as under a terminal."""

    text: str
    process: subprocess.Popen[bytes]
    log: Path
    limit: float
    started: float = field(default_factory=time.monotonic)

    @property
    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_until(self, condition: Callable[[], bool]) -> None:
        while self.process.poll() is None and not condition():
            if time.monotonic() - self.started > self.limit:
                raise StuckError(f"`{self.text}` did not end within {self.limit:.0f} s")
            time.sleep(0.02)

    def run_for(self, seconds: float) -> None:
        self.wait_until(lambda: time.monotonic() - self.started > seconds)

    def wait(self) -> int:
        self.wait_until(lambda: False)
        return self.process.wait()


class Component(ABC):
    """A command of a user, and what must be true of the project when it has done its work, whatever happened."""

    name: str
    command: str
    """What a user types, and types again after a mishap."""
    finish: tuple[str, ...] = ()
    """What is typed after it in the end, as the docs say."""
    milestones: tuple[str, ...] = ()
    """What it prints on its way, where an outage of its server begins; by default, that is a matter of seconds."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / self.name.replace(" ", "-")
        self.project, self.pristine = self.folder / "project", self.folder / "pristine"
        self.logs, self.prefix = self.folder / "logs", list[str]()
        self.environment: dict[str, str] = {}
        self.seconds, self.written = 0.0, 0
        self.intact = True  # False where a fault has damaged what the command must mend, however it ended
        self.reference: Mapping[str, str] = {}
        self.home: frozenset[str] = frozenset()

    @abstractmethod
    def build(self) -> None:
        """Make the project as it is before the command; services run already."""

    @abstractmethod
    def problems(self) -> Iterator[str]:
        """Say what is wrong with the project after all, beside its files."""

    @abstractmethod
    def lost(self, said: str) -> str:
        """Say how much work was done twice, from what all commands have printed."""

    @contextmanager
    def services(self) -> Generator[None]:
        yield

    def make_ready(self) -> None:
        """Build the project, keep a copy of it, and learn what an undisturbed run takes and leaves."""
        for folder in (self.project, self.folder / "home", self.folder / "tmp", self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "neighbour.txt").write_text("not ours")
        self.build()
        shutil.copytree(self.project, self.pristine, symlinks=True)
        start, before = time.monotonic(), size(self.project)
        said = self.type(self.command)
        self.seconds, self.written = time.monotonic() - start, size(self.project) - before
        said += self.type(*self.finish)
        self.reference, self.home = self.files(), self.outside()
        if wrong := [*self.problems()]:
            raise AssertionError(f"{self.name}, undisturbed: {wrong}\n{said}")

    def restore(self) -> None:
        """Put the project back to what it was before the command."""
        self.end_all()
        self.intact = True
        shutil.rmtree(self.project)
        shutil.rmtree(self.logs)
        shutil.rmtree(self.folder / "dvc", ignore_errors=True)
        shutil.copytree(self.pristine, self.project, symlinks=True)
        self.logs.mkdir()

    def start(self, text: str, **environment: str) -> Command:
        log = self.logs / f"{time.monotonic_ns()}.txt"
        surroundings = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_", "DVC_", "RAY_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(path for path in sys.path if path.endswith(("/src", "/tests"))),
            "HOME": str(self.folder / "home"),
            "TMPDIR": str(self.folder / "tmp"),
            "MPLCONFIGDIR": str(self.folder.parent / "matplotlib"),  # or each home would get a list of all fonts
            "DVC_SITE_CACHE_DIR": str(self.folder / "dvc"),  # or what it knows of one cell would help the next
            "DO_NOT_TRACK": "1",
            MARK: str(self.folder),
            **self.environment,
            **environment,
        }
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*self.prefix, "sh", "-c", f'cd "{self.project}" && exec {text}'],
                env=surroundings, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
                start_new_session=True,
            )  # fmt: skip
        self.last = Command(text, process, log, PATIENCE[0] + PATIENCE[1] * (self.seconds or LONG))
        return self.last

    def type(self, *commands: str) -> str:
        said = ""
        for text in commands:
            command = self.start(text)
            status = command.wait()
            said += command.said
            if status:
                raise AssertionError(f"`{text}` ended with {status}: {command.said[-600:]}")
        return said

    @property
    def said(self) -> str:
        """What all commands of this cell have printed."""
        return "".join(log.read_text(errors="replace") for log in sorted(self.logs.glob("*.txt")))

    def files(self) -> dict[str, str]:
        """Return the digest of each file of the project that a second run should leave as it is."""
        found = (path for path in sorted(self.project.rglob("*")) if path.is_file())
        names = {path.relative_to(self.project).as_posix(): path for path in found}
        kept = {name: path for name, path in names.items() if not PASSING.search(name)}
        # A checkpoint that waits for DVC holds the id of its run.
        return {name: "" if name.startswith(".checkpoints") else file_digest(path) for name, path in kept.items()}

    def outside(self) -> frozenset[str]:
        """Return the files outside the project that the command could have touched, but for temporary ones."""
        paths = [*self.folder.glob("*"), *(self.folder / "home").rglob("*")]
        assert (self.folder / "neighbour.txt").read_text() == "not ours"
        return frozenset(str(path.relative_to(self.folder)) for path in paths)

    def processes(self) -> list[psutil.Process]:
        """Return the processes that the component's commands have started."""
        found: list[psutil.Process] = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == str(self.folder):
                    found.append(process)
        return found

    def wait_for_orphans(self) -> None:
        """Wait until no process of the component is left, as messages about another process advise."""
        give_up = time.monotonic() + PATIENCE[0]
        while self.processes() and time.monotonic() < give_up:
            time.sleep(0.2)

    def end_all(self) -> None:
        for process in self.processes():
            with suppress(psutil.Error):
                process.kill()


Fault = Callable[[Component, random.Random], str]
"""Runs a component's command and hurts it; returns when and how, in words."""


@dataclass(frozen=True)
class Cell:
    """A component, what is done to it, and what a user types before the same command again."""

    component: str
    name: str
    fault: Fault
    way_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What came of a cell."""

    component: str
    fault: str
    verdict: str
    """green, red or skipped."""
    hurt: str = ""
    typed: str = ""
    seconds: float = 0.0
    """Of the recovery."""
    undisturbed: float = 0.0
    """Seconds that the command takes when nothing happens."""
    lost: str = ""
    problems: tuple[str, ...] = ()


def play(cell: Cell, victim: Component, seed: int) -> Outcome:
    """Hurt a component, recover, and judge."""
    victim.restore()
    moments = random.Random(f"{seed} {cell.component} {cell.name}")
    try:
        hurt = cell.fault(victim, moments)
    except SkipError as reason:
        return Outcome(cell.component, cell.name, "skipped", str(reason))
    except (StuckError, AssertionError) as error:
        return Outcome(cell.component, cell.name, "red", problems=(str(error),))
    start, typed, wrong, seconds, lost = time.monotonic(), list[str](), list[str](), 0.0, ""
    try:
        for command in recovery(victim, cell.way_out):
            typed.append(command)
            seconds = time.monotonic() - start
        wrong += [*differences(victim), *victim.problems()]
        lost = victim.lost(victim.said)
    except Exception as error:  # whatever it is that the recovery or the checks stumble on
        wrong.append(f"{type(error).__name__}: {error}")
    said = victim.said
    if "Traceback (most recent call last)" in said:
        wrong.append(f"a traceback: {ERROR.findall(said)[-1:]}")
    by = ", ".join(f"`{each.removeprefix('python -m ')}`" for each in typed)
    verdict = "red" if wrong else "green"
    return Outcome(cell.component, cell.name, verdict, hurt, by, seconds, victim.seconds, lost, tuple(wrong))


def recovery(victim: Component, way_out: Iterable[str]) -> Iterator[str]:
    """Type what a user would, yielding each command: the same one twice if at first it says what was wrong.

    Nobody types a command again that has ended well, unless files were damaged.
    """
    ended_well = victim.last.process.returncode == 0 and victim.intact
    for text in way_out:
        victim.type(text)
        yield text
    if not ended_well and (again := victim.start(victim.command)).wait():
        yield victim.command
        assert "error: " in again.said or "ERROR: " in again.said, f"it said only {again.said[-300:]!r}"
        victim.wait_for_orphans()
        victim.type(victim.command)
    if not ended_well:
        yield victim.command
    for text in victim.finish:
        victim.type(text)
        yield text


def differences(victim: Component) -> Iterator[str]:
    """Say how the files differ from those of an undisturbed run, and what was left outside or running."""
    files = victim.files()
    for name in sorted({*files, *victim.reference}):
        if files.get(name) != victim.reference.get(name):
            state = "is missing" if name not in files else "is left over" if name not in victim.reference else "differs"
            yield f"{name} {state}"
    if more := victim.outside() - victim.home:
        yield f"outside the project: {', '.join(sorted(more))}"


def size(folder: Path) -> int:
    """Return what the files of a folder take on a small disk, in bytes."""
    return sum(-(-path.lstat().st_size // 4096) * 4096 for path in folder.rglob("*") if path.is_file())
