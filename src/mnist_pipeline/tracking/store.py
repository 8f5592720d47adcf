"""Opening the MLflow store: where it is, making it ready once, before anything parallel, and what can go wrong."""

import logging
import os
import sqlite3
from collections.abc import Generator, Iterable
from contextlib import closing, contextmanager
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, cast

from mnist_pipeline.core.console import warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import load_data
from mnist_pipeline.provenance.redaction import public_uri, redact
from mnist_pipeline.tracking.page.views import (
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

_SETTINGS = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",  # bars of a tenth of a second
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # two lines for each trial that is delivered
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
}
"""Of MLflow, but for those that the user has set: a server that hangs costs 10 seconds; by MLflow's own, minutes."""

_FILE_ERRORS = (
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_READONLY,
)  # fmt: skip
_NO = ("", "0", "false", "no", "off")
OUTBOX = "outbox.db"
"""Name of the database with what a server is told later."""
_ROOM = "see that its folder can be written and its disk has room, or set MLFLOW_TRACKING_URI to a store elsewhere"
_OR_UNSET = "or unset MLFLOW_TRACKING_URI to use mlflow.db in the project's folder"
_WAYS_OUT = (
    "start it, or unset MLFLOW_TRACKING_URI to use mlflow.db in the project's folder, or go on without it by "
    "`--offline` (`MNIST_OFFLINE=1 dvc repro`) and deliver later by `mnist sync`"
)


