"""The `normalize` stage: data/raw to data/normalized."""

from pathlib import Path

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import Subset, save_subset
from mnist_pipeline.data.idx import read_part
from mnist_pipeline.data.normalize import fit, save_normalization
from mnist_pipeline.params import Normalize
from mnist_pipeline.project import Project


def run(project: Project, params: Normalize, raw: Path | None = None) -> None:
    """Write the normalized arrays of both files, and the scheme with the statistics of the training file.

    Args:
        project: where to write.
        params: which scheme.
        raw: folder with the IDX files; the project's own if None.

    Raises:
        UserError: a raw file is missing or damaged.
    """
    raw = raw or project.raw
    train_images, train_labels = read_part(raw, "train")
    test_images, test_labels = read_part(raw, "t10k")
    normalization = fit(params.scheme, train_images)
    train = Subset(normalization.apply(train_images), train_labels)
    save_subset(project.normalized / "train.npz", train)
    save_subset(project.normalized / "test.npz", Subset(normalization.apply(test_images), test_labels))
    save_normalization(project.normalization, normalization)
    say(
        f"Normalized {len(train_labels):,} + {len(test_labels):,} images by `{params.scheme}`: training pixels "
        f"lie in {train.images.min():.3f} to {train.images.max():.3f}, paper is {normalization.black:.3f}."
    )
