"""Ray: the worker processes of a study, on this machine or on a cluster. The only module that imports Ray."""

import logging
import os
import re
import secrets
import signal
import socket
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from textwrap import shorten
from typing import Any

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.provenance.redaction import redact
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning.space import Values
from mnist_pipeline.tuning.worker import Result

DEATHS = 10
"""With so many workers killed since a trial ended well, the study stops; in large studies thrice their workers, because
a node that is lost takes many along."""
TRIALS_PER_PROCESS = 20
"""TensorFlow's memory grows with each training by 25 MB and four times the weights, whatever one clears: after so many
trials, a fresh process goes on."""
SILENCE = 30
"""Seconds without a worker after which it is said what is waited for."""
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


ON_THIS_MACHINE = Resources()
"""One trial at a time, with all cores."""


class WorkerLostError(Exception):
    """A worker process died in the middle of a trial."""


@dataclass
class _Seat:
    """One of the worker processes."""

    actor: Any
    tags: Mapping[str, str] = field(default_factory=dict[str, str])
    """What it said when it was ready."""
    trial: int | None = None
    """Number of the trial that it is training."""
    trials: int = 0
    """How many it has begun."""


class Workers:
    """A fixed number of worker processes, each of which trains one trial at a time. One that is lost is replaced."""

    def __init__(self, count: int, create: Callable[[], Any]) -> None:
        """Start the processes; `create` returns a new actor of the class `Worker`."""
        self.count = count
        self._create = create
        self._awaited: dict[Any, _Seat] = {}  # by the reference of what the worker was asked for
        self._idle: list[_Seat] = []
        self._busy: dict[int, _Seat] = {}
        self._deaths: list[WorkerLostError] = []  # since a trial ended well
        for _ in range(count):
            self._hire()

    @property
    def has_idle(self) -> bool:
        """Whether one is ready for a trial."""
        return bool(self._idle)

    def start(self, number: int, values: Values) -> Mapping[str, str]:
        """Have an idle worker start the trial with this number; return the worker's tags."""
        seat = self._idle.pop(0)
        seat.trial, seat.trials = number, seat.trials + 1
        self._busy[number] = seat
        self._awaited[seat.actor.start.remote(values)] = seat
        return seat.tags

    def answer(self, number: int, *, stop: bool) -> None:
        """Tell the worker of a trial that has reported an epoch to go on, or to stop."""
        seat = self._busy[number]
        self._awaited[seat.actor.go_on.remote(stop)] = seat

    def next(self) -> "tuple[int, Epoch | Result | Exception] | None":
        """Wait for what comes next from any trial: an epoch, its result, or why it failed; None if a worker got ready.

        Raises:
            UserError: a worker cannot work here, or too many were lost.
        """
        import ray
        from ray.exceptions import RayActorError, RayError, RayTaskError

        self._refuse_to_lose_more()
        ready, _ = ray.wait([*self._awaited], timeout=None if self._busy else SILENCE)
        if not ready:
            warn(f"Waiting for {len(self._awaited)} workers: Ray has {_free(ray.available_resources())} free.")
            return None
        seat = self._awaited.pop(ready[0])
        try:
            found = ray.get(ready[0])
        except RayTaskError as error:
            found = error.cause
        except RayError as error:
            if isinstance(error, RayActorError) and error.actor_init_failed:
                reason = str(error).rstrip().rpartition("\n")[2]
                raise UserError(f"A worker cannot start ({reason}): install on each node what is here.") from error
            found = WorkerLostError(str(error).partition("\n")[0])
        return self._took(seat, found)

    def _refuse_to_lose_more(self) -> None:
        if len(self._deaths) >= max(DEATHS, 3 * self.count):
            raise UserError(
                f"{len(self._deaths)} workers were killed, most likely for want of memory: run it again with fewer "
                f"--workers, or narrow the search space. The last one: {self._deaths[-1]}"
            )

    def _took(self, seat: _Seat, found: Any) -> "tuple[int, Epoch | Result | Exception] | None":
        number = seat.trial
        if isinstance(found, WorkerLostError):
            self._deaths.append(found)
            warn("A worker was killed; another one takes over.")
            self._replace(seat)
        elif number is None:
            if isinstance(found, Exception):
                raise found
            seat.tags = found
            self._idle.append(seat)
        elif not isinstance(found, Epoch) and seat.trials == TRIALS_PER_PROCESS:
            self._replace(seat)
        elif not isinstance(found, Epoch):
            seat.trial = None
            self._idle.append(seat)
        if number is not None and not isinstance(found, Epoch):
            del self._busy[number]
        if isinstance(found, Result):
            self._deaths.clear()
        return None if number is None else (number, found)

    def _replace(self, seat: _Seat) -> None:
        import ray

        ray.kill(seat.actor)  # also one that only seems lost, because it would keep its cores
        self._hire()

    def _hire(self) -> None:
        actor = self._create()
        self._awaited[actor.prepare.remote()] = _Seat(actor)