def tracking_uri(project: Project) -> str:
    """Return `MLFLOW_TRACKING_URI` if set, otherwise the project's own `mlflow.db`."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.tracking_database}"


def is_offline(project: Project) -> bool:
    """Return whether the server of this project is not to be asked, by `MNIST_OFFLINE` or `--offline`."""
    return tracking_uri(project).startswith("http") and os.environ.get("MNIST_OFFLINE", "0").lower() not in _NO


def reach(project: Project) -> None:
    """Meet the server, where there is one that may be asked, before anything is computed that it shall be told of.

    Raises:
        UserError: it does not answer, or not as it should.
    """
    if tracking_uri(project).startswith("http") and not is_offline(project):
        open_store(project)


def open_store(project: Project) -> "MlflowClient":
    """Point MLflow at the project's store, creating the store and the experiments if they are not there yet.

    Raises:
        UserError: the store cannot be reached or written.
    """
    return _open(project, tracking_uri(project), project.tracking_database, project.artifacts)


def open_outbox(project: Project) -> "MlflowClient":
    """Point MLflow at the store on disk that keeps what a server is told later, as `open_store` at that of others.

    MLflow writes the address that it is given into the environment, which goes on to name the server.
    """
    uri = tracking_uri(project)
    try:
        return _open(project, outbox_uri(project), project.outbox / OUTBOX, project.outbox)
    finally:
        os.environ |= {"MLFLOW_TRACKING_URI": uri, "MLFLOW_REGISTRY_URI": uri}


def outbox_uri(project: Project) -> str:
    """Return the address of the store that keeps what a server is told later."""
    return f"sqlite:///{project.outbox / OUTBOX}"


def _open(project: Project, uri: str, own: Path, folder: Path) -> "MlflowClient":
    """Point MLflow at a store; `own` is the database that may be created, `folder` that of its artifacts."""
    os.environ |= {**_SETTINGS, **os.environ}
    os.environ.pop("MLFLOW_RUN_ID", None)  # or each training would go on with that run
    import mlflow
    from filelock import FileLock

    _quieten()
    name, about = experiment_name(project), MODELS_DESCRIPTION.format(model=load_data(project).name)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        # Two processes that meet an empty database would both run its migrations, and one of them would crash.
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".store.lock"):
            if uri.startswith("sqlite:///"):
                _prepare_file(own, Path(uri.removeprefix("sqlite:///").partition("?")[0]))
            client = mlflow.MlflowClient()
            # A location in the project, because a client without a server cannot use one that a server has chosen.
            place = None if uri.startswith("http") else folder
            _ensure_experiment(client, name, about, MODELS_VIEWS, place)
            _ensure_experiment(client, studies_experiment(name), TRIALS_DESCRIPTION, TRIALS_VIEWS, place)
    except Exception as error:  # a driver, a server and a file system each have their own
        raise UserError(trouble(error, uri)) from error
    return client


def _quieten() -> None:
    """Keep what MLflow logs beside what it raises, and its greetings, from the terminal."""
    for noisy in ("alembic", "mlflow.store.artifact", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    logging.getLogger("mlflow.store.db.utils").addFilter(_has_no_traceback)
    # Where Ctrl+C meets a query, it prints a traceback beside the interruption itself, which is told of anyway.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)


@contextmanager
def can_wait() -> Generator[None]:
    """Do without MLflow if its server is lost on the way: `mnist sync` tells it later what it would be told here."""
    import mlflow

    try:
        yield
    except Exception as error:
        reason = mlflow.get_tracking_uri().startswith("http") and what_is_wrong(error)
        if not reason:
            raise
        warn(f"Going on without MLflow: {amid(reason)} `mnist sync` tells it of this when it is back.")


def amid(sentence: str) -> str:
    """Return a sentence of `what_is_wrong` without the ways out that are open at the start only."""
    return sentence.replace(f": {_WAYS_OUT}", "")


def what_is_wrong(error: Exception, uri: str = "") -> str | None:
    """Return why the store cannot be reached or written, in a sentence; None if the error is of another kind.

    It is the store that MLflow points at, or the one with the address `uri`.
    """
    import mlflow
    from mlflow.exceptions import MlflowException
    from requests import RequestException

    address, chain = public_uri(uri or mlflow.get_tracking_uri()), [cast("BaseException", error)]
    while cause := chain[-1].__cause__ or chain[-1].__context__:
        chain.append(cause)
    origin = chain[-1]
    status = error.get_http_status_code() if isinstance(error, MlflowException) else None
    if status == 401:
        return (
            f"The MLflow server {address} does not know this user (status 401): set MLFLOW_TRACKING_USERNAME and "
            f"MLFLOW_TRACKING_PASSWORD, {_OR_UNSET}."
        )
    if status == 403:
        return (
            f"The MLflow server {address} refuses this user (status 403): ask who runs it for the permission EDIT of "
            f"the experiment, or MANAGE of the registered model to register and roll back, {_OR_UNSET}."
        )
    # A ValueError is of an address that never was one.
    if any(isinstance(cause, RequestException) and not isinstance(cause, ValueError) for cause in chain):
        reason = redact(str(origin))
        return f"The MLflow server {address} does not answer ({reason}): {_WAYS_OUT}."
    code = getattr(origin, "sqlite_errorcode", 0) & 0xFF if isinstance(origin, sqlite3.Error) else 0
    if code == sqlite3.SQLITE_BUSY:
        return f"{address} is held by another process ({origin}): wait for it or end it, then run the command again."
    if code in _FILE_ERRORS:
        return f"{address} cannot be read or written ({origin}): {_ROOM}."
    return None


def trouble(error: Exception, uri: str) -> str:
    """Return why the store at an address could not be used, in a sentence."""
    from mlflow.exceptions import MlflowException

    if known := what_is_wrong(error, uri):
        return known
    if isinstance(error, OSError):
        return f"{error.filename or 'A file of the MLflow store'} cannot be written ({error.strerror}): {_ROOM}."
    reason = redact(shorten(str(error).partition("\n")[0], 200))
    foreign = uri.startswith("http") and isinstance(error, MlflowException)
    if foreign and "error_code" not in getattr(error, "json", ()):  # which MLflow's servers never leave out
        return f"{public_uri(uri)} is no MLflow server ({reason}): correct the address, {_OR_UNSET}."
    return f"The MLflow store {public_uri(uri)} cannot be used ({reason}): correct the address, {_OR_UNSET}."


def _prepare_file(own: Path, file: Path) -> None:
    """Create a database of the project's own whole or not at all, and open it, or any other SQLite file, once.

    MLflow cannot go on with a database whose creation was cut off, as by a kill or a full disk, and goes on for 100
    seconds, with warnings, if it cannot open one.
    """
    from mlflow import MlflowClient

    if file == own and not file.exists():
        with atomic_path(file) as temporary:
            MlflowClient(f"sqlite:///{temporary}").get_experiment_by_name("")
    file.parent.mkdir(parents=True, exist_ok=True)
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA schema_version")


def _has_no_traceback(record: logging.LogRecord) -> bool:
    """Leave out the traceback of an error that MLflow logs and then raises."""
    return record.exc_info is None


def experiment_name(project: Project) -> str:
    """Return the name of the experiment that runs go to: `MLFLOW_EXPERIMENT_NAME`, or else that of the data."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or load_data(project).name


def tuning_experiment_name(project: Project) -> str:
    """Return the name of the experiment that studies go to."""
    return studies_experiment(experiment_name(project))


def studies_experiment(name: str) -> str:
    """Return the name of the experiment of studies beside the one of this name."""
    return f"{name}-tuning"


def find_runs(client: "MlflowClient", project: Project, query: str, view: int = 1) -> "list[Run]":
    """Return the pipeline's runs that MLflow's search finds, by default without deleted ones, the newest first."""
    experiment = client.get_experiment_by_name(experiment_name(project))  # which an outbox may not have
    return client.search_runs([experiment.experiment_id], query, view) if experiment else []


def _ensure_experiment(
    client: "MlflowClient", name: str, description: str, views: Iterable[View], folder: Path | None
) -> None:
    """Create an experiment whose artifacts go to a folder, or to where the server keeps them; give it its views."""
    from mlflow.exceptions import MlflowException

    tags = view_tags(views)
    if experiment := client.get_experiment_by_name(name):
        try:
            for key, value in tags.items() - experiment.tags.items():
                client.set_experiment_tag(experiment.experiment_id, key, value)
        except MlflowException as error:
            if error.get_http_status_code() != 403:  # of a server where we may only look
                raise
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
