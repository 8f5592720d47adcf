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
from mnist_pipeline.data.params import Data

Part = Literal["train", "t10k"]
"""The images to train on and those to test on, as MNIST's files are named."""

_UNSIGNED_BYTE = 8
_MADE_BY = "mnist download"


def images_name(part: Part) -> str:
    """Return the name of the file that holds the images of `part`."""
    return f"{part}-images-idx3-ubyte"


def labels_name(part: Part) -> str:
    """Return the name of the file that holds the labels of `part`."""
    return f"{part}-labels-idx1-ubyte"


RAW_FILES = (images_name("train"), labels_name("train"), images_name("t10k"), labels_name("t10k"))
"""The files of `data/raw`, whatever the source calls its own."""


def header(*shape: int) -> bytes:
    """Return how the IDX file of an array of unsigned bytes begins."""
    return bytes((0, 0, _UNSIGNED_BYTE, len(shape))) + struct.pack(f">{len(shape)}I", *shape)


def parse_idx(content: bytes, dimensions: int, name: str) -> NDArray[np.uint8]:
    """Return the array in `content`, the bytes of the IDX file `name`; it is read-only and shares their memory.

    Raises:
        UserError: the magic number is not that of unsigned bytes in so many dimensions, or the file is not as
            long as its own header says.
    """
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic:
        raise _damaged(name, f"begins with {content[:4].hex() or 'nothing'}, not with the magic number {magic.hex()}")
    start = 4 + 4 * dimensions
    if len(content) < start:
        raise _damaged(name, f"has {len(content)} bytes, too few for its header of {start}")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    # Python integers, because a forged header can overflow NumPy's.
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise _damaged(name, f"has {len(content)} bytes, but its header announces {expected}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_part(raw: Path, part: Part, data: Data) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images to train on, or those to test on, from the folder `raw`.

    Returns:
        Images, uint8 (n, height, width), 0 is background; and labels, uint8 (n,), from 0.

    Raises:
        UserError: a file is missing or damaged, the images are of another size than `data` says, their number is 0 or
            not that of the labels, or the labels are not those of its classes; the message names the file.
    """
    images_path, labels_path = raw / images_name(part), raw / labels_name(part)
    images = parse_idx(require(images_path, _MADE_BY).read_bytes(), 3, str(images_path))
    labels = parse_idx(require(labels_path, _MADE_BY).read_bytes(), 1, str(labels_path))
    if len(images) == 0:
        raise _damaged(images_path, "holds no image")
    if len(labels) != len(images):
        raise _damaged(labels_path, f"holds {len(labels)} labels for the {len(images)} images in {images_path.name}")
    if images.shape[1:] != data.image_size:
        raise UserError(
            f"{images_path} holds images of {images.shape[1]}x{images.shape[2]} pixels (height x width), but "
            f"data.image_size in params.yaml is {[*data.image_size]}: correct the one that is wrong."
        )
    if (top := int(labels.max())) >= len(data.classes):
        raise UserError(
            f"{labels_path} holds the label {top}, but data.classes in params.yaml names {len(data.classes)} classes, "
            f"0 to {len(data.classes) - 1}: correct the one that is wrong."
        )
    counts = np.bincount(labels, minlength=len(data.classes))
    if empty := [name for name, count in zip(data.classes, counts, strict=True) if not count]:
        raise UserError(
            f"{labels_path} holds no label of {', '.join(empty)}: take that out of data.classes in params.yaml, or add "
            "images of it."
        )
    return images, labels


def _damaged(file: Path | str, what: str) -> UserError:
    return UserError(f"{file} {what}: delete it and run `{_MADE_BY}` again.")
