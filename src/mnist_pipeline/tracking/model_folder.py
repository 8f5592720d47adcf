"""A trained model in the folder layout that MLflow's tools expect, made of the very file that the training wrote."""

import platform
import shutil
from importlib.metadata import version
from pathlib import Path

REQUIREMENTS = ("mlflow", "tensorflow", "keras", "numpy")
"""What whoever loads the model needs."""
MODEL_FILE = "data/model.keras"
"""Where in the folder Keras' file is."""


def write_model_folder(folder: Path, model_file: Path, *, model_id: str, run_id: str) -> None:
    """Fill `folder` as MLflow's `keras` flavor does: Keras' own file and no pickle, requirements pinned, a signature.

    The model file is copied, so its digest stays the one that the run is tagged with, and Keras need not be loaded.

    MLflow enforces one dtype per tensor, and this model takes uint8 and floats alike: so the signature names the output
    alone, and the input is described in the metadata.
    """
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    data = folder / "data"
    data.mkdir()
    shutil.copyfile(model_file, folder / MODEL_FILE)
    (data / "keras_module.txt").write_text("keras", encoding="utf-8")
    model = Model(
        run_id=run_id,
        model_id=model_id,
        signature=ModelSignature(outputs=Schema([TensorSpec(np.dtype("float32"), (-1, 10), "probabilities")])),
        metadata={"input": "pixels 0-255, uint8 or float, shape (n, 28, 28), light ink on dark paper"},
        model_size_bytes=model_file.stat().st_size,
    )
    model.add_flavor(
        "keras", data="data", keras_version=version("keras"), keras_backend="tensorflow", save_exported_model=False
    )
    pyfunc.add_to_model(model, loader_module="mlflow.keras", conda_env="conda.yaml", python_env="python_env.yaml")
    model.save(str(folder / "MLmodel"))
    for name, text in _environment().items():
        (folder / name).write_text(text, encoding="utf-8")


def _environment() -> dict[str, str]:
    """Return the files that describe the environment, in the three forms that MLflow can build one from."""
    requirements = [f"{package}=={version(package)}" for package in REQUIREMENTS]
    python = platform.python_version()
    return {
        "requirements.txt": "\n".join(requirements),
        "python_env.yaml": f"python: {python}\nbuild_dependencies:\n- pip\ndependencies:\n- -r requirements.txt\n",
        "conda.yaml": "\n".join(
            [
                "name: mlflow-env",
                "channels:",
                "- conda-forge",
                "dependencies:",
                f"- python={python}",
                "- pip",
                "- pip:",
                *(f"  - {requirement}" for requirement in requirements),
                "",
            ]
        ),
    }
