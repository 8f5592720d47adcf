"""How much two trainings of one model differ. Pure: weights and predictions of both in, numbers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WeightDifference:
    """Two sets of weights, side by side."""

    count: int
    """How many numbers there are."""
    differing: int
    """How many of them are not the same to the bit."""
    largest: float
    """The largest absolute difference."""


@dataclass(frozen=True)
class Agreement:
    """What two models say about the same images."""

    images: int
    recorded_accuracy: float
    """Share of images that the recorded model gets right, in [0, 1]."""
    rebuilt_accuracy: float
    """The same of the rebuilt one."""
    agreeing: int
    """On how many both see the same digit."""


def compare_weights(recorded: Sequence[NDArray[Any]], rebuilt: Sequence[NDArray[Any]]) -> WeightDifference | None:
    """Compare the weights of two models bit by bit; None if their arrays have other shapes or types.

    Args:
        recorded: arrays of floats.
        rebuilt: likewise, in the same order.
    """
    forms = [[(array.shape, array.dtype) for array in arrays] for arrays in (recorded, rebuilt)]
    if forms[0] != forms[1]:
        return None
    old, new = (np.concatenate([np.zeros(0), *(array.ravel() for array in side)]) for side in (recorded, rebuilt))
    differing = sum(int((_bits(a) != _bits(b)).any(axis=1).sum()) for a, b in zip(recorded, rebuilt, strict=True))
    return WeightDifference(old.size, differing, float(np.abs(old - new).max(initial=0)))


def compare_predictions(labels: NDArray[np.uint8], recorded: NDArray[Any], rebuilt: NDArray[Any]) -> Agreement:
    """Compare what two models say about the same images.

    Args:
        labels: the true digits, uint8 (n,), n > 0.
        recorded: one model's logits or probabilities, (n, 10).
        rebuilt: the other's.
    """
    old, new = recorded.argmax(axis=1), rebuilt.argmax(axis=1)
    return Agreement(len(labels), float((old == labels).mean()), float((new == labels).mean()), int((old == new).sum()))


def _bits(array: NDArray[Any]) -> NDArray[np.uint8]:
    """Return the bytes of each number, (n, bytes)."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).reshape(-1, array.itemsize)
