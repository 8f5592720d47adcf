"""What happens between the epochs of a training, as Keras callbacks."""

import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import keras

from mnist_pipeline.errors import UserError
from mnist_pipeline.training.history import Epoch

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

OnEpoch = Callable[[Epoch], bool | None]
"""Called after each epoch; `True` asks the training to stop here."""


class EpochReporter(keras.callbacks.Callback):
    """Turns Keras' logs into an `Epoch`, keeps the history, hands each on, and stops a training that diverged."""

    def __init__(self, on_epoch: OnEpoch, history: list[Epoch]) -> None:
        super().__init__()
        self.history = history
        self._on_epoch = on_epoch
        self._started = 0.0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Start the epoch's clock."""
        self._started = time.perf_counter()

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record and report."""
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
        self.history.append(record)
        if self._on_epoch(record):
            self.model.stop_training = True


class BestWeights(keras.callbacks.Callback):
    """Validates with the averaged weights where there are any, and keeps those of the best epoch in `history`.

    Keras' own `SwapEMAWeights` swaps by adding and subtracting, which rounds the trained weights at every validation;
    here they are put aside and put back exactly.
    """

    def __init__(self, history: list[Epoch], patience: int) -> None:
        super().__init__()
        self._history = history
        self.best: list[np.ndarray[Any, Any]] = []
        self._best_rank = (-math.inf, -math.inf)
        self._worse = 0
        self._patience = patience
        self._live: list[np.ndarray[Any, Any]] = []
        self._validated: list[np.ndarray[Any, Any]] = []

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
        rank = self._history[-1].rank
        if rank > self._best_rank:
            self._best_rank, self.best, self._worse = rank, self._validated, 0
            return
        self._worse += 1
        if self._patience and self._worse >= self._patience:
            self.model.stop_training = True

    def _averages(self) -> list[Any]:
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        return optimizer._model_variables_moving_average if optimizer.use_ema else []
