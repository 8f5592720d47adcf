"""Contact sheets: what augmentation makes of the digits, for people to look at.

They are drawn in this room because they only illustrate a run: a change here must not train anything again, as a change
in the models or the training room does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import Subset, load_train
from mnist_pipeline.data.normalize import load_normalization
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path
from mnist_pipeline.models.augmentation import augment
from mnist_pipeline.params import IMAGE_SIDE, Augmentation, ModelParams, Params
from mnist_pipeline.project import Project
from mnist_pipeline.training.devices import choose_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 8
"""Distorted copies of each digit: enough to see how far the strengths reach, and each still large."""
GAP = 3
"""Pixels of an MNIST image between two of them."""
UNITS = {"rotation": "°", "shift": " px", "zoom": "", "shear": "°", "elastic": " px"}


def write_contact_sheet(project: Project, params: Params, name: str, path: Path, seed: int) -> None:
    """Write the contact sheet of `params.models[name]` to `path`, in the format of its suffix.

    Raises:
        UserError: matplotlib cannot write such a file, the model's augmentation is off, or the data are missing.
    """
    _check_format(path)
    model = params.model(name)
    if model.augmentation.is_off:
        raise UserError(
            f"params.yaml: models.{name}.augmentation is off (every strength is 0), so there is nothing to draw: raise "
            f"one of {', '.join(UNITS)}."
        )
    choose_device("cpu")  # which draws the same, and is at hand while a training has the GPU
    black = load_normalization(project.normalization).black
    sheet = contact_sheet(name, model, load_train(project.split), seed=seed, black=black)
    try:
        with atomic_path(path) as temporary:
            sheet.savefig(temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --preview.") from error
    say(f"{path}: {DRAWS} draws for each digit, by models.{name}.augmentation in params.yaml")


def contact_sheet(name: str, model: ModelParams, examples: Subset, *, seed: int, black: float) -> "Figure":
    """Draw the first example of each digit, and beside it `DRAWS` distortions of it.

    Args:
        name: the model's, for the title.
        model: whose augmentation to show.
        examples: normalized images, and the labels to find one of each digit by.
        seed: of the draws.
        black: the normalized value of pixel 0.
    """
    from matplotlib.figure import Figure

    digits, first = np.unique(examples.labels, return_index=True)
    originals = examples.images[first]
    rows = np.concatenate([originals[:, None], _draw(originals, model.augmentation, seed, black)], axis=1)
    sheet = _mosaic(rows, black)
    # The sizes are inches: a fifth of one for the digits on the left, and above the pictures room for two lines.
    figure = Figure(figsize=(7, 7 * sheet.shape[0] / sheet.shape[1] + 0.4), dpi=120, facecolor="black")
    axes = figure.add_axes((0.04, 0.01, 0.95, 0.9))
    axes.set_axis_off()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    pitch, middle = IMAGE_SIDE + GAP, (IMAGE_SIDE - 1) / 2
    for row, digit in enumerate(digits):
        axes.text(-6, row * pitch + middle, str(digit), color="silver", ha="center", va="center")
    axes.text(middle, -6, "original", color="silver", ha="center", va="center", fontsize=9)
    axes.text(pitch * (1 + DRAWS / 2), -6, "as trained on", color="silver", ha="center", va="center", fontsize=9)
    figure.suptitle(f"{name}: {_describe(model.augmentation)}", color="white", fontsize=11, y=0.98)
    return figure


def _draw(originals: NDArray[np.float32], augmentation: Augmentation, seed: int, black: float) -> NDArray[np.float32]:
    """Return `DRAWS` distortions of each of (n, 28, 28) images: (n, DRAWS, 28, 28)."""
    import tensorflow as tf

    copies = tf.constant(np.repeat(originals, DRAWS, axis=0))
    drawn: Any = augment(copies, augmentation, tf.constant([seed, 0], tf.int64), black=black)
    return drawn.numpy().reshape(len(originals), DRAWS, IMAGE_SIDE, IMAGE_SIDE)


def _mosaic(rows: NDArray[np.float32], black: float) -> NDArray[np.float32]:
    """Lay (rows, columns, 28, 28) images side by side on black, each row scaled to [0, 1] by its first image."""
    brightest = rows[:, :1].max(axis=(2, 3), keepdims=True)
    scaled = (rows - black) / np.maximum(brightest - black, np.finfo(np.float32).tiny)
    spaced = np.pad(scaled, ((0, 0), (0, 0), (0, GAP), (0, GAP)))
    count, columns, height, width = spaced.shape
    return spaced.transpose(0, 2, 1, 3).reshape(count * height, columns * width)[:-GAP, :-GAP]


def _describe(augmentation: Augmentation) -> str:
    """Return the strengths that are not 0, with their units."""
    strengths = {name: getattr(augmentation, name) for name in UNITS}
    return ", ".join(f"{name} {value:g}{UNITS[name]}" for name, value in strengths.items() if value)


def _check_format(path: Path) -> None:
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise UserError(
            f"--preview {path}: matplotlib cannot write `{path.suffix or 'a file without a suffix'}`; give it one of "
            f"{', '.join(f'.{suffix}' for suffix in sorted(known))}."
        )
