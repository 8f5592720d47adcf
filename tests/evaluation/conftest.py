"""Predictions like those of a good model: most right and sure, a few wrong."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    images: NDArray[np.float32]


def predict(labels: NDArray[np.uint8], wrong: int) -> Predictions:
    """Read the first `wrong` labels as the next digit, all with a confidence between 0.55 and 0.95."""
    generator = np.random.default_rng(0)
    read = labels.copy()
    read[:wrong] = (read[:wrong] + 1) % 10
    confidence = generator.uniform(0.55, 0.95, len(labels)).astype(np.float32)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(labels)), read] = confidence
    images = generator.normal(size=(len(labels), 28, 28)).astype(np.float32)
    return Predictions(labels, probabilities, images)


@pytest.fixture(scope="session")
def good() -> Predictions:
    """500 images, 30 misread."""
    return predict(np.arange(500, dtype=np.uint8) % 10, wrong=30)


@pytest.fixture(scope="session")
def perfect() -> Predictions:
    """50 images, none misread."""
    return predict(np.arange(50, dtype=np.uint8) % 10, wrong=0)
