"""The raw pixels behind the train and validation splits, and how to recognize an image in another split."""

import hashlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.data.idx import images_name, read_part
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import require


def load_originals(
    raw: Path, split: Path, subset: Literal["train", "validation"]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Load one of the two subsets that may be chosen on, as it was before normalization.

    Args:
        raw: the folder of the IDX files; those of the test images are not opened.
        split: the split stage's folder, whose manifest says which image went where.
        subset: which one.

    Returns:
        Pixels, uint8 (n, 28, 28), and labels, uint8 (n,), in the order of the subset.

    Raises:
        UserError: a file is missing or damaged, or the manifest is not of these raw files.
    """
    import pandas as pd

    images, labels = read_part(raw, "train")
    path = require(split / "manifest.parquet", "mnist split")
    wanted = [("source", "==", images_name("train")), ("subset", "==", subset)]
    rows = pd.read_parquet(path, columns=["index", "label"], filters=wanted)
    index = rows["index"].to_numpy()
    if len(index) == 0 or index.max() >= len(labels) or not np.array_equal(labels[index], rows["label"].to_numpy()):
        raise UserError(f"{path} does not describe the images in {raw}: run `dvc repro` first.")
    return images[index], labels[index]


def fingerprints(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 64 bits for each image, uint8 (n, 28, 28), that two different images share once in 10^19 times."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in pixels)
    return np.frombuffer(digests, "<u8")
