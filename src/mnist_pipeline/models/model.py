"""The model: raw pixels in, probabilities out, with its normalization inside."""

import json
import re
import zipfile
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path, require
from mnist_pipeline.data.normalize import PixelStatistics
from mnist_pipeline.data.params import Data
from mnist_pipeline.models.params import Architecture, Scheme

if TYPE_CHECKING:
    import keras

LOGITS = "logits"
"""Name of the layer that a training works on: the model's last but one."""


def build_model(architecture: Architecture, scheme: Scheme, statistics: PixelStatistics, data: Data) -> "keras.Model":
    """Build the untrained model.

    Takes raw pixels, uint8 (n, height, width), 0 is background; returns probabilities, float32 (n, classes), also under
    mixed precision, because a softmax in 16 bits loses accuracy. It is made of Keras' own layers only, so that whoever
    loads the file needs Keras and nothing of this project, and each layer has a name of its own, so that equal models
    are equal files. Initial weights and dropout follow Keras' global seed (`keras.utils.set_random_seed`), and nothing
    else.

    Args:
        architecture: parameters of the layers between normalization and logits, which are built by the module of this
            package that bears the name of its `kind`.
        scheme: what the first layer does to the pixels.
        statistics: of the train split.
        data: the images' size, their classes, and the name that the model gets.

    Raises:
        UserError: the architecture leaves nothing of images of this size.
    """
    import keras
    from keras import layers

    try:
        architecture.check_size(data.image_size)
    except ValueError as error:
        raise UserError(f"params.yaml: the architecture {error}.") from error
    pixels: Any = keras.Input(data.image_size, dtype="uint8", name="pixels")
    x = _normalize(pixels, scheme, statistics)
    x = import_module(f"mnist_pipeline.models.{architecture.kind}").connect(x, architecture)
    logits = layers.Dense(len(data.classes), dtype="float32", name=LOGITS)(x)
    return keras.Model(pixels, layers.Softmax(dtype="float32", name="probabilities")(logits), name=data.name)


def _normalize(pixels: Any, scheme: Scheme, statistics: PixelStatistics) -> Any:
    """Append the normalization, in float32 whatever the precision of the other layers."""
    from keras import layers

    name = "normalization"
    match scheme:
        case "unit":
            return layers.Rescaling(1 / 255, dtype="float32", name=name)(pixels)
        case "symmetric":
            return layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name=name)(pixels)
        case "standard":
            whole: Any = None  # one mean and variance for all pixels, which Keras' annotations do not know of
            mean, variance = statistics.mean, statistics.standard_deviation**2
            return layers.Normalization(whole, mean=mean, variance=variance, dtype="float32", name=name)(pixels)
        case "l2":
            x = layers.Rescaling(1 / 255, dtype="float32", name="rescaling")(pixels)
            return layers.UnitNormalization(axis=1, dtype="float32", name=name)(x)


def save_model(model: "keras.Model", path: Path) -> None:
    """Save a model as a `.keras` file, atomically; equal models give equal bytes.

    Keras writes the time into the file, as the date of each member of the archive and as `date_saved`, and addresses in
    memory, as `shared_object_id`: here there is one date for all, and objects are counted.
    """
    with atomic_path(path) as temporary:
        original = temporary.with_name(f"original-{temporary.name}")
        model.save(original)
        with zipfile.ZipFile(original) as source, zipfile.ZipFile(temporary, "w") as target:
            for name in source.namelist():
                target.writestr(zipfile.ZipInfo(name), _repeatable(name, source.read(name)))


def _repeatable(name: str, content: bytes) -> bytes:
    """Return the content of a member of the archive without what differs from one saving to the next."""
    if name == "metadata.json":
        return json.dumps({"keras_version": json.loads(content)["keras_version"]}).encode()
    if name != "config.json":
        return content
    numbers: dict[str, int] = {}
    return re.sub(
        r'(?<="shared_object_id": )\d+',
        lambda found: str(numbers.setdefault(found[0], len(numbers))),
        content.decode(),
    ).encode()


def load_model(path: Path, made_by: str = "mnist train", data: Data | None = None) -> "keras.Model":
    """Load a model from its `.keras` file.

    Args:
        path: the file.
        made_by: the command that writes it, for messages.
        data: what it is to be used on; None if it may be for other data than those of `params.yaml`.

    Raises:
        UserError: it is missing, is not a Keras model, or does not turn images, of the size that `data` has, into as
            many numbers as there are classes.
    """
    require(path, made_by)
    with quiet_native_logs():
        import keras

        try:
            model = keras.saving.load_model(path, compile=False)
        except (ValueError, TypeError, OSError, KeyError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} cannot be loaded as a Keras model: it is damaged, or of another version of Keras; run "
                f"`{made_by}` again."
            ) from error
    takes, returns = (tuple[int, ...](getattr(model, name, None) or ()) for name in ("input_shape", "output_shape"))
    if (len(takes), len(returns)) != (3, 2):
        raise UserError(f"{path} takes {takes} and returns {returns}: it is not a model of this project.")
    if data:
        data.check_fit(str(path), takes[1:], returns[1])
    return cast("keras.Model", model)
