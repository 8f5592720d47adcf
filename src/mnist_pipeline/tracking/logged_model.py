"""A trained model as MLflow keeps it, served and loaded by MLflow's own tools."""

import shutil
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.data.params import CLASSES, IMAGE_SIDE

if TYPE_CHECKING:
    from mlflow.models import ModelSignature


def log_model(run_id: str, name: str, model_file: Path, *, step: int) -> str:
    """Log a `.keras` file, byte for byte, with the weights of epoch `step`; return the id of the logged model.

    Not by `mlflow.keras.log_model`, which saves the model once more, as a file with another MD5, asks the store for
    the history of every metric, and predicts the example before it is done.
    """
    import mlflow
    from mlflow.entities import LoggedModelOutput
    from mlflow.models import Model

    from mnist_pipeline.models.model import load_model

    model, client = load_model(model_file), mlflow.MlflowClient()
    experiment = client.get_run(run_id).info.experiment_id
    logged = client.create_logged_model(experiment, name, source_run_id=run_id)
    with tempfile.TemporaryDirectory() as folder:
        mlflow.keras.save_model(
            model,
            folder,
            mlflow_model=Model(run_id=run_id, model_id=logged.model_id, model_uuid=logged.model_id),
            signature=_signature(),
            input_example=_drawn_one(),
            pip_requirements=[
                f"{package}=={version(package)}" for package in ("mlflow", "tensorflow", "keras", "numpy")
            ],
        )
        shutil.copyfile(model_file, Path(folder) / "data" / "model.keras")  # in place of what MLflow has saved
        client.log_model_artifacts(logged.model_id, folder)
    client.finalize_logged_model(logged.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(logged.model_id, step=step)])
    return logged.model_id


def logged_model_id(run_id: str) -> str:
    """Return the id of the model that the run logged last."""
    import mlflow

    return mlflow.get_run(run_id).outputs.model_outputs[-1].model_id


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
