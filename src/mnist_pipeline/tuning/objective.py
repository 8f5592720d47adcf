"""How good some parameters are: a plain function of parameters and data. Nothing here knows Optuna."""

from collections.abc import Callable
from dataclasses import dataclass

import keras

from mnist_pipeline.data.dataset import Subset, load_train, load_validation
from mnist_pipeline.data.normalize import load_normalization
from mnist_pipeline.models.network import build_network
from mnist_pipeline.params import ModelParams
from mnist_pipeline.project import Project
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.trainer import train


@dataclass(frozen=True)
class TuningData:
    """What every trial of a study learns from and is judged on; the test split is not part of it."""

    train: Subset
    """Normalized images and labels to learn from."""
    validation: Subset
    """Likewise, to judge by."""
    black: float
    """The normalized value of pixel 0."""


@dataclass(frozen=True)
class Score:
    """How good some parameters are."""

    best: Epoch
    """The epoch that `training.monitor` chooses."""
    parameters: int
    """Weights of the network."""
    seconds: float
    """Wall time of the training."""


def load_data(project: Project) -> TuningData:
    """Load the train and validation splits.

    Raises:
        UserError: they are missing or damaged.
    """
    black = load_normalization(project.normalization).black
    return TuningData(load_train(project.split), load_validation(project.split), black)


def count_weights(model: ModelParams) -> int:
    """Return how many weights the model's network has, without training it."""
    try:
        return build_network(model.architecture).count_params()
    finally:
        keras.utils.clear_session(free_memory=True)


def score(model: ModelParams, data: TuningData, report: Callable[[Epoch], bool], *, seed: int, device: Device) -> Score:
    """Train the model once and say how well it does on the validation images.

    Args:
        model: the parameters to judge.
        data: from `load_data`.
        report: called after each epoch; returning True stops the training there.
        seed: of the training.
        device: from `choose_device`.

    Raises:
        UserError: the training diverged, or a batch is larger than the training set.
    """
    try:
        result = train(model, data.train, data.validation, seed=seed, device=device, black=data.black, on_epoch=report)
        return Score(result.best, result.network.count_params(), result.seconds)
    finally:
        keras.utils.clear_session(free_memory=True)  # or each trial leaves its graphs to the next
