"""The `normalize` stage: data/split/train.npz to data/normalization.json."""

import numpy as np

from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import load_train
from mnist_pipeline.data.normalize import SAMPLE, distribution, fit, save_statistics


def run(project: Project) -> None:
    """Write the statistics that normalizations need, and what each scheme makes of the pixels.

    Raises:
        UserError: the train split is missing or damaged.
    """
    images = load_train(project.split).images
    statistics = fit(images)
    sample = images[np.linspace(0, len(images) - 1, min(SAMPLE, len(images))).astype(int)]
    with atomic_path(project.pixel_distribution) as temporary:
        distribution(sample, statistics).to_csv(temporary, index=False)
    save_statistics(project.normalization, statistics)
    say(
        f"{len(images):,} training images: the pixels have a mean of {statistics.mean:.2f} and a standard deviation of "
        f"{statistics.standard_deviation:.2f}, of 255."
    )
