"""Several workers on one machine, each in a process of its own. One that is killed is replaced."""

import multiprocessing
import os
import signal
import sys
import threading
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess

import optuna

from mnist_pipeline.core.console import quiet_native_logs, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import trial_ends
from mnist_pipeline.tuning.study import count_done, repair

DEATHS = 10
"""With so many workers killed in one session, the study stops."""
TRIALS_PER_PROCESS = 20
"""TensorFlow's memory grows with each training by 25 MB and four times the weights, whatever one clears: after so many
trials, a fresh process goes on."""


def run_workers(plan: Plan, study: optuna.Study, record: StudyRun, count: int) -> None:
    """Run `count` workers at once, which share the cores, until the study has its trials or the time is up.

    None is alive afterwards, however it ends; the caller repairs what they were working on.

    Raises:
        UserError: a worker failed (it has said why), or too many were killed.
    """
    threads, deaths = max(1, (os.cpu_count() or 1) // count), 0
    alive: dict[int, BaseProcess] = {}
    try:
        for worker in range(count):
            alive[worker] = _start(plan, worker, record.run_id, threads)
        while alive:
            for worker, exit_code in _wait(alive):
                if exit_code < 0:
                    deaths += 1
                    repair(study, plan.file, worker)
                    record.reconcile(trial_ends(study))
                _check(plan, worker, exit_code, deaths)
                if count_done(study) < plan.trials and not plan.is_time_up:
                    alive[worker] = _start(plan, worker, record.run_id, threads)
    finally:
        # Not interrupted: that would come up anywhere, also inside of libraries that print a traceback or swallow it.
        for process in alive.values():
            process.kill()
        for process in alive.values():
            process.join()


def _start(plan: Plan, worker: int, run_id: str, threads: int) -> BaseProcess:
    """Start a worker, in a spawned process: TensorFlow does not survive a fork.

    It ignores Ctrl+C, which reaches all processes of a terminal, from its first moment on: what one ignores, those
    one starts ignore, too. Only this process acts on it, by killing its workers.
    """
    process = multiprocessing.get_context("spawn").Process(
        target=work, args=(plan, worker, run_id, threads), daemon=True
    )
    acting = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        process.start()
    finally:
        signal.signal(signal.SIGINT, acting)
    return process


def _wait(alive: dict[int, BaseProcess]) -> list[tuple[int, int]]:
    """Wait until workers end; take them out and return their numbers and exit codes, negative for those killed."""
    ready = wait([process.sentinel for process in alive.values()])
    ended = {worker: process for worker, process in alive.items() if process.sentinel in ready}
    for worker, process in ended.items():
        del alive[worker]
        process.join()
    return [(worker, process.exitcode or 0) for worker, process in ended.items()]


def _check(plan: Plan, worker: int, exit_code: int, deaths: int) -> None:
    """Check that the study can go on after a worker has ended.

    Raises:
        UserError: it failed, or too many were killed.
    """
    if exit_code > 0:
        raise UserError(f"Worker {worker} of the study {plan.study} failed: its error is above.")
    if exit_code < 0:
        warn(f"Worker {worker} was killed; another one takes over.")
    if deaths == DEATHS:
        raise UserError(
            f"{DEATHS} workers of the study {plan.study} were killed, most likely for want of memory: run it again "
            "with fewer --workers, or narrow the search space."
        )


def work(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    """Run trials until the study is complete: the main function of a worker process."""
    threading.Thread(target=_die_with_the_parent, daemon=True).start()
    with quiet_native_logs():
        import tensorflow as tf

        from mnist_pipeline.tuning.trial import run_trials
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    try:
        run_trials(plan, worker, run_id, limit=TRIALS_PER_PROCESS)
    except UserError as error:
        warn(f"worker {worker}: {error}")
        sys.exit(1)


def _die_with_the_parent() -> None:
    """End this process when its parent is gone: the next session must find nobody at work."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)
