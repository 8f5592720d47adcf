"""What a training may see. Quick to import, because whoever sends it to other machines needs no TensorFlow."""

import hashlib
from dataclasses import dataclass
from typing import Self

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import MADE_BY, Subset, load_train, load_validation, train_file
from mnist_pipeline.data.normalize import PixelStatistics, load_statistics
from mnist_pipeline.data.params import Data, load_data


@dataclass(frozen=True)
class TrainingData:
    """Images with labels to learn from and to choose on: never the test split."""

    train: Subset
    """Images to learn from."""
    validation: Subset
    """Images to choose the best epoch on."""
    statistics: PixelStatistics
    """Mean and standard deviation of the pixels of the train split."""
    about: Data
    """What `params.yaml` says of them."""

    @classmethod
    def load(cls, project: Project) -> Self:
        """Read the train and validation splits of a project.

        Raises:
            UserError: a file is missing or damaged, or was split before `data` in params.yaml became another.
        """
        about, statistics = load_data(project), load_statistics(project.normalization)
        train, validation = load_train(project.split), load_validation(project.split)
        if train.images.shape[1:] != about.image_size or train.labels.max() != len(about.classes) - 1:
            raise UserError(
                f"{train_file(project.split)} does not hold images of {about.image_size[0]}x{about.image_size[1]} in "
                f"{len(about.classes)} classes, as params.yaml: data says: run `{MADE_BY}` and `mnist normalize` again."
            )
        return cls(train, validation, statistics, about)

    def digest(self) -> str:
        """Return the MD5 of all pixels and labels."""
        found = hashlib.md5(usedforsecurity=False)
        for subset in (self.train, self.validation):
            found.update(subset.images.tobytes())
            found.update(subset.labels.tobytes())
        return found.hexdigest()
