"""`mnist predict`: pictures in, digits out."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from mnist_pipeline.console import console, quiet_native_logs, warn
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import read_json
from mnist_pipeline.project import Project
from mnist_pipeline.serving.images import read_digit
from mnist_pipeline.serving.predictor import as_json, load_predictor, render


def run(project: Project, files: Sequence[Path], *, index: int | None, model: str | None, as_lines: bool) -> None:
    """Print what a model reads in each picture.

    Args:
        project: whose models.
        files: pictures, or one IDX file if `index` is given.
        index: which image of the IDX file, from 0.
        model: a model's name; the best on validation if None.
        as_lines: print one JSON object per picture, a line each, instead of drawings.

    Raises:
        UserError: a file cannot be read, or there is no such model.
    """
    if index is not None and len(files) > 1:
        raise UserError("--index is for one IDX file: give one file, or leave --index out.")
    digits = [read_digit(file, index) for file in files]
    with quiet_native_logs():
        predictor = load_predictor(project.model_file(model or best_model(project)))
        probabilities = predictor.predict(np.stack([digit.pixels for digit in digits]))
    for digit, scores in zip(digits, probabilities, strict=True):
        if as_lines:
            console().print_json(json.dumps(as_json(digit, scores)), indent=None)
            continue
        if digit.inverted:
            warn(f"{digit.name} is dark on light and was inverted: MNIST's digits are light on dark.")
        console().print(render(digit, scores))


def best_model(project: Project) -> str:
    """Return the name of the best model of this workspace, as `register` found it.

    Raises:
        UserError: none is chosen yet.
    """
    return str(read_json(project.champion, "mnist register")["model"])
