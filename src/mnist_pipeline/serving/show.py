"""Showing what a model says about an image, to people and to machines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_pipeline.data.params import Data
from mnist_pipeline.serving.images import InputImage

MOST_BARS = 10
"""Classes that are shown: of more, the most probable."""
MOST_COLUMNS = 56
"""Characters that a picture may be wide."""


def render(data: Data, image: InputImage, probabilities: NDArray[np.float32], *, ascii_only: bool) -> Group:
    """Show one prediction, `probabilities` of shape (classes,): the picture in text beside a bar for each class.

    Rich leaves out colours where the output is not a terminal, and draws plain bars where it is ASCII.
    """
    best = int(probabilities.argmax())
    scores = Table.grid(padding=(0, 1))
    labels = range(len(probabilities)) if len(probabilities) <= MOST_BARS else np.argsort(-probabilities)[:MOST_BARS]
    for label in labels:
        probability, style = float(probabilities[label]), "bold green" if label == best else ""
        bar = ProgressBar(1, probability, 30, complete_style=style or "blue", finished_style=style)
        scores.add_row(Text(data.classes[label], style), bar, Text(f"{probability:7.2%}", style))
    both = Table.grid(padding=(0, 3))
    both.add_column(vertical="middle", no_wrap=True)
    both.add_column(vertical="middle")
    both.add_row(Text(_draw(image.pixels, ascii_only=ascii_only)), scores)
    return Group(Text(f"{image.name}: {data.classes[best]} ({probabilities[best]:.2%})", "bold"), both)


def _draw(pixels: NDArray[np.uint8], *, ascii_only: bool) -> str:
    """Draw the pixels that are not too faint: two of them, one above the other, to a character.

    Of a large image, every second or third row and column is drawn, and so on.
    """
    step = -(-pixels.shape[1] // MOST_COLUMNS)
    pixels = pixels[::step, ::step]
    pixels = np.pad(pixels, ((0, len(pixels) % 2), (0, 0)))
    characters = np.array([*(" '.:" if ascii_only else " ▀▄█")])  # indexed by upper + 2 * lower
    ink = (pixels > 100).astype(int)
    return "\n".join("".join(line) for line in characters[ink[::2] + 2 * ink[1::2]])


def as_json(data: Data, image: InputImage, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """Return one prediction, `probabilities` of shape (classes,), for machines.

    Keys: file; index, null for a picture; label and its class_name; probabilities, by label; inverted, if it was dark
    on light.
    """
    label = int(probabilities.argmax())
    return {
        "file": str(image.file),
        "index": image.index,
        "label": label,
        "class_name": data.classes[label],
        "probabilities": probabilities.tolist(),
        "inverted": image.inverted,
    }
