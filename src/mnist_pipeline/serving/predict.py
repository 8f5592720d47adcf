"""`mnist predict`: pictures in, names of classes out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Group
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from mnist_pipeline.core.console import console, quiet_native_logs, warn
from mnist_pipeline.core.errors import UserError, did_you_mean
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import Data
from mnist_pipeline.serving.images import InputImage, read_image

if TYPE_CHECKING:
    import keras

UNSURE = 0.7
"""Best class score below which an answer is called unsure."""
MOST_BARS = 10
"""Classes that are shown: of more, the most probable."""
MOST_COLUMNS = 56
"""Characters that a picture may be wide."""


def run(
    data: Data, files: Sequence[Path], load: "Callable[[], keras.Model]", *, index: int | None, as_lines: bool
) -> None:
    """Print what a model takes each picture for.

    Args:
        data: what the model knows.
        files: pictures, or one IDX file if `index` is given.
        load: returns the model; called once all files have been read.
        index: which image of the IDX file, from 0.
        as_lines: print one JSON object per picture, a line each, instead of drawings.

    Raises:
        UserError: a file or the model cannot be read.
    """
    if index is not None and len(files) > 1:
        raise UserError("--index is for one IDX file: give one file, or leave --index out.")
    images = [read_image(data, file, index) for file in files]
    with quiet_native_logs():
        from mnist_pipeline.evaluation.metrics import predict_probabilities

        probabilities = predict_probabilities(load(), np.stack([image.pixels for image in images]))
    for image, scores in zip(images, probabilities, strict=True):
        if as_lines:
            console().print_json(json.dumps(as_json(data, image, scores)), indent=None)
            continue
        for doubt in doubts(data, image, scores):
            warn(doubt)
        console().print(render(data, image, scores))


def doubts(data: Data, image: InputImage, scores: NDArray[np.floating[Any]]) -> list[str]:
    """Return what to bear in mind about a picture and its class scores, shape (classes,): a sentence each."""
    usual, several = f"{data.title}'s {data.items} are light on dark", f"{image.items} {data.items}"
    found = {
        f"{image.name} is dark on light and was inverted: {usual}.": image.inverted,
        f"{image.name} seems to hold {several}, and the model reads one: cut them apart.": image.items > 1,
        f"{image.name}: the model is unsure. Is it one {data.item}?": scores.max() < UNSURE,
    }
    return [sentence for sentence, holds in found.items() if holds]


def as_json(data: Data, image: InputImage, scores: NDArray[np.float32]) -> dict[str, Any]:
    """Return one prediction, class scores of shape (classes,), for machines."""
    label = int(scores.argmax())
    return {
        "file": str(image.file),
        "index": image.index,
        "label": label,
        "class_name": data.classes[label],
        "probabilities": scores.tolist(),
        "inverted": image.inverted,
    }


def render(data: Data, image: InputImage, scores: NDArray[np.float32]) -> Group:
    """Show one prediction, class scores of shape (classes,): the picture in text beside a bar for each class.

    Rich leaves out colours where the output is not a terminal.
    """
    best, bars, both = int(scores.argmax()), Table.grid(padding=(0, 1)), Table.grid(padding=(0, 3))
    for label in range(len(scores)) if len(scores) <= MOST_BARS else np.argsort(-scores)[:MOST_BARS]:
        score, style = float(scores[label]), "bold green" if label == best else ""
        bar = ProgressBar(1, score, 30, complete_style=style or "blue", finished_style=style)
        bars.add_row(Text(data.classes[label], style), bar, Text(f"{score:7.2%}", style))
    both.add_column(vertical="middle", no_wrap=True)
    both.add_column(vertical="middle")
    both.add_row(Text(_draw(image.pixels)), bars)
    return Group(Text(f"{image.name}: {data.classes[best]} ({scores[best]:.2%})", "bold"), both)


def _draw(pixels: NDArray[np.uint8]) -> str:
    """Draw the pixels that are not faint: two, one above the other, to a character; of a large image, every n-th."""
    step = -(-pixels.shape[1] // MOST_COLUMNS)
    ink = (pixels[::step, ::step] > 100).astype(int)
    ink = np.pad(ink, ((0, len(ink) % 2), (0, 0)))
    return "\n".join("".join(line) for line in np.array([*" ▀▄█"])[ink[::2] + 2 * ink[1::2]])


def find_trained(project: Project, name: str) -> Path:
    """Return the file of a trained model by the name of its folder, such as `cnn` or `cnn_seed7`.

    Raises:
        UserError: there is none; the nearest name is suggested.
    """
    if (file := project.model_file(name)).is_file():
        return file
    trained = sorted(path.parent.name for path in project.models.glob("*/model.keras"))
    raise UserError(
        f"--model {name}: {project.models} holds no such model; {did_you_mean(name, trained)}trained are: "
        f"{', '.join(trained) or 'none yet'}. `mnist train NAME` trains one."
    )
