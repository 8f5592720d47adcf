"""What happens between the epochs of a training, as Keras callbacks."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras

from mnist_pipeline.errors import UserError
from mnist_pipeline.params import Training
from mnist_pipeline.training.checkpoint import Checkpoint, State
from mnist_pipeline.training.history import Epoch, Monitor, best_epoch

if TYPE_CHECKING:
    import numpy as np


LOGS = {
    "loss": "loss",
    "accuracy": "accuracy",
    "validation_loss": "val_loss",
    "validation_accuracy": "val_accuracy",
}
"""Our names for Keras' logs."""
DIGITS = 6
"""Decimals that are kept: Keras' metrics are float32, and 4895 of 5000 should read 0.979."""

DIVERGED = 100.0
"""A loss that is forty times that of guessing (2.3) will not come back to anything useful."""

Weights = Sequence["np.ndarray[Any, Any]"]

OnEpoch = Callable[[Epoch], bool | None]
"""Called after each epoch; `True` asks the training to stop here."""


class EpochRecorder(keras.callbacks.Callback):
    """Turns Keras' logs into an `Epoch`, appends it to the history, and ends a training that diverged."""

    def __init__(self, history: list[Epoch]) -> None:
        super().__init__()
        self._history = history
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record the epoch."""
        logs = logs or {}
        record = Epoch(
            epoch=epoch + 1,
            **{ours: round(float(logs[keras_name]), DIGITS) for ours, keras_name in LOGS.items()},
            learning_rate=float(self.model.optimizer.learning_rate),
            seconds=time.perf_counter() - self._started,
        )
        if not (record.loss < DIVERGED and record.validation_loss < DIVERGED):  # so that NaN is caught, too
            raise UserError(
                f"Training diverged in epoch {record.epoch}: the loss is {record.loss:g}, the validation loss "
                f"{record.validation_loss:g}; lower training.optimizer.learning_rate in params.yaml."
            )
        self._history.append(record)


class BestWeights(keras.callbacks.Callback):
    """Validates with the averaged weights where there are any, and keeps those of the best epoch in `history`.

    Keras' own `SwapEMAWeights` swaps by adding and subtracting, which rounds the trained weights at every validation;
    here they are put aside and put back exactly.
    """

    def __init__(self, history: list[Epoch], training: Training, best: Weights = ()) -> None:
        super().__init__()
        self.best = best
        self._history = history
        self._monitor: Monitor = training.monitor
        self._patience = training.early_stopping
        self._live: Weights = ()
        self._validated: Weights = ()

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the averaged weights in."""
        if averages := self._averages():
            self._live = [variable.numpy() for variable in self.model.trainable_variables]
            for variable, average in zip(self.model.trainable_variables, averages, strict=True):
                variable.assign(average)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remember what was validated, and go on with the trained weights."""
        self._validated = self.model.network.get_weights()
        for variable, live in zip(self.model.trainable_variables, self._live, strict=False):
            variable.assign(live)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keep the weights if they are the best so far; stop when patience runs out."""
        if best_epoch(self._history, self._monitor) is self._history[-1]:
            self.best = self._validated
        if self.out_of_patience():
            self.model.stop_training = True

    def out_of_patience(self) -> bool:
        """Return whether as many epochs as patience allows have passed without a better one."""
        if not self._patience or not self._history:
            return False
        return len(self._history) - best_epoch(self._history, self._monitor).epoch >= self._patience

    def _averages(self) -> list[Any]:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        return optimizer._model_variables_moving_average if optimizer.use_ema else []


class Checkpointer(keras.callbacks.Callback):
    """Saves what a resumed training needs, after each epoch."""

    def __init__(self, checkpoint: Checkpoint, history: list[Epoch], best: BestWeights, seconds: float) -> None:
        super().__init__()
        self._checkpoint = checkpoint
        self._history = history
        self._best = best
        self._started = time.perf_counter() - seconds

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Save."""
        self._checkpoint.save(
            State(
                network=[variable.numpy() for variable in self.model.network.variables],
                optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
                best=self._best.best,
                history=self._history,
                seconds=time.perf_counter() - self._started,
            )
        )


class EpochReporter(keras.callbacks.Callback):
    """Hands each epoch on, and stops the training when asked to."""

    def __init__(self, history: list[Epoch], on_epoch: OnEpoch) -> None:
        super().__init__()
        self._history = history
        self._on_epoch = on_epoch

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Report."""
        if self._on_epoch(self._history[-1]):
            self.model.stop_training = True
