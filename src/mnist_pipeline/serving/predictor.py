"""Asking a saved model about images, and showing its answer."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.data.idx import CLASSES
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import require
from mnist_pipeline.params import IMAGE_SIDE
from mnist_pipeline.serving.images import DigitImage

if TYPE_CHECKING:
    import keras
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.measure import Measurement
    from rich.text import Text

INK = 100
"""Grey level above which a pixel is drawn."""


@dataclass(frozen=True)
class Predictor:
    """A trained model: raw pixels in, class probabilities out."""

    model: "keras.Model"
    """Takes raw pixels 0-255 (n, 28, 28), returns probabilities (n, 10)."""

    def predict(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each digit, float32 (n, 10), of raw images, uint8 (n, 28, 28)."""
        return np.asarray(self.model.predict(images, batch_size=1024, verbose=0), np.float32)


def load_predictor(path: Path) -> Predictor:
    """Load the model in a `.keras` file.

    Raises:
        UserError: it is missing, is not a Keras model, or does not turn 28x28 images into ten numbers.
    """
    import keras

    require(path, "mnist train")
    try:
        model = keras.saving.load_model(path, compile=False)
    except (ValueError, TypeError, OSError, KeyError) as error:
        raise UserError(f"{path} is not a Keras model (.keras): train one with `mnist train`.") from error
    shapes = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if shapes != ((None, IMAGE_SIDE, IMAGE_SIDE), (None, CLASSES)):
        raise UserError(f"{path} takes {shapes[0]} and returns {shapes[1]}: it is not a model of this project.")
    return Predictor(cast("keras.Model", model))


def render(image: DigitImage, probabilities: NDArray[np.float32]) -> "RenderableType":
    """Show one prediction, `probabilities` of shape (10,): the digit in text beside a bar for each class.

    Rich leaves out colours where the output is not a terminal, and draws plain bars where it is ASCII.
    """
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    best = int(probabilities.argmax())
    scores = Table.grid(padding=(0, 1))
    for digit, probability in enumerate(probabilities.tolist()):
        style = "bold green" if digit == best else ""
        bar = ProgressBar(1, probability, 30, complete_style=style or "blue", finished_style=style)
        scores.add_row(Text(str(digit), style), bar, Text(f"{probability:7.2%}", style))
    both = Table.grid(padding=(0, 3))
    both.add_column(vertical="middle")
    both.add_column(vertical="middle")
    both.add_row(_Drawing(image.pixels), scores)
    return Group(Text(f"{image.name}: {best} ({probabilities[best]:.2%})", "bold"), both)


@dataclass(frozen=True)
class _Drawing:
    """A picture in text: two pixels, one above the other, to a character."""

    pixels: NDArray[np.uint8]

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "Iterator[Text]":
        from rich.text import Text

        # Indexed by upper + 2 * lower.
        characters = np.array([*(" '.:" if options.ascii_only else " ▀▄█")])
        ink = (self.pixels > INK).astype(int)
        for line in characters[ink[::2] + 2 * ink[1::2]]:
            yield Text("".join(line))

    def __rich_measure__(self, console: "Console", options: "ConsoleOptions") -> "Measurement":
        from rich.measure import Measurement

        return Measurement(IMAGE_SIDE, IMAGE_SIDE)


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
