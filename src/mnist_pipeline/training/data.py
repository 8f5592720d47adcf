"""What a training may see. Quick to import, because whoever sends it to other machines needs no TensorFlow."""

import hashlib
from dataclasses import dataclass
from typing import Self

from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, load_train, load_validation
from mnist_pipeline.data.normalize import PixelStatistics, load_statistics


@dataclass(frozen=True)
class TrainingData:
    """Images with labels to learn from and to choose on: never the test split."""

    train: Subset
    """Images to learn from."""
    validation: Subset
    """Images to choose the best epoch on."""
    statistics: PixelStatistics
    """Mean and standard deviation of the pixels of the train split."""

    @classmethod
    def load(cls, project: Project) -> Self:
        """Read the train and validation splits of a project.

        Raises:
            UserError: a file is missing or damaged.
        """
        statistics = load_statistics(project.normalization)
        return cls(load_train(project.split), load_validation(project.split), statistics)

    def digest(self) -> str:
        """Return the MD5 of all pixels and labels."""
        found = hashlib.md5(usedforsecurity=False)
        for subset in (self.train, self.validation):
            found.update(subset.images.tobytes())
            found.update(subset.labels.tobytes())
        return found.hexdigest()
