"""MLflow's own web page, pointed at the project's store and opened where the models are ranked."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from typing import Never

from mnist_pipeline.core.console import say
from mnist_pipeline.core.page import free_port, open_page
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.page.views import MODELS_VIEWS
from mnist_pipeline.tracking.store import experiment_name, open_store, tracking_uri

COMMAND = ("mlflow", "ui", "--workers", "1", "--uvicorn-opts", "--log-level warning --no-access-log", "--port")


def serve(project: Project, port: int | None, *, browser: bool) -> None:
    """Show MLflow's page: the one of the server in `MLFLOW_TRACKING_URI`, or `mlflow ui`, run until an interruption.

    `mlflow ui` listens on this machine alone; without a port, on the next free one from 5000. A browser opens the page
    only if there is a desktop.

    Raises:
        UserError: the port is taken, or the store cannot be used.
        SystemExit: MLflow could not start, or ended by itself; why has been printed.
    """
    uri = tracking_uri(project)
    if uri.startswith("http"):
        _show(project, public_uri(uri), browser=browser)
        return
    port = free_port(port, 5000)
    say(f"MLflow is starting on port {port} … (Ctrl+C ends it)")
    with suppress(KeyboardInterrupt):
        _run(project, uri, port, browser=browser)


def _run(project: Project, uri: str, port: int, *, browser: bool) -> Never:
    open_store(project)  # so that the page has something to show, and nobody races to create it
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # unless nohup lets it outlive its terminal
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with tempfile.TemporaryFile() as log:
        server = _start(project, uri, port, log.fileno())
        try:
            if _is_there(server, port):
                _show(project, f"http://127.0.0.1:{port}", browser=browser)
            server.wait()
        finally:
            _stop(server)
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))
    raise SystemExit(1)


def _show(project: Project, address: str, *, browser: bool) -> None:
    """Print where the views of the pipeline's runs are, and open the first."""
    experiment = open_store(project).get_experiment_by_name(experiment_name(project)).experiment_id
    for view in MODELS_VIEWS:
        say(f"{view.name}: {view.address(address, experiment)}")
    if browser:
        open_page(MODELS_VIEWS[0].address(address, experiment))


def _start(project: Project, uri: str, port: int, log: int) -> subprocess.Popen[bytes]:
    """Start `mlflow ui` in a process group of its own, because Ctrl+C is for this process, which ends all of the group.

    The store is named in the environment, not among the arguments, where every user could read a password.
    """
    environment = {
        **os.environ,
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for language models
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, "-m", *COMMAND, str(port)]
    return subprocess.Popen(command, cwd=project.home, env=environment, stdout=log, stderr=log, start_new_session=True)


def _is_there(server: subprocess.Popen[bytes], port: int) -> bool:
    """Wait until a server listens; return False if it ended instead."""
    while server.poll() is None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return True
        time.sleep(0.2)
    return False


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End a server and its workers, by force after a second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl+C would leave some of them
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(patience)
