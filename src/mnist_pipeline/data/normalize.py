"""The statistics that a normalization needs, and what each scheme makes of the pixels.

Here the schemes are only drawn: a model applies its own in its first layer.

| scheme | is | in Keras |
| --- | --- | --- |
| `unit` | x/255 | `Rescaling(1/255)` |
| `standard` | (x - mean) / standard deviation, of the train split | `Normalization(mean, variance)` |
| `symmetric` | x/127.5 - 1 | `Rescaling(1/127.5, offset=-1)` |
| `l2` | x / length of its *column* of pixels | `normalize(axis=1)`, `UnitNormalization(axis=1)` |

The recipe behind `l2` speaks of rows, but axis 1 of (n, height, width) is the row index, so what gets unit length is
the pixels of each column. Columns without ink stay 0.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import write_json
from mnist_pipeline.core.records import read_json

if TYPE_CHECKING:
    from pandas import DataFrame

BINS = 20
"""Intervals in which normalized pixels are counted."""
SAMPLE = 1_000
"""Images of which the distribution is drawn."""


@dataclass(frozen=True)
class PixelStatistics:
    """What the pixels of the train split are like, on their scale of 0 to 255."""

    mean: float
    """Mean over all pixels."""
    standard_deviation: float
    """Population standard deviation over all pixels, above 0."""


def fit(train_images: NDArray[np.uint8]) -> PixelStatistics:
    """Return mean and standard deviation over all pixels of the train split, uint8 (n, height, width).

    They come from how often each value occurs: exact, and without a float copy of the images.

    Raises:
        UserError: all pixels are equal.
    """
    values = np.arange(256)
    counts = sum((np.bincount(image.ravel(), minlength=256) for image in train_images), np.zeros(256, np.int64))
    mean = np.average(values, weights=counts)
    deviation = np.sqrt(np.average((values - mean) ** 2, weights=counts))
    if deviation == 0:
        raise UserError("The training images are blank, every pixel is the same: look at data/raw.")
    return PixelStatistics(float(mean), float(deviation))


def distribution(images: NDArray[np.uint8], statistics: PixelStatistics) -> "DataFrame":
    """Count the pixels before (`raw`) and after each scheme, in a tidy table for `dvc plots`.

    Args:
        images: a sample, uint8 (n, height, width).
        statistics: of the train split.

    Returns:
        A row per scheme and interval: scheme, value (middle of the interval), share (of all pixels, in [0, 1]).
    """
    import pandas as pd

    pixels = images.astype(np.float32)
    lengths = np.sqrt((pixels**2).sum(axis=1, keepdims=True))
    normalized = {
        "raw": pixels,
        "unit": pixels / 255,
        "standard": (pixels - np.float32(statistics.mean)) / np.float32(statistics.standard_deviation),
        "symmetric": pixels / 127.5 - 1,
        "l2": pixels / np.where(lengths == 0, 1, lengths),
    }
    tables: list[pd.DataFrame] = []
    for scheme, numbers in normalized.items():
        counts, edges = np.histogram(numbers, bins=BINS)
        middles = (edges[:-1] + edges[1:]) / 2
        tables.append(pd.DataFrame({"scheme": scheme, "value": middles.round(4), "share": counts / counts.sum()}))
    return pd.concat(tables, ignore_index=True)


def save_statistics(path: Path, statistics: PixelStatistics) -> None:
    """Write the statistics as JSON."""
    write_json(path, asdict(statistics))


def load_statistics(path: Path) -> PixelStatistics:
    """Read what `save_statistics` wrote.

    Raises:
        UserError: the file is missing or holds something else.
    """
    return read_json(path, PixelStatistics, "mnist normalize")
