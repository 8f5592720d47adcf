"""What the benchmarks share: measurements in processes of their own, clones of the project, and the machine."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.provenance.environment import cpu_model

HERE = Path(__file__).parent
RESULTS = HERE / "results"
"""Where each benchmark writes its measurements and its tables, unless it is told otherwise."""

Record = dict[str, Any]
"""One measurement, as a line of JSON."""


@dataclass(frozen=True)
class Job:
    """One measurement to make, in a process of its own."""

    contestant: str
    """Who is measured."""
    seed: int
    """Seed of the training or study: tells the repetitions apart."""
    key: str
    """Digest of all else that decides the result: measurements are comparable if it agrees."""
    root: str
    """Folder of the project."""


def measure_missing(
    jobs: Sequence[Job],
    script: Path,
    results: Path,
    tell: Callable[[Record], str],
    commands: Mapping[str, Sequence[str]] | None = None,
) -> list[Record]:
    """Make the measurements that are not in `results` yet, append each as it ends, and return those of all jobs.

    Args:
        jobs: all measurements, in order.
        script: takes a job as its argument, in JSON; the last line that it prints is the record.
        results: JSON lines.
        tell: what to say of a record, in a few words.
        commands: how to start Python for a contestant, where it is another one than this.

    Raises:
        UserError: a process failed; it has said why.
    """
    left = [job for job in jobs if not any(_is_of(record, job) for record in _read(results))]
    if len(left) < len(jobs):
        say(f"{len(jobs) - len(left)} of {len(jobs)} measurements are in {results} already.")
    results.parent.mkdir(parents=True, exist_ok=True)
    for number, job in enumerate(left, start=1):
        record = asdict(job) | _measure_in_process(job, script, (commands or {}).get(job.contestant, ()))
        with results.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
        say(f"{number}/{len(left)}  {job.contestant:<14} seed {job.seed}  {tell(record)}")
    return [record for record in _read(results) if any(_is_of(record, job) for job in jobs)]


def _measure_in_process(job: Job, script: Path, python: Sequence[str]) -> Record:
    command = [*(python or (sys.executable,)), str(script), json.dumps(asdict(job))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"{script.name} failed for {job.contestant} with seed {job.seed}, status {done.returncode}.")
    return json.loads(done.stdout.splitlines()[-1])


def _read(path: Path) -> list[Record]:
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    # A line that was cut short by a kill is a measurement that was not made.
    return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")]


def _is_of(record: Record, job: Job) -> bool:
    return (record["contestant"], record["seed"], record["key"]) == (job.contestant, job.seed, job.key)


def by_contestant(records: Sequence[Record]) -> dict[str, list[Record]]:
    """Group the records, in the order in which the contestants first appear."""
    names = dict.fromkeys(record["contestant"] for record in records)
    return {name: [record for record in records if record["contestant"] == name] for name in names}


def clone(project: Project, folder: Path) -> Project:
    """Return a clone of the project's last commit: what git has, and nothing else."""
    subprocess.run(("git", "clone", "--quiet", "--shared", str(project.root), str(folder)), check=True)
    return find_project(folder)


def machine() -> str:
    """Return processor, usable cores, system, and the versions of what computes, as one line."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count()
    packages = ", ".join(f"{name} {version(name)}" for name in ("tensorflow", "keras", "numpy"))
    system = f"{platform.system()} {platform.machine()}"
    return f"{cpu_model()}, {cores} cores, {system}; python {platform.python_version()}, {packages}"
