"""Several workers on one machine, each in a process of its own. One that is killed is replaced."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import optuna

from mnist_pipeline.console import quiet_native_logs, warn
from mnist_pipeline.errors import UserError
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.records import trial_ends
from mnist_pipeline.tuning.study import DONE, Mishap, mend

DEATHS = 10
"""So many killed workers in one session are no accident."""
TRIALS_PER_PROCESS = 50
"""TensorFlow's memory grows by 5 MB and more with each training, whatever one clears: then a fresh process goes on."""

Target = Callable[[Plan, int, str, int], None]
"""What a worker process runs: the plan, its number, the study's run in MLflow, and its number of threads."""


def run_workers(plan: Plan, study: optuna.Study, record: StudyRun, count: int, target: Target | None = None) -> None:
    """Run `count` workers at once until the study has the trials asked for or the time is up.

    Args:
        plan: of the study.
        study: opened in this process.
        record: of the study in MLflow.
        count: of the workers; the cores are divided among them.
        target: what each runs, `work` by default.

    Raises:
        UserError: a worker failed (it has said why), or too many were killed.
    """
    threads = max(1, (os.cpu_count() or 1) // count)
    pool = _Pool(plan, study, record, target or work, threads)
    try:
        for worker in range(count):
            pool.start(worker)
        while pool.alive:
            for worker, exit_code in pool.wait():
                pool.settle(worker, exit_code)
    finally:
        pool.stop()


class _Pool:
    """The worker processes that are alive."""

    def __init__(self, plan: Plan, study: optuna.Study, record: StudyRun, target: Target, threads: int) -> None:
        self.alive: dict[int, BaseProcess] = {}
        self._plan, self._study, self._record = plan, study, record
        self._target, self._threads = target, threads
        self._deaths = 0

    def start(self, worker: int) -> None:
        """Start a worker, in a spawned process: TensorFlow does not survive a fork.

        It ignores Ctrl+C, which reaches all processes of a terminal, from its first moment on: what one ignores, those
        one starts ignore, too. Only this process acts on it, by killing its workers.
        """
        arguments = (self._plan, worker, self._record.run_id, self._threads)
        process = multiprocessing.get_context("spawn").Process(target=self._target, args=arguments, daemon=True)
        acting = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            process.start()
        finally:
            signal.signal(signal.SIGINT, acting)
        self.alive[worker] = process

    def wait(self) -> list[tuple[int, int]]:
        """Wait until workers end; return their numbers and exit codes, which are negative if they were killed."""
        ready = wait([process.sentinel for process in self.alive.values()])
        ended = [worker for worker, process in self.alive.items() if process.sentinel in ready]
        codes: list[tuple[int, int]] = []
        for worker in ended:
            process = self.alive.pop(worker)
            process.join()
            codes.append((worker, process.exitcode or 0))
        return codes

    def settle(self, worker: int, exit_code: int) -> None:
        """Replace a worker that has ended before the study has."""
        if exit_code > 0:
            raise UserError(f"Worker {worker} of the study {self._plan.study} failed: its error is above.")
        if exit_code < 0:
            self._deaths += 1
            self._mend(worker, "killed")
            warn(f"Worker {worker} was killed; another one takes over.")
        if self._deaths == DEATHS:
            raise UserError(
                f"{DEATHS} workers of the study {self._plan.study} were killed, most likely for want of memory: run it "
                "again with fewer --workers, or narrow the search space."
            )
        done = len(self._study.get_trials(deepcopy=False, states=DONE))
        if done < self._plan.trials and not self._plan.is_time_up:
            self.start(worker)

    def stop(self) -> None:
        """End those that are left, and leave nothing RUNNING.

        They are killed on the spot and mended from here: an interruption inside of them would come up anywhere, also in
        the middle of libraries that print a traceback or swallow it.
        """
        if not self.alive:
            return
        for process in self.alive.values():
            process.kill()
        for process in self.alive.values():
            process.join()
        self._mend(None, "interrupted")

    def _mend(self, worker: int | None, mishap: Mishap) -> None:
        mend(self._study, self._plan.file, worker, mishap=mishap)
        self._record.reconcile(trial_ends(self._study, self._plan.space))


def work(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    """Be a worker."""
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    with quiet_native_logs():
        from mnist_pipeline.tuning.workers import run_worker
    try:
        run_worker(plan, worker, run_id, threads=threads, limit=TRIALS_PER_PROCESS)
    except UserError as error:
        warn(f"worker {worker}: {error}")
        sys.exit(1)


def _die_with_the_parent() -> None:
    """End this process when its parent is gone: the next session must find nobody at work."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
