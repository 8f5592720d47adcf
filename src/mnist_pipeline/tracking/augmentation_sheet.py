"""Contact sheets: what augmentation makes of the images, for people to look at.

They are drawn in this package because they only illustrate a run: a change here must not train anything again, as a
change in `models` or `training` does.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, load_train
from mnist_pipeline.data.params import Data, load_data
from mnist_pipeline.models.augmentation import augment
from mnist_pipeline.models.params import Augmentation
from mnist_pipeline.training.devices import choose_device
from mnist_pipeline.training.params import ModelParams, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DRAWS = 8
"""Distorted copies of each image: enough to see how far the strengths reach, and each still large."""
GAP = 3
"""Pixels of an image between two of them."""
ROWS = 20
"""Classes that are drawn, at most: the first ones."""
UNITS = {"rotation": "°", "shift": " px", "zoom": "", "shear": "°", "elastic": " px"}


def write_contact_sheet(project: Project, params: Params, name: str, path: Path, seed: int) -> None:
    """Write the contact sheet of `params.models[name]` to `path`, in the format of its suffix.

    Raises:
        UserError: matplotlib cannot write such a file, the model's augmentation is off, or the data are missing.
    """
    from matplotlib.figure import Figure

    known = Figure().canvas.get_supported_filetypes()
    if path.suffix.removeprefix(".").lower() not in known:
        raise UserError(
            f"--preview {path}: matplotlib cannot write `{path.suffix or 'a file without a suffix'}`; give it one of "
            f"{', '.join(f'.{suffix}' for suffix in sorted(known))}."
        )
    model = params.model(name)
    if model.augmentation.is_off:
        raise UserError(
            f"params.yaml: models.{name}.augmentation is off (every strength is 0), so there is nothing to draw: raise "
            f"one of {', '.join(UNITS)}."
        )
    choose_device("cpu")  # which draws the same, and is at hand while a training has the GPU
    data = load_data(project)
    sheet = contact_sheet(name, model, data, load_train(project.split), seed=seed)
    try:
        with atomic_path(path) as temporary:
            sheet.savefig(temporary)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}): choose another --preview.") from error
    say(f"{path}: {DRAWS} draws for {data.one_item} of each class, by models.{name}.augmentation in params.yaml")


def contact_sheet(name: str, model: ModelParams, data: Data, examples: Subset, *, seed: int) -> "Figure":
    """Draw the first example of each class, and beside it `DRAWS` distortions of it, which the seed decides."""
    from matplotlib.figure import Figure

    labels, first = (found[:ROWS] for found in np.unique(examples.labels, return_index=True))
    originals = examples.images[first]
    height, width = originals.shape[1:]
    rows = np.concatenate([originals[:, None], _draw(originals, model.augmentation, seed)], axis=1)
    spaced = np.pad(rows, ((0, 0), (0, 0), (0, GAP), (0, GAP)))
    sheet = np.block([list(row) for row in spaced])[:-GAP, :-GAP]
    # The sizes are inches: room for the names on the left, and above the pictures for two lines.
    left = 0.03 + 0.01 * max(len(data.classes[label]) for label in labels)
    tall = 7 * (1.04 - left) * sheet.shape[0] / sheet.shape[1]
    figure = Figure(figsize=(7, tall + 0.4), dpi=120, facecolor="black")
    axes = figure.add_axes((left, 0.01, 0.99 - left, 0.9))
    axes.set_axis_off()
    axes.imshow(sheet, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    middle = (width - 1) / 2
    for row, label in enumerate(labels):
        axes.text(-4, row * (height + GAP) + height / 2, data.classes[label], color="silver", ha="right", va="center")
    axes.text(middle, -6, "original", color="silver", ha="center", va="center", fontsize=9)
    axes.text(
        (width + GAP) * (1 + DRAWS / 2), -6, "as trained on", color="silver", ha="center", va="center", fontsize=9
    )
    strengths = [f"{key} {value:g}{UNITS[key]}" for key, value in model.augmentation if key in UNITS and value]
    strengths += ["flip"] if model.augmentation.flip else []
    figure.suptitle(f"{name}: {', '.join(strengths)}", color="white", fontsize=11, y=0.98)
    return figure


def _draw(originals: NDArray[np.uint8], augmentation: Augmentation, seed: int) -> NDArray[np.uint8]:
    """Return `DRAWS` distortions of each of (n, height, width) images: (n, DRAWS, height, width)."""
    import tensorflow as tf

    copies = tf.constant(np.repeat(originals, DRAWS, axis=0))
    drawn: Any = augment(copies, augmentation, tf.constant([seed, 0], tf.int64))
    return drawn.numpy().reshape(len(originals), DRAWS, *originals.shape[1:])
