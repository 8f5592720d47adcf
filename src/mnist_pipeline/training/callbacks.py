"""What happens around each epoch of a training, as one Keras callback."""

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import keras

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.training.checkpoint import Checkpoint, State
from mnist_pipeline.training.history import Epoch, best_epoch
from mnist_pipeline.training.params import Training

if TYPE_CHECKING:
    import numpy as np

DIGITS = 6
"""Digits that are kept of Keras' metrics, which are float32: 4895 of 5000 should read 0.979."""
DIVERGED = 100.0
"""A loss that is forty times that of guessing (2.3) will not come back to anything useful."""

OnEpoch = Callable[[Epoch], bool | None]
"""Called after each epoch; `True` asks the training to stop here."""


class EpochEnd(keras.callbacks.Callback):
    """Records each epoch, keeps the best weights, saves a checkpoint and tells the caller, in this order.

    Validation is done with the averaged weights where there are any. Keras' own `SwapEMAWeights` swaps by adding and
    subtracting, which rounds the trained weights at every validation; here they are put aside and put back exactly.

    Args:
        training: which epoch is the best, and when to stop.
        variables: of the network, to be saved.
        checkpoint: where to save; None saves nothing.
        state: what a killed training has saved; None if this one starts from the beginning.
        on_epoch: is told of each epoch.
    """

    def __init__(
        self,
        training: Training,
        variables: Sequence[Any],
        checkpoint: Checkpoint | None,
        state: State | None,
        on_epoch: OnEpoch,
    ) -> None:
        super().__init__()
        self.history: list[Epoch] = [*state.history] if state else []
        self.best: Sequence[np.ndarray[Any, Any]] = state.best if state else ()
        """Weights of the best epoch so far."""
        self._training, self._variables = training, variables
        self._checkpoint, self._on_epoch = checkpoint, on_epoch
        self._started = time.perf_counter() - (state.seconds if state else 0.0)
        self._live: Sequence[np.ndarray[Any, Any]] = ()
        self._validated: Sequence[np.ndarray[Any, Any]] = ()

    @property
    def seconds(self) -> float:
        """Wall time of the training so far, that before an interruption included."""
        return time.perf_counter() - self._started

    @property
    def is_over(self) -> bool:
        """Whether all epochs are done, or as many as patience allows have passed without a better one."""
        if len(self.history) >= self._training.epochs:
            return True
        patience = self._training.early_stopping
        if not patience or not self.history:
            return False
        return len(self.history) - best_epoch(self.history, self._training.monitor).epoch >= patience

    def on_test_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Put the averaged weights in."""
        self._live = [variable.numpy() for variable in self.model.trainable_variables]
        self.model.optimizer.finalize_variable_values(self.model.trainable_variables)

    def on_test_end(self, logs: dict[str, Any] | None = None) -> None:
        """Remember what was validated, and go on with the trained weights."""
        self._validated = self.model.get_weights()
        for variable, live in zip(self.model.trainable_variables, self._live, strict=True):
            variable.assign(live)

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Record, choose, save, tell: each needs what the one before it did."""
        record = _record(epoch + 1, logs or {}, float(self.model.optimizer.learning_rate))
        self.history.append(record)
        if best_epoch(self.history, self._training.monitor) is record:
            self.best = self._validated
        if self._checkpoint:
            network, optimizer = (
                [variable.numpy() for variable in variables]
                for variables in (self._variables, self.model.optimizer.variables)
            )
            self._checkpoint.save(State(network, optimizer, self.best, self.history, self.seconds))
        if self._on_epoch(record) or self.is_over:
            self.model.stop_training = True


def _record(epoch: int, logs: dict[str, Any], learning_rate: float) -> Epoch:
    """Return what Keras' logs say of an epoch.

    Raises:
        UserError: the training diverged.
    """
    names = {
        "train_loss": "loss",
        "train_accuracy": "accuracy",
        "val_loss": "val_loss",
        "val_accuracy": "val_accuracy",
    }
    values = {ours: round(float(logs[keras_name]), DIGITS) for ours, keras_name in names.items()}
    record = Epoch(epoch=epoch, **values, learning_rate=float(f"{learning_rate:.{DIGITS}g}"))
    if not (record.train_loss < DIVERGED and record.val_loss < DIVERGED):  # so that NaN is caught, too
        raise UserError(
            f"Training diverged in epoch {epoch}: the loss is {record.train_loss:g}, the validation loss "
            f"{record.val_loss:g}; lower training.optimizer.learning_rate in params.yaml."
        )
    return record
