"""MLflow's own web page, pointed at the project's store and opened where the models are ranked."""

import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from typing import Never
from urllib.parse import quote

import psutil

from mnist_pipeline.core.console import say
from mnist_pipeline.core.page import free_port, open_page
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.page.views import MODELS_VIEWS
from mnist_pipeline.tracking.store import experiment_name, open_store, tracking_uri


def serve(project: Project, port: int | None, *, browser: bool) -> None:
    """Show MLflow's page: the one of the server in `MLFLOW_TRACKING_URI`, or `mlflow ui`, run until an interruption.

    `mlflow ui` listens on this machine alone; without a port, on the next free one from 5000. A browser opens the page
    only if there is a desktop.

    Raises:
        UserError: the port is taken.
        SystemExit: MLflow could not start, or ended by itself; why has been printed.
    """
    uri = tracking_uri(project)
    if uri.startswith("http"):
        experiment = open_store(project).get_experiment_by_name(experiment_name(project))
        _show(public_uri(uri), experiment.experiment_id, browser=browser)
        return
    port = free_port(port, 5000)
    say(f"MLflow is starting on port {port} … (Ctrl+C ends it)")
    if signal.getsignal(signal.SIGHUP) == signal.SIG_DFL:  # unless nohup lets it outlive its terminal
        signal.signal(signal.SIGHUP, signal.default_int_handler)
    with tempfile.TemporaryFile() as log:
        server = _start(project, uri, port, log.fileno())
        try:
            if experiment := _await_experiment(project, server, port):
                _show(f"http://127.0.0.1:{port}", experiment, browser=browser)
            server.wait()
        except KeyboardInterrupt:
            return
        finally:
            _stop(server)
        log.seek(0)
        sys.stderr.write(log.read().decode(errors="replace"))
    raise SystemExit(1)


def _show(server: str, experiment: str, *, browser: bool) -> None:
    """Print where the views of the pipeline's runs are, and open the first."""
    for view in MODELS_VIEWS:
        say(f"{view.name}: {view.address(server, experiment)}")
    if browser:
        open_page(MODELS_VIEWS[0].address(server, experiment))


def _start(project: Project, uri: str, port: int, log: int) -> psutil.Process:
    """Fork `mlflow ui`: this process stays small, for it does not import MLflow, which takes 200 MB."""
    number = os.fork()
    if not number:
        _become_mlflow(project, uri, port, log)
    return psutil.Process(number)


def _become_mlflow(project: Project, uri: str, port: int, log: int) -> Never:
    """Prepare the store, in a process group of our own, and be replaced by `mlflow ui`, which says all to a log."""
    os.setsid()  # Ctrl+C is for the parent, which ends all of the group
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    open_store(project)  # so that the page has something to show, and nobody races to create it
    environment = {
        **os.environ,
        # In the environment and not among the arguments, where every user of the machine could read a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # eight more processes, for language models
        "PYTHONWARNINGS": "ignore",
    }
    os.chdir(project.home)
    for stream in (1, 2):
        os.dup2(log, stream)
    quiet = ("--workers", "1", "--uvicorn-opts", "--log-level warning --no-access-log")
    command = [sys.executable, "-m", "mlflow", "ui", "--port", str(port), *quiet]
    os.execve(sys.executable, command, environment)  # noqa: S606 - no shell is what we want


def _await_experiment(project: Project, server: psutil.Process, port: int) -> str | None:
    """Return the id of the pipeline's experiment as soon as the server answers; None if it ended instead."""
    while True:
        connection = HTTPConnection("127.0.0.1", port, timeout=30)
        with suppress(OSError, HTTPException):
            name = quote(experiment_name(project), safe="")
            connection.request("GET", f"/api/2.0/mlflow/experiments/get-by-name?experiment_name={name}")
            return json.load(connection.getresponse())["experiment"]["experiment_id"]
        with suppress(psutil.TimeoutExpired):
            server.wait(0.2)
            return None


def _stop(server: psutil.Process) -> None:
    """End a server and its workers, by force after a second."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # a second Ctrl+C would leave some of them
    for number, patience in ((signal.SIGTERM, 1), (signal.SIGKILL, None)):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(psutil.TimeoutExpired):
            server.wait(patience)
