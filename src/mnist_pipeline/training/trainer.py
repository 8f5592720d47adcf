"""The only training loop: Keras' `fit`, on batches that depend on (seed, epoch, step) and nothing else.

The pipeline, the tuner and the benchmarks all train through `train`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import keras

from mnist_pipeline.models.model import build_model
from mnist_pipeline.training.batches import steps_per_epoch, training_batches, validation_batches
from mnist_pipeline.training.callbacks import EpochEnd, OnEpoch
from mnist_pipeline.training.checkpoint import Checkpoint
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch, best_epoch
from mnist_pipeline.training.params import ModelParams
from mnist_pipeline.training.training_model import prepare, restore, separate_replicas


@dataclass(frozen=True)
class TrainingResult:
    """A trained model and how it came to be."""

    model: keras.Model
    """Raw pixels, uint8 (n, height, width), to probabilities (n, classes), with the weights of the best epoch."""
    history: Sequence[Epoch]
    """Every epoch, in order."""
    best: Epoch
    """The one whose weights were kept: the best by `training.monitor`, the first of equals."""
    seconds: float
    """Wall time from building the model to the last epoch, compilation included."""


def train(
    params: ModelParams,
    data: TrainingData,
    *,
    seed: int,
    device: Device,
    on_epoch: OnEpoch = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Train one model, from scratch or from the last finished epoch in `checkpoint`.

    The same arguments on the same machine give the same weights, bit for bit, resumed or not, whatever was trained
    before.

    Args:
        params: what to train and how.
        data: train and validation split.
        seed: of initial weights, order of images, dropout and augmentation.
        device: from `choose_device`.
        on_epoch: called after each epoch; returning True stops the training there.
        checkpoint: where to save each epoch; removing it when the result is safe is the caller's part.

    Raises:
        UserError: the batch is larger than the training set, or the loss is not finite.
    """
    training, replicas, classes = params.training, len(device.names), len(data.about.classes)
    steps = steps_per_epoch(training, len(data.train), replicas)
    keras.utils.set_random_seed(seed)
    with device.scope():
        model = build_model(params.architecture, params.normalization, data.statistics, data.about)
        trained = prepare(model, params, seed=seed, steps=steps, device=device)
    state = checkpoint.load([variable.shape for variable in model.variables]) if checkpoint else None
    if state:
        restore(model.variables, state.network)
        restore(trained.optimizer.variables, state.optimizer)
    separate_replicas(model, trained)
    progress = EpochEnd(training, model.variables, checkpoint, state, on_epoch)
    if not progress.is_over:
        trained.fit(
            training_batches(data.train, classes, training, seed, first_epoch=len(progress.history)),
            initial_epoch=len(progress.history),
            epochs=training.epochs,
            steps_per_epoch=steps,
            validation_data=validation_batches(data.validation, classes, replicas),
            callbacks=[progress],
            shuffle=False,  # `training_batches` shuffles
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
    if device.is_special:
        # Of the usual precision and on no strategy, so that any machine can use and save it.
        model = build_model(params.architecture, params.normalization, data.statistics, data.about)
    model.set_weights(progress.best)
    return TrainingResult(
        model, tuple(progress.history), best_epoch(progress.history, training.monitor), progress.seconds
    )
