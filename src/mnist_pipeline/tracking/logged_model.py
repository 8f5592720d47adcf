"""A trained model as MLflow keeps it, served and loaded by MLflow's own tools."""

import json
import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.data.params import CLASSES, IMAGE_SIDE
from mnist_pipeline.provenance.inputs import file_digests, tree_digest
from mnist_pipeline.tracking.store import download

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

MODEL_FILE = "data/model.keras"
"""The `.keras` file among the files of a logged model."""
FILES = "files_md5"
"""Tag of a logged model: the MD5 of each of its files, as JSON."""


def log_model(run_id: str, name: str, model_file: Path, *, step: int) -> str:
    """Log a `.keras` file, byte for byte, with the weights of epoch `step`; return the id of the logged model.

    Not by `mlflow.keras.log_model`, which saves the model once more, as a file with another MD5, asks the store for
    the history of every metric, and predicts the example before it is done.
    """
    from mlflow import MlflowClient
    from mlflow.entities import LoggedModelOutput

    client = MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    model_id = client.create_logged_model(experiment, name, source_run_id=run_id).model_id
    upload(client, run_id, model_id, model_file)
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    return model_id


def upload(client: "MlflowClient", run_id: str, model_id: str, model_file: Path) -> None:
    """Write the files of a logged model, also in place of those that the store has lost."""
    import mlflow
    from mlflow.models import Model

    from mnist_pipeline.models.model import load_model

    with quiet_native_logs(), tempfile.TemporaryDirectory() as temporary:
        file, folder = Path(temporary) / "model.keras", Path(temporary) / "logged"
        folder.mkdir()
        shutil.copyfile(model_file, file)  # because DVC's cache knows no suffixes, by which Keras tells the format
        mlflow.keras.save_model(
            load_model(file),
            str(folder),
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
            signature=_signature(),
            input_example=_drawn_one(),
            pip_requirements=[
                f"{package}=={version(package)}" for package in ("mlflow", "tensorflow", "keras", "numpy")
            ],
        )
        shutil.copyfile(file, folder / MODEL_FILE)  # in place of what MLflow has saved
        client.log_model_artifacts(model_id, str(folder))
        client.set_logged_model_tags(model_id, {FILES: json.dumps(file_digests(folder))})


def is_whole(client: "MlflowClient", model_id: str, digest: str) -> bool:
    """Return whether the store has all files of a logged model, as they were, and a model file with this MD5."""
    from mlflow.exceptions import MlflowException

    try:
        tags = client.get_logged_model(model_id).tags
    except MlflowException:
        return False  # somebody has deleted it
    recorded = json.loads(tags.get(FILES, "{}")) | {MODEL_FILE: digest}
    with tempfile.TemporaryDirectory() as folder:
        kept = download(f"models:/{model_id}", Path(folder))
        return kept is not None and all(tree_digest(kept / name) == each for name, each in recorded.items())


def logged_model_id(run: "Run") -> str:
    """Return the id of the model that the run logged last."""
    return run.outputs.model_outputs[-1].model_id


def _signature() -> "ModelSignature":
    """Return what goes into the model and what comes out; MLflow refuses other types and shapes."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), (-1, IMAGE_SIDE, IMAGE_SIDE), "pixels")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), (-1, CLASSES), "probabilities")]),
    )


def _drawn_one() -> NDArray[np.uint8]:
    """Return an example of an input, one image of a 1: uint8 (1, 28, 28)."""
    pixels = np.zeros((1, IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    pixels[:, 4:24, 13:15] = 255
    return pixels
