"""The `normalize` stage: data/raw to data/normalized."""

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import Subset, save_subset
from mnist_pipeline.data.idx import read_part
from mnist_pipeline.data.normalize import fit, save_normalization
from mnist_pipeline.params import Normalize
from mnist_pipeline.project import Project


def run(project: Project, params: Normalize) -> None:
    """Write the normalized arrays of both files, and the scheme with the statistics of the training file.

    Raises:
        UserError: a raw file is missing or damaged.
    """
    train_images, train_labels = read_part(project.raw, "train")
    test_images, test_labels = read_part(project.raw, "t10k")
    normalization = fit(params.scheme, train_images)
    train = Subset(normalization.apply(train_images), train_labels)
    save_subset(project.normalized / "train.npz", train)
    save_subset(project.normalized / "test.npz", Subset(normalization.apply(test_images), test_labels))
    save_normalization(project.normalization, normalization)
    say(
        f"Normalized {len(train_labels):,} + {len(test_labels):,} images by `{params.scheme}`: training pixels "
        f"lie in {train.images.min():.3f} to {train.images.max():.3f}, paper is {normalization.black:.3f}."
    )
