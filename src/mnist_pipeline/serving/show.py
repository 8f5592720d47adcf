"""Showing what a model says about an image, to people and to machines."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_pipeline.serving.images import DigitImage


def render(image: DigitImage, probabilities: NDArray[np.float32], *, ascii_only: bool) -> Group:
    """Show one prediction, `probabilities` of shape (10,): the digit in text beside a bar for each class.

    Rich leaves out colours where the output is not a terminal, and draws plain bars where it is ASCII.
    """
    best = int(probabilities.argmax())
    scores = Table.grid(padding=(0, 1))
    for digit, probability in enumerate(probabilities.tolist()):
        style = "bold green" if digit == best else ""
        bar = ProgressBar(1, probability, 30, complete_style=style or "blue", finished_style=style)
        scores.add_row(Text(str(digit), style), bar, Text(f"{probability:7.2%}", style))
    both = Table.grid(padding=(0, 3))
    both.add_column(vertical="middle", no_wrap=True)
    both.add_column(vertical="middle")
    both.add_row(Text(_draw(image.pixels, ascii_only=ascii_only)), scores)
    return Group(Text(f"{image.name}: {best} ({probabilities[best]:.2%})", "bold"), both)


def _draw(pixels: NDArray[np.uint8], *, ascii_only: bool) -> str:
    """Draw the pixels that are not too faint: two of them, one above the other, to a character."""
    characters = np.array([*(" '.:" if ascii_only else " ▀▄█")])  # indexed by upper + 2 * lower
    ink = (pixels > 100).astype(int)
    return "\n".join("".join(line) for line in characters[ink[::2] + 2 * ink[1::2]])


def as_json(image: DigitImage, probabilities: NDArray[np.float32]) -> dict[str, Any]:
    """Return one prediction, `probabilities` of shape (10,), for machines.

    Keys: file; index, null for a picture; digit; probabilities, of 0 to 9; inverted, if it was dark on light.
    """
    return {
        "file": str(image.file),
        "index": image.index,
        "digit": int(probabilities.argmax()),
        "probabilities": probabilities.tolist(),
        "inverted": image.inverted,
    }
