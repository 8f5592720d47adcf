"""Measures of predictions. Pure: arrays in, numbers and tables out.

Everywhere, `labels` are the true classes, uint8 (n,), and `probabilities` the model's, float32 (n, classes).
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError

if TYPE_CHECKING:
    import keras
    from pandas import DataFrame

BATCH = 1_000
"""Images that are predicted at once."""


@dataclass(frozen=True)
class Score:
    """How often a model is right, and how sure."""

    images: int
    """How many it was shown."""
    accuracy: float
    """Share of them that it got right, in [0, 1]."""
    accuracy_low: float
    """Lower end of the accuracy's 95 % Wilson interval."""
    accuracy_high: float
    """Upper end of the accuracy's 95 % Wilson interval."""
    loss: float
    """Mean negative log likelihood in nats; clipped at float32's epsilon, so at most 15.9 per image."""


@dataclass(frozen=True)
class Metrics(Score):
    """How well a model did in every respect. A class without images counts as 0 in the averages."""

    macro_precision: float
    """Share of right ones among the images taken for a class, averaged over the classes."""
    macro_recall: float
    """Share of right ones among the images of a class, averaged over the classes."""
    macro_f1: float
    """Harmonic mean of precision and recall, averaged over the classes."""
    expected_calibration_error: float
    """Mean distance between confidence and accuracy over 15 equal-width bins (Guo et al. 2017)."""
    recall: dict[str, float]
    """Share of right ones among the images of each class, by its name."""


def score(labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Score:
    """Compute what models are compared by."""
    from sklearn.metrics import log_loss

    images, correct = len(labels), int((probabilities.argmax(axis=1) == labels).sum())
    low, high = wilson_interval(correct, images)
    loss = log_loss(labels, probabilities, labels=range(probabilities.shape[1]))
    return Score(images, correct / images, low, high, float(loss))


def evaluate_predictions(
    labels: NDArray[np.uint8], probabilities: NDArray[np.float32], classes: Sequence[str]
) -> Metrics:
    """Compute every measure of a test report; a UserError says that training diverged, and nothing is a number."""
    from sklearn.metrics import precision_recall_fscore_support

    if not np.isfinite(probabilities).all():
        raise UserError(
            "The model's probabilities are not numbers: its training diverged; lower its learning_rate in "
            "params.yaml and train again."
        )
    scores = precision_recall_fscore_support(
        labels,
        probabilities.argmax(axis=1),
        labels=range(len(classes)),
        zero_division=0,  # pyright: ignore[reportArgumentType] (it infers `str` from the default)
    )
    precision, recall, f1, _ = np.array(scores)
    return Metrics(
        **asdict(score(labels, probabilities)),
        macro_precision=float(precision.mean()),
        macro_recall=float(recall.mean()),
        macro_f1=float(f1.mean()),
        expected_calibration_error=calibration_error(reliability_table(labels, probabilities)),
        recall=dict(zip(classes, recall.tolist(), strict=True)),
    )


def predict_probabilities(model: "keras.Model", images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a model says about raw pixels, uint8 (n, height, width): probabilities, float32 (n, classes).

    Not by `predict`, whose tf.data tunes itself and may keep it waiting at the end, idly, for as long as it took.
    """
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return np.concatenate([np.asarray(model.predict_on_batch(batch), np.float32) for batch in batches])


def wilson_interval(correct: int, images: int) -> tuple[float, float]:
    """Return the 95 % Wilson score interval of the share `correct / images`; of no images, (0, 1).

    Unlike the textbook's interval it stays inside [0, 1] and is sound near 1, where MNIST models live.
    """
    from scipy.stats import binomtest

    if images == 0:
        return 0.0, 1.0
    interval = binomtest(correct, images).proportion_ci(confidence_level=0.95, method="wilson")
    return float(interval.low), float(interval.high)


def reliability_table(labels: NDArray[np.uint8], probabilities: NDArray[np.float32], bins: int = 15) -> "DataFrame":
    """Group the images by the confidence of their prediction, in equal-width bins (low, high].

    15 bins, as in Guo et al. 2017, "On Calibration of Modern Neural Networks".

    Returns:
        A row per bin: low and high (its ends), images and correct (counts), accuracy and confidence (means;
        NaN in an empty bin).
    """
    import pandas as pd

    edges = np.linspace(0, 1, bins + 1)
    confidence = probabilities.max(axis=1).astype(np.float64)
    chosen = np.digitize(confidence, edges[1:-1], right=True)
    judged = pd.DataFrame({"bin": pd.Categorical(chosen, range(bins)), "confidence": confidence})
    judged["right"] = probabilities.argmax(axis=1) == labels
    table = judged.groupby("bin", observed=False).agg(
        images=("right", "size"),
        correct=("right", "sum"),
        accuracy=("right", "mean"),
        confidence=("confidence", "mean"),
    )
    return table.assign(low=edges[:-1], high=edges[1:])


def calibration_error(reliability: "DataFrame") -> float:
    """Return the expected calibration error: the gaps in a `reliability_table`, weighted by images."""
    gap = (reliability["accuracy"] - reliability["confidence"]).abs().fillna(0)
    return float(np.average(gap, weights=reliability["images"]))


def predictions_table(labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> "DataFrame":
    """Return a row per image: index, label, predicted, and the probability of each label: probability_0, …"""
    from pandas import DataFrame

    return DataFrame(
        {
            "index": np.arange(len(labels)),
            "label": labels,
            "predicted": probabilities.argmax(axis=1).astype(np.uint8),
            **{f"probability_{label}": of_label for label, of_label in enumerate(probabilities.T)},
        }
    )
