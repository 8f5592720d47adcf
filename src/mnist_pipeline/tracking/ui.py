"""MLflow's own web page, pointed at the project's store."""

import os
import sys
from typing import Never

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.store import open_store, tracking_uri


def serve(project: Project, port: int) -> Never:
    """Replace this process by `mlflow ui`: one worker, telemetry off, on this machine's loopback address.

    Raises:
        UserError: `MLFLOW_TRACKING_URI` points to a server, which has a page of its own.
    """
    uri = tracking_uri(project)
    if uri.startswith("http"):
        raise UserError(f"MLFLOW_TRACKING_URI is set: open {public_uri(uri)} in a browser instead.")
    open_store(project)  # so that the page has something to show, and nobody races to create it
    say(f"MLflow at http://127.0.0.1:{port} (Ctrl+C ends it)")
    environment = {
        **os.environ,
        # In the environment and not among the arguments, where every user of the machine could read a password.
        "MLFLOW_BACKEND_STORE_URI": uri,
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    os.chdir(project.home)
    os.execve(  # noqa: S606 - no shell is what we want
        sys.executable,
        [sys.executable, "-m", "mlflow", "ui", "--port", str(port), "--workers", "1"],
        environment,
    )
