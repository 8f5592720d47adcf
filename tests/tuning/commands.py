"""Processes that tests start, signal and kill. Each is a fork of one that has imported everything, which takes 10 s."""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil

from mnist_pipeline.tuning.plan import Plan

PATIENCE = 120
"""Seconds, for a machine that has other things to do."""
os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "for the tests"}  # before Ray is imported and reads it
_forks = multiprocessing.get_context("forkserver")
_forks.set_forkserver_preload(["mlflow", "matplotlib.pyplot", "mnist_pipeline.tuning.tune"])


class Command:
    """A running `mnist tune`, leader of a process group, as under a terminal."""

    def __init__(self, plan: Plan, *options: str, workers: Callable[[], type] | None = None) -> None:
        """Start it for a study; `workers` returns a class to train with, `Worker` by default."""
        self.log = plan.project.root / f"{plan.study}.{time.monotonic_ns()}.txt"
        arguments = ["tune", plan.name, "--study", plan.study, "--trials", str(plan.trials), *options]
        self.process: Any = _forks.Process(target=_run, args=(plan.project.root, self.log, arguments, workers))
        self.process.start()

    @property
    def said(self) -> str:
        """What it has printed so far, to standard output and standard error."""
        return self.log.read_text() if self.log.exists() else ""

    def wait_for(self, text: str) -> None:
        """Wait until it has printed this."""
        wait_until(lambda: text in self.said or not self.process.is_alive())
        assert text in self.said, f"it ended before it said {text!r}: {self.said}"

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.process.pid, number)

    def wait(self) -> int:
        """Wait until it has ended, and return its exit status."""
        self.process.join(PATIENCE)
        assert self.process.exitcode is not None, f"it does not end: {self.said}"
        return self.process.exitcode


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE) -> None:
    """Wait until something is so, and fail if it never is."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it never came to that"
        time.sleep(0.02)


def processes_in(folder: Path) -> list[str]:
    """Return the command lines of all processes that were started in a folder, Ray's and others."""
    found: list[str] = []
    for process in psutil.process_iter():
        try:
            if Path(process.cwd()) == folder and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


@contextmanager
def running_ray(cpus: int) -> Generator[str]:
    """Run a Ray of so many cores in a process of its own; return its address."""
    here, there = _forks.Pipe()
    process = _forks.Process(target=_serve_ray, args=(cpus, there))
    process.start()
    there.close()
    yield here.recv()
    here.close()
    process.join(PATIENCE)


def _serve_ray(cpus: int, pipe: Connection) -> None:
    import ray

    ray.init(address="local", num_cpus=cpus, include_dashboard=False, object_store_memory=2**28, log_to_driver=False)
    pipe.send(ray.get_runtime_context().gcs_address)
    pipe.poll(None)  # until the tests are over
    ray.shutdown()


def _run(folder: Path, log: Path, arguments: list[str], workers: Callable[[], type] | None) -> None:
    os.setsid()
    os.chdir(folder)
    # Those of the tests; their Ray has the tests' token.
    for name in ("MLFLOW_TRACKING_URI", *(() if "--address" in arguments else ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN"))):
        os.environ.pop(name, None)
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    from mnist_pipeline import cli
    from mnist_pipeline.tuning import tune

    if workers:
        tune.tune = partial(tune.tune, worker=workers())
    sys.argv = ["mnist", *arguments]
    cli.main()
