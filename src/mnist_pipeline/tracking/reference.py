"""What `mnist lineage` and `mnist reproduce` are pointed at: a run, or a registered version and its run."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import file_digest
from mnist_pipeline.tracking.checks import State
from mnist_pipeline.tracking.model_folder import MODEL_FILE
from mnist_pipeline.tracking.registry import MODEL
from mnist_pipeline.tracking.runs import MODEL_DIGEST, find_run_by_digest

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion


def resolve(client: "MlflowClient", reference: str) -> "tuple[ModelVersion | None, Run | None]":
    """Return the registered version, if it is one that is asked for, and the run; None if that one is gone.

    Raises:
        UserError: there is no such run or version.
    """
    version = _version(client, reference) if reference.startswith("models:") else None
    run = _run(client, (version.run_id or "") if version else reference)
    if run is None and version:  # a run that was deleted, and restored under another id
        run = find_run_by_digest(client, version.tags.get(MODEL_DIGEST, ""))
    if run is None and version is None:
        raise UserError(
            f"The store has no run {reference}: give a run's id, models:/{MODEL}@champion or models:/{MODEL}/3."
        )
    return version, run


@dataclass(frozen=True)
class Artifacts:
    """The files of a run, fetched when asked for."""

    client: "MlflowClient"
    run: "Run"
    folder: Path
    """Where copies are put, if the store is not on this machine."""

    def path(self, name: str) -> Path | None:
        """Return a copy of an artifact; None if there is no such artifact."""
        from mlflow.exceptions import MlflowException

        try:
            return Path(self.client.download_artifacts(self.run.info.run_id, name, str(self.folder)))
        except (MlflowException, OSError):
            return None

    def text(self, name: str) -> str | None:
        """Return the content of an artifact."""
        path = self.path(name)
        return path.read_text(encoding="utf-8") if path else None

    def model_file(self) -> Path | None:
        """Return a copy of the logged model's file."""
        import mlflow
        from mlflow.exceptions import MlflowException

        outputs = self.run.outputs.model_outputs if self.run.outputs else []
        if not outputs:
            return None
        try:
            location = self.client.get_logged_model(outputs[-1].model_id).artifact_location
            return Path(mlflow.artifacts.download_artifacts(f"{location}/{MODEL_FILE}", dst_path=str(self.folder)))
        except (MlflowException, OSError):
            return None


def compare(file: Path | None, digest: str) -> State:
    """Say whether a file was found and has the recorded MD5."""
    if file is None:
        return "missing"
    return "verified" if file_digest(file) == digest else "changed"


def _version(client: "MlflowClient", reference: str) -> "ModelVersion":
    from mlflow.exceptions import MlflowException

    parts = re.fullmatch(r"models:/([^/@]+)(?:@([^/@]+)|/(\d+))", reference)
    if parts is None:
        raise UserError(f"{reference}: write models:/{MODEL}@champion, models:/{MODEL}/3 or a run's id.")
    name, alias, number = parts.groups()
    try:
        if alias:
            return client.get_model_version_by_alias(name, alias)
        return client.get_model_version(name, number)
    except MlflowException as error:
        raise UserError(
            f"The registry has no {reference}: `mnist register` (or `dvc repro`) registers a model."
        ) from error


def _run(client: "MlflowClient", run_id: str) -> "Run | None":
    from mlflow.exceptions import MlflowException

    try:
        run = client.get_run(run_id)
    except MlflowException:
        return None
    return None if run.info.lifecycle_stage == "deleted" else run
