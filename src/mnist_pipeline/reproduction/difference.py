"""How much the weights of two trainings of one model differ."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def compare_weights(recorded: Sequence[NDArray[Any]], rebuilt: Sequence[NDArray[Any]]) -> tuple[int, int, float] | None:
    """Compare the weights of two models, as arrays of floats, of 64 bits at most, in the same order.

    Returns:
        How many numbers there are, how many are not the same to the bit, and their largest absolute difference; None
        if the arrays have other shapes or types.
    """
    forms = [[(array.shape, array.dtype) for array in side] for side in (recorded, rebuilt)]
    if forms[0] != forms[1]:
        return None
    # A float of 16 or 32 bits has its own float of 64 bits, -0.0 included.
    old, new = (np.concatenate([np.float64(array).ravel() for array in side]) for side in (recorded, rebuilt))
    differing = int((old.view(np.int64) != new.view(np.int64)).sum())
    return old.size, differing, float(np.abs(old - new).max(initial=0))
