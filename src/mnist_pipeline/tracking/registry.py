"""The MLflow model registry: the model `mnist` and its alias `champion`."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from mnist_pipeline.tracking.runs import MODEL_DIGEST, logged_model_id

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

MODEL = "mnist"
"""Name of the registered model."""
CHAMPION = "champion"
"""Alias of the version to use."""

_DESCRIPTION = """\
Reads handwritten digits. Takes raw pixels 0-255 (uint8 or float, shape (n, 28, 28), light ink on dark paper) and
returns ten class probabilities (n, 10); the normalization is inside.

`mlflow.pyfunc.load_model("models:/mnist@champion").predict(images)`
"""


def register_champion(
    client: "MlflowClient", run_id: str, digest: str, *, description: str, tags: Mapping[str, str]
) -> "ModelVersion":
    """Make the model logged by `run_id` the champion, as a new version unless the same model file has one already.

    Args:
        client: of an open store.
        run_id: of the run that logged the model.
        digest: MD5 of the model file.
        description: Markdown for a new version.
        tags: of a new version.
    """
    _ensure_registered_model(client)
    version = _version_of(client, digest) or client.create_model_version(
        MODEL,
        source=f"models:/{(model_id := logged_model_id(run_id))}",
        run_id=run_id,
        model_id=model_id,
        description=description,
        tags={**tags, MODEL_DIGEST: digest},
    )
    client.set_registered_model_alias(MODEL, CHAMPION, version.version)
    return version


def _ensure_registered_model(client: "MlflowClient") -> None:
    from mlflow.exceptions import MlflowException
    from mlflow.protos.databricks_pb2 import RESOURCE_ALREADY_EXISTS, ErrorCode

    try:
        client.create_registered_model(MODEL, description=_DESCRIPTION)
    except MlflowException as error:
        if error.error_code != ErrorCode.Name(RESOURCE_ALREADY_EXISTS):
            raise


def _version_of(client: "MlflowClient", digest: str) -> "ModelVersion | None":
    """Return the newest version made from exactly this model file."""
    versions = client.search_model_versions(f"name = '{MODEL}' and tags.{MODEL_DIGEST} = '{digest}'")
    return max(versions, key=lambda version: int(version.version), default=None)
