"""From bytes 0 to 255 to the numbers a network sees.

Each scheme is one of Keras' own, so that the model that is served can carry the same step inside it:

| scheme | is | in Keras |
| --- | --- | --- |
| `unit` | x/255 | `Rescaling(1/255)` |
| `standard` | (x/255 - mean) / standard deviation, of the training file | `Normalization(mean, variance)` |
| `symmetric` | (x/255 - 0.5) / 0.5 | `Rescaling(1/127.5, offset=-1)` |
| `l2` | x / length of its *column* of pixels | `normalize(axis=1)`, `UnitNormalization(axis=1)` |

The recipe behind `l2` speaks of rows, but axis 1 of (n, 28, 28) is the row index, so what gets unit length is
the 28 pixels of each column. Columns without ink stay 0.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import read_json, write_json

Scheme = Literal["unit", "standard", "symmetric", "l2"]

_SCHEMES: dict[str, Scheme] = {scheme: scheme for scheme in get_args(Scheme)}
_BLOCK = 1_000  # images counted at a time, because NumPy counts in 8-byte copies of the pixels


@dataclass(frozen=True)
class Normalization:
    """A scheme with its numbers: pixel * scale + offset, or for `l2` the division (scale 1, offset 0)."""

    scheme: Scheme
    scale: float
    """Multiplies a pixel of 0 to 255."""
    offset: float
    """Is added after that."""

    @property
    def black(self) -> float:
        """What pixel 0, the paper around the digit, becomes."""
        return float(np.float32(self.offset))

    def apply(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Normalize uint8 (n, 28, 28) to float32 (n, 28, 28), in float32 arithmetic as Keras would."""
        if self.scheme == "l2":
            return _divide_by_column_lengths(images)
        normalized = np.multiply(images, np.float32(self.scale), dtype=np.float32)
        normalized += np.float32(self.offset)
        return normalized


def fit(scheme: Scheme, train_images: NDArray[np.uint8]) -> Normalization:
    """Return the normalization by `scheme`; only `standard` looks at the images.

    Args:
        scheme: which one.
        train_images: those of the training file, never the test file; uint8 (n, 28, 28).

    Raises:
        UserError: `standard`, but all pixels are equal.
    """
    match scheme:
        case "unit":
            return Normalization(scheme, scale=1 / 255, offset=0.0)
        case "standard":
            if train_images.min() == train_images.max():
                raise UserError(
                    "The training images are blank, so `normalize.scheme: standard` has nothing to scale by."
                )
            return _by_statistics(scheme, *pixel_statistics(train_images))
        case "symmetric":
            return _by_statistics(scheme, 0.5, 0.5)
        case "l2":
            return Normalization(scheme, scale=1.0, offset=0.0)


def pixel_statistics(images: NDArray[np.uint8]) -> tuple[float, float]:
    """Return mean and (population) standard deviation of x/255 over all pixels x of uint8 (n, 28, 28).

    They come from how often each of the 256 values occurs: exact, and without a float copy of the images.
    """
    counts = np.zeros(256, np.int64)
    for start in range(0, len(images), _BLOCK):
        counts += np.bincount(images[start : start + _BLOCK].ravel(), minlength=256)
    values = np.arange(256) / 255
    mean = np.average(values, weights=counts)
    return float(mean), float(np.sqrt(np.average((values - mean) ** 2, weights=counts)))


def save_normalization(path: Path, normalization: Normalization) -> None:
    """Write `normalization` as JSON, with the mean and standard deviation of x/255 where they are used."""
    content = asdict(normalization)
    if normalization.scheme in ("standard", "symmetric"):
        deviation = 1 / (255 * normalization.scale)
        content |= {"mean": -normalization.offset * deviation, "standard_deviation": deviation}
    write_json(path, content)


def load_normalization(path: Path) -> Normalization:
    """Read what `save_normalization` wrote.

    Raises:
        UserError: the file is missing, is not JSON, or holds something else.
    """
    content = read_json(path, made_by="mnist normalize")
    try:
        scheme = _SCHEMES[content["scheme"]]
        return Normalization(scheme, float(content["scale"]), float(content["offset"]))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged: delete it and run `mnist normalize` again.") from error


def _by_statistics(scheme: Scheme, mean: float, deviation: float) -> Normalization:
    return Normalization(scheme, scale=1 / (255 * deviation), offset=-mean / deviation)


def _divide_by_column_lengths(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    normalized = images.astype(np.float32)
    # Squares of bytes and their sums over 28 rows are integers below 2**24, which float32 holds exactly.
    lengths = np.sqrt(np.einsum("nrc,nrc->nc", normalized, normalized))
    lengths[lengths == 0] = 1
    normalized /= lengths[:, np.newaxis, :]
    return normalized
