"""Cutting the images to train on into train and validation; those to test on stay the test split."""

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.dataset import Subset, fingerprints
from mnist_pipeline.data.idx import images_name

Indices = NDArray[np.intp]

SUBSETS = ("train", "validation", "test")
"""The names of the subsets, of their files and of their rows in every table, in this order."""


def split_indices(
    labels: NDArray[np.uint8], validation_size: int, seed: int, classes: Sequence[str]
) -> tuple[Indices, Indices]:
    """Choose `validation_size` images by their labels, uint8 (n,), in each class in proportion to its size.

    Returns:
        Indices of the train and of the validation images, each in ascending order.

    Raises:
        UserError: the size leaves a class out of one of the two, or a class has a single image.
    """
    images, counts = len(labels), np.bincount(labels, minlength=len(classes)).tolist()
    fewest, rarest = min(zip(counts, classes, strict=True))
    if fewest < 2:
        raise UserError(
            f"The class {rarest} has {fewest} of the {images} images to train on, but needs 2: "
            "add some, or take it out of data.classes in params.yaml."
        )
    impossible = UserError(
        f"params.yaml: split.validation_size (found {validation_size}): of {images} images this leaves a class out of "
        f"train or validation (the rarest, {rarest}, has {fewest}); choose a size further from 0 and {images}, such as "
        f"{max(images // 12, len(classes))}."
    )
    try:
        train, validation = train_test_split(
            np.arange(images), test_size=validation_size, random_state=seed, stratify=labels
        )
    except ValueError as error:
        raise impossible from error
    if min(len(np.unique(labels[part])) for part in (train, validation)) < len(classes):
        raise impossible
    return np.sort(train), np.sort(validation)


def make_manifest(train_labels: NDArray[np.uint8], validation: Indices, test_labels: NDArray[np.uint8]) -> pd.DataFrame:
    """Say where each image went, one a row: `source` (its file), `index` in it, `label` and `subset`."""
    counts = [len(train_labels), len(test_labels)]
    subset = np.repeat(np.array(["train", "test"], dtype=object), counts)
    subset[validation] = "validation"
    return pd.DataFrame(
        {
            "source": np.repeat([images_name("train"), images_name("t10k")], counts),
            "index": np.concatenate([np.arange(count, dtype=np.int32) for count in counts]),
            "label": np.concatenate([train_labels, test_labels]),
            "subset": pd.Categorical(subset, SUBSETS),
        }
    )


def count_classes(manifest: pd.DataFrame, classes: Sequence[str]) -> pd.DataFrame:
    """Count the images by `subset` and `label`, here the class's name, in a tidy table for `dvc plots`: `images`."""
    counts = manifest.groupby(["subset", "label"], observed=True).size().rename("images").reset_index()
    return counts.assign(label=counts["label"].map(dict(enumerate(classes))))


def count_duplicates(subsets: Mapping[str, Subset]) -> dict[str, int]:
    """Count pixel-identical images.

    Returns:
        For each subset, under its name, how many images repeat an earlier one of it; for each two, under
        `b_in_a`, how many images of the later are also in the earlier.
    """
    prints = {name: fingerprints(subset.images).tolist() for name, subset in subsets.items()}
    known = {name: set(of_images) for name, of_images in prints.items()}
    within = {name: len(prints[name]) - len(known[name]) for name in subsets}
    across = {f"{b}_in_{a}": sum(image in known[a] for image in prints[b]) for a, b in combinations(subsets, 2)}
    return within | across
