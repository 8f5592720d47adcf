"""The arrays that the stages hand on: images with their labels, one `.npz` file per subset."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path, require
from mnist_pipeline.params import IMAGE_SIDE


@dataclass(frozen=True)
class Subset:
    """Some images and their labels."""

    images: NDArray[np.float32]
    """Normalized pixels, (n, 28, 28)."""
    labels: NDArray[np.uint8]
    """Digits 0 to 9, (n,)."""

    def __len__(self) -> int:
        return len(self.labels)


def train_file(folder: Path) -> Path:
    """Return where the split stage's `folder` keeps the images that weights are fitted to."""
    return folder / "train.npz"


def validation_file(folder: Path) -> Path:
    """Return where the split stage's `folder` keeps the images that every choice is made on."""
    return folder / "validation.npz"


def load_train(folder: Path) -> Subset:
    """Load the images that weights are fitted to, from the split stage's `folder`."""
    return load_subset(train_file(folder), made_by="mnist split")


def load_validation(folder: Path) -> Subset:
    """Load the images that every choice is made on, from the split stage's `folder`."""
    return load_subset(validation_file(folder), made_by="mnist split")


def load_test(folder: Path) -> Subset:
    """Load the official 10,000 test images, from the split stage's `folder`.

    For `evaluate` alone, after everything has been chosen: nothing else may call this.
    """
    return load_subset(folder / "test.npz", made_by="mnist split")


def load_subset(path: Path, made_by: str) -> Subset:
    """Load what `save_subset` wrote.

    Raises:
        UserError: the file is missing or damaged; the message names `made_by`, the command that writes it.
    """
    try:
        with np.load(require(path, made_by), allow_pickle=False) as arrays:
            subset = Subset(images=arrays["images"], labels=arrays["labels"])
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: delete it and run `{made_by}` again.") from error
    _check(subset, path, made_by)
    return subset


def save_subset(path: Path, subset: Subset) -> None:
    """Write `subset` to `path`, atomically and uncompressed; equal arrays give equal bytes."""
    with atomic_path(path) as temporary:
        np.savez(temporary, images=subset.images, labels=subset.labels)


def _check(subset: Subset, path: Path, made_by: str) -> None:
    found = [(array.dtype, array.shape) for array in (subset.images, subset.labels)]
    count = len(subset.labels) if subset.labels.ndim else 0
    if found != [(np.float32, (count, IMAGE_SIDE, IMAGE_SIDE)), (np.uint8, (count,))]:
        raise UserError(
            f"{path} does not hold float32 images (n, 28, 28) with n uint8 labels: delete it and run `{made_by}` again."
        )
