"""Reading IDX, the format MNIST is published in.

A file is a magic number (two zero bytes, the type of its values, the number of dimensions), the size of each
dimension as a big-endian 32-bit integer, then the values, row by row. MNIST's values are unsigned bytes.
"""

import struct
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import require
from mnist_pipeline.data.params import CLASSES, IMAGE_SIDE

Part = Literal["train", "t10k"]
"""The two halves of MNIST as their files are named: 60,000 images to train on and 10,000 to test on."""

_UNSIGNED_BYTE = 8
_MADE_BY = "mnist download"


def images_name(part: Part) -> str:
    """Return the name of the file that holds the images of `part`."""
    return f"{part}-images-idx3-ubyte"


def labels_name(part: Part) -> str:
    """Return the name of the file that holds the labels of `part`."""
    return f"{part}-labels-idx1-ubyte"


def parse_idx(content: bytes, dimensions: int, name: str) -> NDArray[np.uint8]:
    """Return the array in `content`, the bytes of the IDX file `name`; it is read-only and shares their memory.

    Raises:
        UserError: the magic number is not that of unsigned bytes in so many dimensions, or the file is not as
            long as its own header says.
    """
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise _damaged(name, f"begins with {content[:4].hex() or 'nothing'}, not with the magic number {magic.hex()}")
    header = 4 + 4 * dimensions
    if len(content) < header:
        raise _damaged(name, f"has {len(content)} bytes, too few for its header of {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    # Python integers, because a forged header can overflow NumPy's.
    expected = header + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise _damaged(name, f"has {len(content)} bytes, but its header announces {expected}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_part(raw: Path, part: Part) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read one half of MNIST from the folder `raw`.

    Returns:
        Images, uint8 (n, 28, 28), 0 is paper and 255 is ink; and labels, uint8 (n,), 0 to 9.

    Raises:
        UserError: a file is missing or damaged, the images are not 28x28, their number is 0 or not that of
            the labels, or a label is above 9; the message names the file.
    """
    images_path, labels_path = raw / images_name(part), raw / labels_name(part)
    images = parse_idx(require(images_path, _MADE_BY).read_bytes(), 3, str(images_path))
    labels = parse_idx(require(labels_path, _MADE_BY).read_bytes(), 1, str(labels_path))
    if images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
        raise _damaged(images_path, f"holds images of {images.shape[1]}x{images.shape[2]} pixels, not 28x28")
    if len(images) == 0:
        raise _damaged(images_path, "holds no image")
    if len(labels) != len(images):
        raise _damaged(labels_path, f"holds {len(labels)} labels for the {len(images)} images in {images_path.name}")
    if labels.max() >= CLASSES:
        raise _damaged(labels_path, f"holds the label {labels.max()}, but digits end at 9")
    return images, labels


def _damaged(file: Path | str, what: str) -> UserError:
    return UserError(f"{file} {what}: delete it and run `{_MADE_BY}` again.")
