"""The one kind of image array there is: raw pixels as they were downloaded, with their labels, an `.npz` per subset."""

import hashlib
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path, require

MADE_BY = "mnist split"
"""The command that writes the subsets."""


@dataclass(frozen=True)
class Subset:
    """Some images and their labels."""

    images: NDArray[np.uint8]
    """Raw pixels, (n, height, width); 0 is background."""
    labels: NDArray[np.uint8]
    """Places of the classes in `data.classes` of params.yaml, (n,)."""

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
    return load_subset(train_file(folder))


def load_validation(folder: Path) -> Subset:
    """Load the images that every choice is made on, from the split stage's `folder`."""
    return load_subset(validation_file(folder))


def load_test(folder: Path) -> Subset:
    """Load the test images, from the split stage's `folder`.

    For `evaluate` alone, after everything has been chosen: nothing else may call this.
    """
    return load_subset(folder / "test.npz")


def load_subset(path: Path) -> Subset:
    """Load what `save_subset` wrote.

    Raises:
        UserError: the file is missing or damaged.
    """
    try:
        with np.load(require(path, MADE_BY), allow_pickle=False) as arrays:
            images, labels = arrays["images"], arrays["labels"]
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} is damaged: delete it and run `{MADE_BY}` again.") from error
    if (images.dtype, images.ndim, labels.dtype, labels.shape) != (np.uint8, 3, np.uint8, images.shape[:1]):
        raise UserError(
            f"{path} does not hold uint8 images (n, height, width) with n uint8 labels: delete it and run `{MADE_BY}` "
            "again."
        )
    return Subset(images, labels)


def save_subset(path: Path, subset: Subset) -> None:
    """Write `subset` to `path`, atomically and uncompressed; equal arrays give equal bytes.

    Not by `np.savez`, whose archives have other headers with Python before 3.11.4.
    """
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, array in (("images", subset.images), ("labels", subset.labels)):
            member = zipfile.ZipInfo(f"{name}.npy")
            member.file_size = array.nbytes  # tells zipfile which files need the headers for more than 2 GiB
            with archive.open(member, "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def fingerprints(images: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return 64 bits for each image, uint8 (n, height, width), that two different ones share once in 10^19 times."""
    digests = b"".join(hashlib.blake2b(image.tobytes(), digest_size=8).digest() for image in images)
    return np.frombuffer(digests, "<u8")


def upright_bar(height: int, width: int) -> NDArray[np.uint8]:
    """Return an image to show what an input looks like, uint8 (height, width): of 28x28 pixels, it could be a 1."""
    image = np.zeros((height, width), np.uint8)
    image[height // 7 : -(height // 7), width // 2 - 1 : width // 2 + 1] = 255
    return image
