"""The `split` stage: data/normalized to data/split."""

from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import Subset, load_subset, save_subset
from mnist_pipeline.data.split import (
    check_split,
    count_classes,
    count_duplicates,
    make_manifest,
    split_indices,
)
from mnist_pipeline.files import atomic_path, write_json
from mnist_pipeline.params import Split
from mnist_pipeline.project import Project


def run(project: Project, params: Split) -> None:
    """Write the three subsets, the manifest, the class counts and a summary; the test images pass through.

    Raises:
        UserError: a normalized file is missing or damaged, or the validation size leaves a class out.
    """
    whole = load_subset(project.normalized / "train.npz", made_by="mnist normalize")
    test = load_subset(project.normalized / "test.npz", made_by="mnist normalize")
    train, validation = split_indices(whole.labels, params.validation_size, params.seed)
    check_split(whole.labels, train, validation)
    subsets = {
        "train": Subset(whole.images[train], whole.labels[train]),
        "validation": Subset(whole.images[validation], whole.labels[validation]),
        "test": test,
    }
    duplicates = count_duplicates(subsets)
    _write(project.split, subsets, make_manifest(whole.labels, validation, test.labels), duplicates)
    across = sum(count for pair, count in duplicates.items() if pair not in subsets)
    say(
        f"Split into {len(train):,} train, {len(validation):,} validation and {len(test):,} test images; "
        f"{across} pixel-identical across subsets, {sum(duplicates.values()) - across} within."
    )


def _write(folder: Path, subsets: Mapping[str, Subset], manifest: pd.DataFrame, duplicates: dict[str, int]) -> None:
    for name, subset in subsets.items():
        save_subset(folder / f"{name}.npz", subset)
    with atomic_path(folder / "manifest.parquet") as temporary:
        manifest.to_parquet(temporary, index=False)
    with atomic_path(folder / "class_counts.csv") as temporary:
        count_classes(manifest).to_csv(temporary, index=False)
    images = {name: len(subset) for name, subset in subsets.items()}
    write_json(folder / "summary.json", {"images": images, "duplicates": duplicates})
