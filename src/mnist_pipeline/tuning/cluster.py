"""Ray: the worker processes of a study, on this machine or on a cluster. The only module that imports Ray."""

import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.provenance.redaction import redact
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.tuning.plan import Plan, amount
from mnist_pipeline.tuning.worker import code_here

OBJECT_STORE = 256 * 2**20
"""Bytes of shared memory of a local Ray: five times the images."""


@dataclass(frozen=True)
class Resources:
    """What a study may use."""

    workers: int = 1
    """Trials at once."""
    cpus: int | None = None
    """Cores per trial; by default the workers share those of this machine, and have one each in a cluster."""
    gpus: float | None = None
    """GPUs per trial, or a share of one; by default the workers share what there is."""
    address: str | None = None
    """Cluster to join: `auto` or HOST:PORT; None starts Ray on this machine."""
    dashboard: bool = False
    """Whether to serve Ray's dashboard, of a Ray on this machine."""

    @property
    def cpus_per_trial(self) -> int:
        """Cores per trial."""
        return self.cpus or (1 if self.address else max(1, (os.cpu_count() or 1) // self.workers))


Hire = Callable[[], AbstractContextManager[Any]]
"""Starts a worker, an actor of the class `Worker`, which ends with the context."""


class WorkerLostError(Exception):
    """A worker process died in the middle of its work."""


async def answer(reference: Any) -> Any:
    """Wait for what an actor was asked for; return that, or the error that its code raised.

    Raises:
        WorkerLostError: its process is gone.
        UserError: it never was there, because the node cannot run our code.
    """
    from ray.exceptions import RayActorError, RayError, RayTaskError

    try:
        return await reference
    except RayTaskError as error:
        return error.cause
    except RayError as error:
        if isinstance(error, RayActorError) and error.actor_init_failed:
            reason = str(error).rstrip().rpartition("\n")[2]
            raise UserError(f"A worker cannot start ({reason}): install on each node what is here.") from error
        warn("A worker was killed; another one takes over.")
        raise WorkerLostError(str(error).partition("\n")[0]) from error


def warn_of_waiting(count: int) -> None:
    """Say that so many workers are waited for, and what Ray could start them with."""
    import ray

    warn(f"Waiting for {amount(count, 'worker')}: Ray has {_power(ray.available_resources())} free.")


@contextmanager
def ray_workers(resources: Resources, worker: type, plan: Plan, data: TrainingData) -> Generator[Hire]:
    """Start Ray, or join a cluster; return what starts a worker there. None is alive afterwards, however it ends.

    The data are sent to each machine once, where all workers read the same copy.

    Raises:
        UserError: Ray cannot be started, or the cluster cannot be joined or has too little.
    """
    with _ray(resources) as ray:
        gpus, threads = resources.gpus, resources.cpus_per_trial
        if gpus is None:
            gpus = min(1.0, ray.cluster_resources().get("GPU", 0) / resources.workers)
        _refuse_too_much({"CPU": threads, "GPU": gpus}, ray.nodes())
        actor = ray.remote(worker).options(num_cpus=threads, num_gpus=gpus)
        shared = plan, ray.put(data), code_here(), data.digest(), threads, gpus

        @contextmanager
        def hire() -> Generator[Any]:
            hired = actor.remote(*shared)
            try:
                yield hired
            finally:
                ray.kill(hired)  # also one that only seems lost, because it would keep its cores

        yield hire


@contextmanager
def _ray(resources: Resources) -> Generator[Any]:
    """Start or join Ray, in silence."""
    _set_environment(resources)
    import ray

    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        if resources.address:
            _join(resources.address)
        else:
            _start(resources)
    except SystemExit as stop:  # Ray's own handler of SIGTERM, which it has put in that place
        raise KeyboardInterrupt from stop
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield ray
    finally:
        ray.shutdown()


def _set_environment(resources: Resources) -> None:
    """Set what Ray reads when it is imported or started."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it would print 20 lines about each lost worker
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # or SIGTERM would print a stack of C++
    if resources.address:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "5")  # seconds, and lines, that it takes to refuse a token
    else:
        # Ray listens on all interfaces, whatever address it is given: without a token, anyone could run code here.
        # One token for each process, because Ray reads it only once.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def _join(address: str) -> None:
    """Join a cluster; its address is tried first, because where nobody answers, Ray would try for minutes."""
    import ray

    host, _, port = address.rpartition(":")
    if address != "auto" and not (port.isdecimal() and re.fullmatch(r"[\w.-]+|\[[\da-fA-F:]+\]", host)):
        raise UserError(f"--address {address!r} is no address of a Ray cluster: write auto or HOST:PORT.")
    try:
        if address != "auto":
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Nobody answers at --address {address} ({error}): start the cluster, or correct the address; the port is "
            "that of `ray start --head`, 6379 unless it says otherwise."
        ) from error
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.CRITICAL)
    except Exception as error:  # it has several of its own, and those of gRPC
        raise UserError(
            f"The Ray cluster {address} cannot be joined ({shorten(redact(str(error)), 400)}): check the address, and "
            "that RAY_AUTH_MODE and RAY_AUTH_TOKEN are as there."
        ) from error


def _start(resources: Resources) -> None:
    import ray

    try:
        context = ray.init(
            "local",
            num_cpus=resources.workers * resources.cpus_per_trial,
            object_store_memory=OBJECT_STORE,
            include_dashboard=resources.dashboard,
            log_to_driver=False,
            logging_level=logging.CRITICAL,
        )
    except Exception as error:
        way_out = ": install what --dashboard needs with `pip install '.[dashboard]'`" if resources.dashboard else ""
        raise UserError(f"Ray cannot be started ({shorten(redact(str(error)), 400)}){way_out}.") from error
    if resources.dashboard:
        say(f"Ray's dashboard is at http://{context.dashboard_url}, with the token {os.environ['RAY_AUTH_TOKEN']}.")


def _refuse_too_much(wanted: Mapping[str, float], nodes: list[dict[str, Any]]) -> None:
    """Refuse what no machine of the cluster could ever run, because Ray would wait for such a machine."""
    having = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(node.get(kind, 0) >= needed for kind, needed in wanted.items()) for node in having):
        raise UserError(
            f"No node has {_power(wanted)}, which a trial is to take: lower --cpus-per-trial or --gpus-per-trial. The "
            f"nodes have: {'; '.join(map(_power, having)) or 'none'}."
        )


def _power(resources: Mapping[str, float]) -> str:
    return f"{amount(resources.get('CPU', 0), 'CPU')} and {amount(resources.get('GPU', 0), 'GPU')}"
