"""The only training loop: Keras' `fit`, on batches that depend on (seed, epoch, step) and nothing else.

The pipeline, the tuner and the benchmarks all train through `Trainer.train`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import keras

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.models.network import build_network
from mnist_pipeline.params import ModelParams
from mnist_pipeline.training.batches import batches, steps_per_epoch, validation_batches
from mnist_pipeline.training.callbacks import BestWeights, Checkpointer, EpochRecorder, EpochReporter, OnEpoch
from mnist_pipeline.training.checkpoint import Checkpoint
from mnist_pipeline.training.compiled import CompiledModel, TrainingImages, form
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch, best_epoch

KEPT = 8
"""Compiled steps that are kept: each holds a network, its optimizer's state and their graphs."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained network and how it came to be."""

    network: keras.Model
    """Normalized images (n, 28, 28) to logits (n, 10), with the weights of the best epoch."""
    history: Sequence[Epoch]
    """Every epoch, in order."""
    best: Epoch
    """The one whose weights were kept: the best by `training.monitor`, the first of equals."""
    seconds: float
    """Wall time from building the network to the last epoch, compilation included."""


class Trainer:
    """Trains models, one after the other, on the same images.

    The images stay on the device, and a compiled step is kept for the next model that differs in numbers only.

    Args:
        train_data: normalized images and labels to learn from.
        validation: likewise, to choose the best epoch on.
        device: from `choose_device`.
        black: the normalized value of pixel 0, which augmentation puts outside the image.
    """

    def __init__(self, train_data: Subset, validation: Subset, *, device: Device, black: float) -> None:
        self._device = device
        self._validation = validation_batches(validation)
        with device.scope():
            self._images = TrainingImages(train_data, black)
        self.compiled: dict[str, CompiledModel] = {}
        """By form: the steps that are ready for another model."""

    def train(
        self,
        model: ModelParams,
        *,
        seed: int,
        on_epoch: OnEpoch = lambda _: None,
        checkpoint: Checkpoint | None = None,
    ) -> TrainingResult:
        """Train one network, from scratch or from the last finished epoch in `checkpoint`.

        The same arguments on the same machine give the same weights, bit for bit, resumed or not, whatever was trained
        before.

        Args:
            model: what to train and how.
            seed: of initial weights, order of images, dropout and augmentation.
            on_epoch: called after each epoch; returning True stops the training there.
            checkpoint: where to save each epoch; removing it when the result is safe is the caller's part.

        Raises:
            UserError: the batch is larger than the training set, or the loss is not finite.
        """
        started = time.perf_counter()
        training, steps = model.training, steps_per_epoch(model, len(self._images))
        network, compiled = self._start(model, seed, steps)
        state = checkpoint.load() if checkpoint else None
        if state:
            compiled.restore(state.network, state.optimizer)
        compiled.separate_replicas()
        history, earlier = ([*state.history], state.seconds) if state else ([], 0.0)
        best = BestWeights(history, training, state.best if state else ())
        if len(history) < training.epochs and not best.out_of_patience():
            compiled.fit(
                batches(len(self._images), training.batch_size, training.epochs, seed, first_epoch=len(history)),
                initial_epoch=len(history),
                epochs=training.epochs,
                steps_per_epoch=steps,
                validation_data=self._validation,
                # Record, choose, save, tell: each needs what the one before it did.
                callbacks=[
                    EpochRecorder(history),
                    best,
                    *([Checkpointer(checkpoint, history, best, earlier)] if checkpoint else []),
                    EpochReporter(history, on_epoch),
                ],
                shuffle=False,  # `batches` shuffles
                verbose=0,  # pyright: ignore[reportArgumentType]
            )
        self._keep(model, compiled)
        if self._device.is_special:
            # Of the usual precision and on no strategy, so that any machine can use and save it.
            network = build_network(model.architecture)
        network.set_weights(best.best)
        kept = best_epoch(history, training.monitor)
        return TrainingResult(network, tuple(history), kept, earlier + time.perf_counter() - started)

    def _start(self, model: ModelParams, seed: int, steps: int) -> tuple[keras.Model, CompiledModel]:
        """Return a new network, and the compiled step for its form, used or new, which is to start from it."""
        keras.utils.set_random_seed(seed)
        with self._device.scope():
            network = build_network(model.architecture)
            compiled = self.compiled.pop(form(model), None)  # gone, if this training fails
            compiled = compiled or CompiledModel(network, self._images, model, steps=steps, xla=self._device.xla)
            self._images.start(model, seed)
            compiled.start(network, model)
        return network, compiled

    def _keep(self, model: ModelParams, compiled: CompiledModel) -> None:
        """Keep a compiled step for the next; when there are too many, forget the one that was longest not used."""
        self.compiled[form(model)] = compiled
        if len(self.compiled) > KEPT:
            del self.compiled[next(iter(self.compiled))]
            keras.utils.clear_session(free_memory=True)  # or each model leaves its graphs to the next