@contextmanager
def ray_workers(
    resources: Resources, worker: Callable[..., Any], terms: Callable[[float], Any], data: Any
) -> Generator[Workers]:
    """Start Ray, or join a cluster, and start the workers there; none is alive afterwards, however it ends.

    Args:
        resources: what may be used.
        worker: class of the workers, `Worker`, which is called with the next two.
        terms: returns what all trials share, given how many GPUs each worker may take.
        data: sent to each machine once, where all workers read the same copy.

    Raises:
        UserError: Ray cannot be started, or the cluster cannot be joined or has too little.
    """
    with _ray(resources) as ray:
        gpus = _gpus_per_trial(resources, ray.cluster_resources())
        _refuse_too_much(resources, gpus, ray.nodes())
        actor = ray.remote(worker).options(num_cpus=resources.cpus_per_trial, num_gpus=gpus)
        content = ray.put(data)
        yield Workers(resources.workers, lambda: actor.remote(terms(gpus), content))


@contextmanager
def _ray(resources: Resources) -> Generator[Any]:
    """Start or join Ray, in silence.

    Raises:
        UserError: that does not work.
    """
    if resources.address:
        _refuse_unreachable(resources.address)
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "5")  # seconds, and lines, that it takes to refuse a token
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it would print 20 lines about each lost worker
    os.environ.setdefault("RAY_DISABLE_FAILURE_SIGNAL_HANDLER", "1")  # or SIGTERM would print a stack of C++
    if not resources.address:
        # Ray listens on all interfaces, whatever address it is given: without a token, anyone could run code here.
        # One token for each process, because Ray reads it only once.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    import ray

    on_terminate = signal.getsignal(signal.SIGTERM)
    try:
        _init(resources)
    except SystemExit as stop:  # Ray's own handler of SIGTERM, which it has put in that place
        raise KeyboardInterrupt from stop
    signal.signal(signal.SIGTERM, on_terminate)
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(resources: Resources) -> None:
    import ray

    local: dict[str, Any] = {
        "num_cpus": resources.workers * resources.cpus_per_trial,
        "object_store_memory": OBJECT_STORE,
        "include_dashboard": resources.dashboard,
    }
    try:
        context = ray.init(
            address=resources.address or "local",
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            **({} if resources.address else local),
        )
    except Exception as error:  # it has several of its own, and those of gRPC
        reason = shorten(redact(str(error)), 400)
        if resources.address:
            raise UserError(
                f"The Ray cluster {resources.address} cannot be joined ({reason}): check the address, and that "
                "RAY_AUTH_MODE and RAY_AUTH_TOKEN are as there."
            ) from error
        way_out = ": install what --dashboard needs with `pip install '.[dashboard]'`" if resources.dashboard else ""
        raise UserError(f"Ray cannot be started ({reason}){way_out}.") from error
    if resources.dashboard and not resources.address:
        say(f"Ray's dashboard is at http://{context.dashboard_url}, with the token {os.environ['RAY_AUTH_TOKEN']}.")


def _refuse_unreachable(address: str) -> None:
    """Refuse an address where nobody answers, because Ray would try for minutes.

    Raises:
        UserError: so it is, or it is no address.
    """
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if not port.isdecimal() or not re.fullmatch(r"[\w.-]+|\[[\da-fA-F:]+\]", host):
        raise UserError(f"--address {address!r} is no address of a Ray cluster: write auto or HOST:PORT.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise UserError(
            f"Nobody answers at --address {address} ({error}): start the cluster, or correct the address; the port is "
            "that of `ray start --head`, 6379 unless it says otherwise."
        ) from error


def _gpus_per_trial(resources: Resources, cluster: Mapping[str, float]) -> float:
    """Return how many GPUs each trial takes: by default the workers share what there is."""
    if resources.gpus is not None:
        return resources.gpus
    gpus = cluster.get("GPU", 0)
    return min(1.0, gpus / resources.workers) if gpus else 0


def _refuse_too_much(resources: Resources, gpus: float, nodes: list[dict[str, Any]]) -> None:
    """Refuse what no machine of the cluster could ever run, because Ray would wait for such a machine.

    Raises:
        UserError: no node has as much as a trial is to take.
    """
    wanted = {"CPU": resources.cpus_per_trial, "GPU": gpus}
    having = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(node.get(kind, 0) >= amount for kind, amount in wanted.items()) for node in having):
        largest = "; ".join(_free(node) for node in having) or "none"
        raise UserError(
            f"No node has {_free(wanted)}, which a trial is to take: lower --cpus-per-trial or --gpus-per-trial. The "
            f"nodes have: {largest}."
        )


def _free(resources: Mapping[str, float]) -> str:
    return f"{resources.get('CPU', 0):g} CPUs and {resources.get('GPU', 0):g} GPUs"
