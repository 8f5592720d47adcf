"""Opening the MLflow store: where it is, and making it ready once, before anything parallel."""

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri, redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_DESCRIPTION = """\
One run per trained model of the `mnist` pipeline (`dvc repro`).

* `best_validation_accuracy` is what models are chosen by; `test_accuracy` is only reported.
* Each run's **Datasets** carry DVC's hashes, its **Parameters** every parameter that it used, its
  **Artifacts** the model, the history and the figures of the test report.
* The best model is version `champion` of the registered model `mnist`.
"""

_TUNING_DESCRIPTION = """\
One run per study of `mnist tune`, with one child run per trial.

* A trial is FINISHED if it trained to the end, KILLED if it was pruned or its network was too large to be trained (the
  tag `outcome` says which), FAILED with the reason in its tag `error`.
* All accuracies and losses are on the validation split: the test split takes no part.
* A study's **Artifacts** hold `figures.html`, to be explored offline, the same as pictures, and its trials as a table.
* The run of an adopted trial and those of the trainings with its parameters link to each other.
"""


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

    for noisy in ("alembic", "mlflow.store.db.utils", "mlflow.system_metrics"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    # Where Ctrl+C meets a query, it prints a traceback beside the interruption itself, which is told of anyway.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL)
    uri = tracking_uri(project)
    mlflow.set_tracking_uri(uri)
    mlflow.set_registry_uri(uri)
    try:
        # Two processes that meet an empty database would both run its migrations, and one of them would crash.
        project.artifacts.mkdir(parents=True, exist_ok=True)
        with FileLock(project.artifacts / ".store.lock"):
            client = mlflow.MlflowClient()
            # A location in the project, because a client without a server cannot use one that a server has chosen.
            folder = None if uri.startswith("http") else project.artifacts
            _ensure_experiment(client, experiment_name(), _DESCRIPTION, folder)
            _ensure_experiment(client, tuning_experiment_name(), _TUNING_DESCRIPTION, folder)
    except Exception as error:  # a driver, a server and a file system each have their own
        reason = redact(str(error).partition("\n")[0])
        raise UserError(
            f"The MLflow store {public_uri(uri)} cannot be used ({reason}): check MLFLOW_TRACKING_URI, or unset it to "
            "use mlflow.db in the project's folder."
        ) from error
    return client


def experiment_name() -> str:
    """Return the name of the experiment that the pipeline's runs go to: `MLFLOW_EXPERIMENT_NAME`, or else `mnist`."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or "mnist"


def tuning_experiment_name() -> str:
    """Return the name of the experiment that studies go to."""
    return f"{experiment_name()}-tuning"


def find_runs(client: "MlflowClient", query: str) -> "list[Run]":
    """Return the pipeline's runs that MLflow's search finds, without deleted ones, the newest first."""
    return client.search_runs([client.get_experiment_by_name(experiment_name()).experiment_id], query)


def _ensure_experiment(client: "MlflowClient", name: str, description: str, folder: Path | None) -> None:
    """Create an experiment whose artifacts go to a folder, or to where the server keeps them."""
    if client.get_experiment_by_name(name) is None:
        client.create_experiment(
            name,
            artifact_location=(folder / name).as_uri() if folder else None,
            tags={
                "mlflow.note.content": description,
                "mlflow.experimentKind": "custom_model_development",  # the page for training, not for language models
                "mlflow.experiment.primaryMetric.name": "best_validation_accuracy",
                "mlflow.experiment.primaryMetric.greaterIsBetter": "True",
            },
        )
