"""`mnist predict`: pictures in, names of classes out."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import console, quiet_native_logs, warn
from mnist_pipeline.core.errors import UserError, did_you_mean
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import Data
from mnist_pipeline.serving.images import InputImage, read_image
from mnist_pipeline.serving.show import as_json, render

if TYPE_CHECKING:
    import keras


UNSURE = 0.7
"""Best class score below which an answer is called unsure."""


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
        console().print(render(data, image, scores, ascii_only=console().options.ascii_only))


def doubts(data: Data, image: InputImage, scores: NDArray[np.floating[Any]]) -> list[str]:
    """Return what to bear in mind about a picture and its class scores, shape (classes,): a sentence each."""
    usual, several = f"{data.title}'s {data.items} are light on dark", f"{image.items} {data.items}"
    found = {
        f"{image.name} is dark on light and was inverted: {usual}.": image.inverted,
        f"{image.name} seems to hold {several}, and the model reads one: cut them apart.": image.items > 1,
        f"{image.name}: the model is unsure. Is it one {data.item}?": scores.max() < UNSURE,
    }
    return [sentence for sentence, holds in found.items() if holds]


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
