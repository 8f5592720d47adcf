"""Opening the MLflow store: where it is, making it ready once, before anything parallel, and what can go wrong."""

import logging
import os
import sqlite3
from collections.abc import Iterable
from contextlib import closing, suppress
from functools import cache
from pathlib import Path
from textwrap import shorten
from threading import Timer
from typing import TYPE_CHECKING, cast

from mnist_pipeline.core.console import warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri, redact
from mnist_pipeline.tracking.views import (
    MODELS_DESCRIPTION,
    MODELS_VIEWS,
    TRIALS_DESCRIPTION,
    TRIALS_VIEWS,
    View,
    view_tags,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_FIRST_CONTACT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "3",  # seconds
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""MLflow's settings until a server has answered once: 14 seconds at most, with the pauses between three tries."""

_FILE_ERRORS = (
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
)  # fmt: skip
_ROOM = "see that its folder can be written and its disk has room, or set MLFLOW_TRACKING_URI to a store elsewhere"
_OR_UNSET = "or unset MLFLOW_TRACKING_URI to use mlflow.db in the project's folder"


def tracking_uri(project: Project) -> str:
    """Return `MLFLOW_TRACKING_URI` if set, otherwise the project's own `mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.tracking_database}"


def open_store(project: Project) -> "MlflowClient":
    """Point MLflow at the project's store, creating the store and the experiments if they are not there yet.

    Raises:
        UserError: the store cannot be reached or written.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")  # bars of a tenth of a second
    os.environ.pop("MLFLOW_RUN_ID", None)  # or each training would go on with that run
    import mlflow
    from filelock import FileLock

    for noisy in ("alembic", "mlflow.store.artifact", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_has_no_traceback)
    # Where Ctrl+C meets a query, it prints a traceback beside the interruption itself, which is told of anyway.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    uri = tracking_uri(project)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        if uri.startswith("http"):
            _meet(uri)
        # Two processes that meet an empty database would both run its migrations, and one of them would crash.
        project.artifacts.mkdir(parents=True, exist_ok=True)
        with FileLock(project.artifacts / ".store.lock"):
            if uri.startswith("sqlite:///"):
                _prepare_file(project, Path(uri.removeprefix("sqlite:///").partition("?")[0]))
            client = mlflow.MlflowClient()
            # A location in the project, because a client without a server cannot use one that a server has chosen.
            folder = None if uri.startswith("http") else project.artifacts
            _ensure_experiment(client, experiment_name(), MODELS_DESCRIPTION, MODELS_VIEWS, folder)
            _ensure_experiment(client, tuning_experiment_name(), TRIALS_DESCRIPTION, TRIALS_VIEWS, folder)
    except Exception as error:  # a driver, a server and a file system each have their own
        raise UserError(what_is_wrong(error) or _unusable(error, uri)) from error
    return client


def what_is_wrong(error: Exception) -> str | None:
    """Return why the store cannot be reached or written, in a sentence; None if the error is of another kind."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    address, chain = public_uri(mlflow.get_tracking_uri()), [cast("BaseException", error)]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    origin = chain[-1]
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    if status in (401, 403):
        return (
            f"The MLflow server {address} refuses this user (status {status}): set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, {_OR_UNSET}."
        )
    # A ValueError is of an address that never was one.
    if any(isinstance(cause, RequestException) and not isinstance(cause, ValueError) for cause in chain):
        reason = redact(str(origin))
        return f"The MLflow server {address} does not answer ({reason}): start it, {_OR_UNSET}."
    if isinstance(origin, sqlite3.Error) and getattr(origin, "sqlite_errorcode", 0) & 0xFF in _FILE_ERRORS:
        return f"{address} cannot be read or written ({origin}): {_ROOM}."
    return None


def _unusable(error: Exception, uri: str) -> str:
    """Return why a store could not be opened where `what_is_wrong` does not know, in a sentence."""
    from mlflow.exceptions import MlflowException

    if isinstance(error, OSError):
        return f"{error.filename or 'A file of the MLflow store'} cannot be written ({error.strerror}): {_ROOM}."
    reason = redact(shorten(str(error).partition("\n")[0], 200))
    foreign = uri.startswith("http") and isinstance(error, MlflowException)
    if foreign and "error_code" not in getattr(error, "json", ()):  # which MLflow's servers never leave out
        return f"{public_uri(uri)} is no MLflow server ({reason}): correct the address, {_OR_UNSET}."
    return f"The MLflow store {public_uri(uri)} cannot be used ({reason}): correct the address, {_OR_UNSET}."


@cache
def _meet(uri: str) -> None:
    """Make the first request of this process to a server, with less patience than MLflow has in a training."""
    import mlflow

    own = {name: value for name, value in _FIRST_CONTACT.items() if name not in os.environ}
    os.environ |= own
    notice = Timer(5, warn, [f"Waiting for {public_uri(uri)} …"])
    notice.start()
    try:
        mlflow.MlflowClient().search_experiments(max_results=1)
    finally:
        notice.cancel()
        for name in own:
            del os.environ[name]


def _prepare_file(project: Project, file: Path) -> None:
    """Create the project's own database whole or not at all, and open it, or any other SQLite file, once.

    MLflow cannot go on with a database whose creation was cut off, as by a kill or a full disk, and goes on for 100
    seconds, with warnings, if it cannot open one.
    """
    from mlflow import MlflowClient

    if file == project.tracking_database and not file.exists():
        with atomic_path(file) as temporary:
            MlflowClient(f"sqlite:///{temporary}").get_experiment_by_name("")
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA schema_version")


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Leave out the traceback of an error that MLflow logs and then raises."""
    return record.exc_info is None


def experiment_name() -> str:
    """Return the name of the experiment that the pipeline's runs go to: `MLFLOW_EXPERIMENT_NAME`, or else `mnist`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "mnist"


def tuning_experiment_name() -> str:
    """Return the name of the experiment that studies go to."""
    return f"{experiment_name()}-tuning"


def find_runs(client: "MlflowClient", query: str) -> "list[Run]":
    """Return the pipeline's runs that MLflow's search finds, without deleted ones, the newest first."""
    return client.search_runs([client.get_experiment_by_name(experiment_name()).experiment_id], query)


def _ensure_experiment(
    client: "MlflowClient", name: str, description: str, views: Iterable[View], folder: Path | None
) -> None:
    """Create an experiment whose artifacts go to a folder, or to where the server keeps them; give it its views."""
    from mlflow.exceptions import MlflowException

    tags = view_tags(views)
    if experiment := client.get_experiment_by_name(name):
        with suppress(MlflowException):  # of a server where we may only look
            for key, value in tags.items():
                if experiment.tags.get(key) != value:
                    client.set_experiment_tag(experiment.experiment_id, key, value)
    else:
        client.create_experiment(
            name,
            artifact_location=(folder / name).as_uri() if folder else None,
            tags={
                **tags,
                "mlflow.note.content": description,
                "mlflow.experimentKind": "custom_model_development",  # the page for training, not for language models
                "mlflow.experiment.primaryMetric.name": "best_val_accuracy",
                "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
            },
        )
