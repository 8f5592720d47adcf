"""Predictions like those of a good model: most right and sure, a few wrong."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Predictions:
    labels: NDArray[np.uint8]
    probabilities: NDArray[np.float32]
    images: NDArray[np.uint8]


def fake(digits: list[int], wrong: int) -> Predictions:
    """Read the first `wrong` digits as the next one, all with a confidence between 0.55 and 0.95."""
    labels = np.array(digits, np.uint8)
    generator = np.random.default_rng(0)
    read = labels.copy()
    read[:wrong] = (read[:wrong] + 1) % 10
    confidence = generator.uniform(0.55, 0.95, len(labels)).astype(np.float32)
    probabilities = np.repeat((1 - confidence)[:, None] / 9, 10, axis=1)
    probabilities[np.arange(len(labels)), read] = confidence
    images = generator.integers(0, 256, (len(labels), 28, 28), dtype=np.uint8)
    return Predictions(labels, probabilities.astype(np.float32), images)


GOOD = fake([*range(10)] * 50, wrong=30)
PERFECT = fake([*range(10)] * 5, wrong=0)
