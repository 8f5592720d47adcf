"""A trained model in the files of other runtimes, and whether it decides there as it does in Keras."""

import shutil
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import console, quiet_native_logs
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.serving.formats import Format
from mnist_pipeline.serving.lite import LiteModel

if TYPE_CHECKING:
    import keras

Ask = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Raw pixels, uint8 (n, height, width), to probabilities, float32 (n, classes)."""
COMPARED = 10_000
"""Images that an export is compared with Keras on: all of validation, and the rest from train."""
CALIBRATED = 500
"""Train images that the ranges of `int8` are taken from."""


def export(model: "keras.Model", form: Format, path: Path, train: Sequence[NDArray[np.uint8]] = ()) -> None:
    """Write a model by Keras' own `export`, in place of what `path` was before.

    Args:
        model: raw pixels in, probabilities out.
        form: the format; in `int8`, pixels and probabilities keep their types, and all between is 8-bit integers.
        path: the file, or for `saved_model` the folder.
        train: images that show `int8` which values occur.
    """
    more: dict[str, Any] = {}
    if form is Format.INT8:
        import tensorflow as tf

        more = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([image[np.newaxis]] for image in train),
        }
    kind = {Format.ONNX: "onnx", Format.SAVED_MODEL: "tf_saved_model"}.get(form, "litert")
    with quiet_native_logs(), warnings.catch_warnings(), atomic_path(path) as temporary:
        warnings.simplefilter("ignore")  # Keras' converters have some about NumPy 2 and about themselves
        model.export(str(temporary), format=kind, verbose=False, **more)
        shutil.rmtree(path, ignore_errors=True)  # a folder does not take the place of another


def open_exported(form: Format, path: Path) -> Ask:
    """Load what `export` wrote, in the runtime that it is for."""
    match form:
        case Format.ONNX:
            import onnxruntime

            session: Any = onnxruntime.InferenceSession(str(path))
            pixels = session.get_inputs()[0].name
            return lambda images: np.asarray(session.run(None, {pixels: images})[0], np.float32)
        case Format.SAVED_MODEL:
            import tensorflow as tf

            loaded: Any = tf.saved_model.load(str(path))
            return lambda images: np.asarray(loaded.serve(images), np.float32)
        case Format.LITERT | Format.INT8:
            return LiteModel(path)


def export_and_compare(project: Project, title: str, model: "keras.Model", files: Mapping[Format, Path]) -> None:
    """Export a model to all `files`, and print how they compare with Keras; a UserError says that images lack."""
    from rich.table import Table

    from mnist_pipeline.evaluation.metrics import predict_probabilities

    train, validation = load_train(project.split).images, load_validation(project.split).images
    images = np.concatenate([validation, _spread(train, COMPARED - len(validation))])
    expected = predict_probabilities(model, images)
    table = Table(title=title, title_justify="left")
    for heading in ("format", "size, kB", "ms per image", "largest difference", "changed decisions"):
        table.add_column(heading, justify="left" if heading == "format" else "right")
    in_keras: Any = model.predict_on_batch
    table.add_row("keras", "-", compare(in_keras, images[:1000], expected[:1000])[0], "-", "-")
    for form, path in files.items():
        export(model, form, path, list(_spread(train, CALIBRATED)))
        table.add_row(form, f"{_size(path) / 1000:,.0f}", *compare(open_exported(form, path), images, expected))
    console().print(table)


def compare(ask: Ask, images: NDArray[np.uint8], expected: NDArray[np.float32]) -> tuple[str, str, str]:
    """Ask for one image, of uint8 (n, height, width), at a time; compare the answers with `expected`, those of Keras.

    Returns:
        The median of the milliseconds, the largest absolute difference of a probability, and the number of images whose
        most probable class is another one.
    """
    seconds: list[float] = []
    answers = np.empty_like(expected)
    for index in range(len(images)):
        begin = time.perf_counter()
        answers[index] = ask(images[index : index + 1])[0]
        seconds.append(time.perf_counter() - begin)
    changed = (answers.argmax(axis=1) != expected.argmax(axis=1)).sum()
    return f"{np.median(seconds) * 1000:.3f}", f"{np.abs(answers - expected).max():.1e}", str(changed)


def _spread(images: NDArray[np.uint8], count: int) -> NDArray[np.uint8]:
    """Return at most `count` images, evenly spaced."""
    return images[np.linspace(0, len(images) - 1, min(max(0, count), len(images))).astype(int)]


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in (path, *path.rglob("*")) if file.is_file())
