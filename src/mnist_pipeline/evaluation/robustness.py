"""How a model's accuracy falls as pictures get worse: eight corruptions of validation images, five strengths of each.

Corruptions and their grading follow Hendrycks and Dietterich 2019, "Benchmarking Neural Network Robustness to Common
Corruptions and Perturbations". Nothing is chosen by what comes out.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.files import require
from mnist_pipeline.core.records import reading
from mnist_pipeline.data.dataset import Subset

if TYPE_CHECKING:
    from pandas import DataFrame

IMAGES = 1_000
"""Validation images that are corrupted, at most."""
STRENGTHS = range(1, 6)
"""From hardly visible to hard for people, too."""

MARGIN = 0.02
"""Difference of two mean accuracies that is no chance: each is of 5,000 images, with a standard error below 0.007."""

GRADED_FOR = 28
"""Shorter side, in pixels, of the images that the strengths are graded for; those in pixels grow with it."""

Images = NDArray[np.float32]
Corruption = Callable[[Images, int, np.random.Generator], Images]
"""Makes images, float32 (n, height, width) on the scale of 0 to 255, worse by a strength."""


def _shift(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By 1 to 5 pixels of 28."""
    angle = random.uniform(0, 2 * math.pi, len(images))
    return _moved(images, np.eye(2), strength * _scale(images) * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _rotation(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By 10 to 50 degrees, to either side."""
    angle = math.radians(10 * strength) * random.choice((-1, 1), len(images))
    cosine, sine = np.cos(angle), np.sin(angle)
    return _moved(images, np.stack([cosine, -sine, sine, cosine], axis=1).reshape(-1, 2, 2), np.zeros(2))


def _zoom(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By a factor of 1.1 to 1.5, up or down."""
    factor = (1 + 0.1 * strength) ** random.choice((-1.0, 1.0), (len(images), 1, 1))
    return _moved(images, factor * np.eye(2), np.zeros(2))


def _noise(images: Images, strength: int, random: np.random.Generator) -> Images:
    """With a standard deviation of 25 to 125 grey levels."""
    return images + random.normal(0, 25 * strength, images.shape).astype(np.float32)


def _blur(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By a Gaussian with a standard deviation of 0.5 to 2.5 pixels of 28."""
    from scipy.ndimage import gaussian_filter

    del random
    blurred: Any = gaussian_filter(images, 0.5 * strength * _scale(images), axes=(1, 2))
    return blurred


def _contrast(images: Images, strength: int, random: np.random.Generator) -> Images:
    """With 0.83 to 0.15 of the distance to the image's mean that is left."""
    del random
    mean = images.mean(axis=(1, 2), keepdims=True)
    return mean + (images - mean) * np.float32(1 - 0.17 * strength)


def _occlusion(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By a blank square of 4 to 12 pixels of 28 a side, a seventh of the image or more from its rim."""
    side = round((2 + 2 * strength) * _scale(images))

    def covered(length: int) -> NDArray[np.bool_]:
        start = random.integers(length // 7, length - length // 7 - side, (len(images), 1), endpoint=True)
        return (start <= np.arange(length)) & (np.arange(length) < start + side)

    rows, columns = map(covered, images.shape[1:])
    return np.where(rows[:, :, None] & columns[:, None, :], np.float32(0), images)


def _uneven_light(images: Images, strength: int, random: np.random.Generator) -> Images:
    """By 40 to 200 grey levels more at one edge than at the other."""
    _, height, width = images.shape
    angle = random.uniform(0, 2 * math.pi, (len(images), 1, 1))
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    plane = (np.sin(angle) * y + np.cos(angle) * x + math.sqrt(2)) / math.sqrt(8)
    return images + (40 * strength * plane).astype(np.float32)


CORRUPTIONS: Mapping[str, Corruption] = {
    "shift": _shift,
    "rotation": _rotation,
    "zoom": _zoom,
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
    "uneven_light": _uneven_light,
}


def corrupt(images: NDArray[np.uint8], name: str, strength: int) -> NDArray[np.uint8]:
    """Return images, uint8 (n, height, width), made worse by one of `CORRUPTIONS`; the same ones in every call."""
    random = np.random.default_rng([*CORRUPTIONS].index(name))  # the same directions and places for each strength
    worse = CORRUPTIONS[name](images.astype(np.float32), strength, random)
    return np.rint(np.clip(worse, 0, 255)).astype(np.uint8)


def robustness_table(
    predict: Callable[[NDArray[np.uint8]], NDArray[np.float32]], validation: Subset, images: int = IMAGES
) -> "DataFrame":
    """Measure a model on corrupted validation images.

    Args:
        predict: returns the model's probabilities, float32 (n, classes), for raw pixels, uint8 (n, height, width).
        validation: of which up to `images` are taken, evenly.
        images: how many.

    Returns:
        A row per strength, from 0 for the images as they are: `strength`, the accuracy under each corruption by its
        name, and `mean`, that of the eight; all in [0, 1].
    """
    import pandas as pd

    chosen = np.linspace(0, len(validation) - 1, min(images, len(validation))).astype(int)
    pixels, labels = validation.images[chosen], validation.labels[chosen]

    def accuracy(shown: NDArray[np.uint8]) -> float:
        return float((predict(shown).argmax(axis=1) == labels).mean())

    rows = [[accuracy(corrupt(pixels, name, strength)) for name in CORRUPTIONS] for strength in STRENGTHS]
    table = pd.DataFrame([[accuracy(pixels)] * len(CORRUPTIONS), *rows], columns=pd.Index([*CORRUPTIONS]))
    table.insert(0, "strength", range(len(table)))
    return table.assign(mean=table[[*CORRUPTIONS]].mean(axis=1)).round(4)


def read_robustness(path: Path) -> "DataFrame":
    """Read the table that `evaluate` wrote; a UserError says that it is missing, or holds something else."""
    import pandas as pd

    with reading(require(path, "mnist evaluate"), "delete it and run `dvc repro`"):
        table = pd.read_csv(path)
        return table[["strength", *CORRUPTIONS, "mean"]]


def accuracies(table: "DataFrame") -> dict[str, float]:
    """Return the mean accuracy under each corruption, over its strengths, in [0, 1]."""
    means = table.query("strength > 0")[[*CORRUPTIONS]].mean().round(4)
    return {name: float(means[name]) for name in CORRUPTIONS}


def less_robust(candidate: Mapping[str, float], champion: Mapping[str, float]) -> str:
    """Say where `accuracies` of a model are below those of another by more than `MARGIN`; empty if nowhere."""
    worse = [name for name in candidate.keys() & champion.keys() if candidate[name] < champion[name] - MARGIN]
    told = (f"{name.replace('_', ' ')} ({candidate[name]:.1%} against {champion[name]:.1%})" for name in sorted(worse))
    return f"; less robust to {', '.join(told)}" if worse else ""


def _scale(images: Images) -> float:
    """Return how many pixels are one of an image that the strengths are graded for."""
    return min(images.shape[1:]) / GRADED_FOR


def _moved(images: Images, matrix: NDArray[np.float64], shift: NDArray[np.float64]) -> Images:
    """Return images whose pixel at p = (x, y) shows what lay at `matrix` (p - centre - shift) + centre; paper is 0.

    Args:
        images: what is moved.
        matrix: of each image, (n, 2, 2), or of all, (2, 2).
        shift: right and down, in pixels, of each image, (n, 2), or of all, (2,).
    """
    import keras

    count, height, width = images.shape
    centre = (np.array([width, height]) - 1) / 2
    offset = centre[:, None] - matrix @ (centre + shift)[..., None]
    affine = np.empty((count, 2, 3))
    affine[..., :2], affine[..., 2:] = matrix, offset
    projective = np.pad(affine.reshape(count, 6), ((0, 0), (0, 2)))
    with keras.device("cpu"):  # so that every machine makes the same images
        moved: Any = keras.ops.image.affine_transform(images[..., None], projective, data_format="channels_last")
    return np.asarray(moved)[..., 0]
