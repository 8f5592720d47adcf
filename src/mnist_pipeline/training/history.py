"""The record of a training, epoch by epoch."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from mnist_pipeline.core.files import atomic_path

Monitor = Literal["accuracy", "loss"]
"""Which number on the validation split tells the best epoch."""


@dataclass(frozen=True)
class Epoch:
    """What one pass over the training images came to. Accuracies lie in [0, 1], losses are mean cross-entropies.

    The names are those of the metrics in MLflow: short ones, as Keras has them, because its page cuts long ones off.
    """

    epoch: int
    """Number of the epoch, from 1."""
    train_loss: float
    """Loss on the training batches as they were seen: augmented, smoothed, with dropout."""
    train_accuracy: float
    """Share of the same images that was right, in [0, 1]."""
    val_loss: float
    """Loss on the validation split, with the weights that would be kept."""
    val_accuracy: float
    """Share of the validation split that was right, with the same weights."""
    learning_rate: float
    """Learning rate at the end of the epoch."""

    def rank(self, monitor: Monitor) -> tuple[float, float]:
        """Higher is better: the validation accuracy or loss, ties by the other."""
        accuracy, loss = self.val_accuracy, self.val_loss
        return (accuracy, -loss) if monitor == "accuracy" else (-loss, accuracy)


@dataclass(frozen=True)
class TrainingSummary:
    """Content of `reports/<model>/training.json`: what a training came to, by its best epoch."""

    validation_accuracy: float
    """Accuracy of the epoch whose weights are kept."""
    validation_loss: float
    """Loss of the same epoch."""
    best_epoch: int
    """Number of that epoch."""
    epochs: int
    """How many epochs there were."""
    parameters: int
    """Number of weights."""


def best_epoch(history: Iterable[Epoch], monitor: Monitor) -> Epoch:
    """Return the epoch whose weights are kept: the first of the highest rank."""
    return max(history, key=lambda epoch: epoch.rank(monitor))


def write_history(path: Path, history: Sequence[Epoch]) -> None:
    """Write one CSV row per epoch, floats in full precision."""
    import pandas as pd

    with atomic_path(path) as temporary:
        pd.DataFrame([asdict(epoch) for epoch in history]).to_csv(temporary, index=False)
