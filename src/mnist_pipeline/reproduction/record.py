"""What the MLflow store holds of a run, or of a registered version and its run."""

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.registry import MODEL
from mnist_pipeline.registry.sync import way_out
from mnist_pipeline.tracking.runs import MODEL_DIGEST, find_run_by_digest
from mnist_pipeline.tracking.store import download, open_store
from mnist_pipeline.tracking.sync import can_restore

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def resolve(project: Project, reference: str) -> "tuple[ModelVersion | None, Run | None]":
    """Return the registered version, if it is one that is asked for, and the run; None if that one is gone.

    Args:
        project: whose store.
        reference: a run's id, `models:/mnist@champion` or `models:/mnist/3`.

    Raises:
        UserError: there is no such run or version.
    """
    from mlflow.exceptions import MlflowException

    client = open_store(project)
    version = _version(project, client, reference) if reference.startswith("models:") else None
    with suppress(MlflowException):
        run = client.get_run((version.run_id or "") if version else reference)
        if run.info.lifecycle_stage == "active":
            return version, run
    if version is None:
        again = "; a lost run comes back with `mnist sync`, under another id" if can_restore(project) else ""
        raise UserError(
            f"The store has no run {reference}: give a run's id, models:/{MODEL}@champion or models:/{MODEL}/3{again}."
        )
    # Its run was deleted, and may have been restored under another id.
    return version, find_run_by_digest(client, version.tags.get(MODEL_DIGEST, ""))


def model_file(run: "Run", folder: Path) -> Path | None:
    """Return a copy of the file of the model that a run logged in `folder`; None if there is none."""
    outputs = run.outputs.model_outputs if run.outputs else []
    logged = download(f"models:/{outputs[-1].model_id}", folder) if outputs else None
    return next(logged.rglob("*.keras"), None) if logged else None


def _version(project: Project, client: "MlflowClient", reference: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", reference)
    if parts is None:
        raise UserError(f"{reference}: write models:/{MODEL}@champion, models:/{MODEL}/3 or a run's id.")
    name, alias, number = parts.groups()
    try:
        return client.get_model_version_by_alias(name, alias) if alias else client.get_model_version(name, number)
    except MlflowException as error:
        raise UserError(f"The registry has no {reference}: {way_out(project)}.") from error
