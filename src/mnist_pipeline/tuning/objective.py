"""How good some parameters are: a plain function of parameters and data. Nothing here knows Optuna."""

from collections.abc import Callable
from dataclasses import dataclass

from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.data.normalize import load_normalization
from mnist_pipeline.models.network import build_network
from mnist_pipeline.params import ModelParams
from mnist_pipeline.project import Project
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.trainer import Trainer


@dataclass(frozen=True)
class Score:
    """How good some parameters are."""

    best: Epoch
    """The epoch that `training.monitor` chooses."""
    parameters: int
    """Weights of the network."""
    seconds: float
    """Wall time of the training."""


def load_trainer(project: Project, device: Device) -> Trainer:
    """Load what every trial of a study learns from and is judged on: the train and validation splits, never the test's.

    Raises:
        UserError: they are missing or damaged.
    """
    black = load_normalization(project.normalization).black
    return Trainer(load_train(project.split), load_validation(project.split), device=device, black=black)


def count_weights(model: ModelParams) -> int:
    """Return how many weights the model's network has, without training it."""
    return build_network(model.architecture).count_params()


def score(model: ModelParams, trainer: Trainer, report: Callable[[Epoch], bool], *, seed: int) -> Score:
    """Train the model once and say how well it does on the validation images.

    Args:
        model: the parameters to judge.
        trainer: from `load_trainer`.
        report: called after each epoch; returning True stops the training there.
        seed: of the training.

    Raises:
        UserError: the training diverged, or a batch is larger than the training set.
    """
    result = trainer.train(model, seed=seed, on_epoch=report)
    return Score(result.best, result.network.count_params(), result.seconds)
