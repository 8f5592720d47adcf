"""Who takes part in `time_to_accuracy.py`, and on what terms. Imports no TensorFlow."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import machine, versions
from mnist_pipeline.data.dataset import train_file, validation_file
from mnist_pipeline.data.idx import images_name, labels_name
from mnist_pipeline.files import file_digest, require
from mnist_pipeline.params import ModelParams, Params
from mnist_pipeline.project import Project
from mnist_pipeline.training.checkpoint import training_key

HERE = Path(__file__).parent

FAST: dict[str, Any] = {
    "architecture": {"dropout": 0.0},
    "training": {
        "epochs": 2,
        "optimizer": {"learning_rate": 0.01, "weight_decay": 0.01, "beta_2": 0.9},
        "weight_average": 0.0,
    },
    "augmentation": {"rotation": 0.0, "shift": 0.0, "zoom": 0.0, "shear": 0.0, "elastic": 0.0},
}
"""What `fast` has different from `cnn` in params.yaml: a published two-epoch recipe (tuomaso/train_mnist_fast).

To change it, compare the column `validation accuracy` of `--only fast`: the test images choose nothing."""

EXAMPLES = {"keras_convnet": 15, "keras_mlp": 20, "tf_mlp": 3}
"""The copied recipes (`recipes.py`) and their epochs."""

DEFAULT = ("fast", "cnn", *EXAMPLES)
"""In the order in which a round trains them."""


@dataclass(frozen=True)
class Job:
    """One training, in a process of its own."""

    contestant: str
    """A name in `EXAMPLES`, `fast`, or a model of params.yaml."""
    seed: int
    """Of weights, order, dropout and augmentation."""
    epochs: int | None
    """Fewer than the contestant has, to try the benchmark out; None trains all."""
    params: str
    """Path of the params.yaml with our models."""
    root: str
    """Path of the project's folder."""
    key: str
    """Digest of all that decides the result, but for the seed: measurements are comparable if it agrees."""

    def to_json(self) -> str:
        """Return it as the argument of a worker."""
        return json.dumps(asdict(self))


def our_model(params: Params, name: str) -> ModelParams:
    """Return the parameters of one of our contestants.

    Raises:
        UserError: it is neither `fast` nor a model in params.yaml.
    """
    if name != "fast":
        return params.model(name)
    return ModelParams.model_validate(_merge(params.model("cnn").model_dump(), FAST))


def shorten(model: ModelParams, epochs: int | None) -> ModelParams:
    """Return `model` with so many epochs; itself if None."""
    if epochs is None:
        return model
    return ModelParams.model_validate(_merge(model.model_dump(), {"training": {"epochs": epochs}}))


def contestant_key(project: Project, params: Params, name: str, epochs: int | None) -> str:
    """Return the digest of parameters, data, code, versions and machine; make sure that the data is there.

    Raises:
        UserError: the contestant is unknown, or a data file is missing.
    """
    terms = {"machine": json.dumps(machine()), "versions": json.dumps(versions())}
    if name in EXAMPLES:
        # Not our code: the copied recipes need not be measured again because our trainer has changed.
        recipe = {"recipe": f"{name} {epochs or EXAMPLES[name]}", "code": file_digest(HERE / "recipes.py")}
        files = [project.raw / file(part) for part in ("train", "t10k") for file in (images_name, labels_name)]
        content = json.dumps({**terms, **recipe, **_digests(files)})
        return hashlib.sha256(content.encode()).hexdigest()[:16]
    model = shorten(our_model(params, name), epochs).model_dump_json()
    splits = [train_file(project.split), validation_file(project.split), project.split / "test.npz"]
    files = [project.normalization, *splits]
    return training_key({**terms, "model": model, "device": params.device, **_digests(files)})[:16]


def _digests(files: Sequence[Path]) -> dict[str, str]:
    return {file.name: file_digest(require(file, "make run")) for file in files}


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _merge(value, changes[key])
        if isinstance(value, Mapping) and isinstance(changes.get(key), Mapping)
        else changes.get(key, value)
        for key, value in base.items()
    }
