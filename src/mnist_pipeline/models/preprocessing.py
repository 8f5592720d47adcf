"""The finished model: raw pixels in, probabilities out, with the normalization it was trained with inside."""

from pathlib import Path
from typing import TYPE_CHECKING, cast

from mnist_pipeline.console import quiet_native_logs
from mnist_pipeline.data.normalize import Normalization
from mnist_pipeline.params import IMAGE_SIDE

if TYPE_CHECKING:
    import keras


def with_preprocessing(network: "keras.Model", normalization: Normalization) -> "keras.Model":
    """Wrap a trained network into the model that is saved, registered and served.

    Takes raw pixels 0-255, (n, 28, 28), as uint8 or any float; returns probabilities, float32 (n, 10). Made of Keras'
    own layers only, so that whoever loads the file needs Keras and nothing of this project.
    """
    import keras
    from keras import layers

    pixels = keras.Input((IMAGE_SIDE, IMAGE_SIDE), name="pixels", dtype="float32")
    if normalization.scheme == "l2":
        normalized = layers.UnitNormalization(axis=1, dtype="float32", name="normalization")(pixels)
    else:
        normalized = layers.Rescaling(normalization.scale, normalization.offset, dtype="float32", name="normalization")(
            pixels
        )
    probabilities = layers.Softmax(dtype="float32", name="probabilities")(network(normalized))
    return keras.Model(pixels, probabilities, name="mnist")


def load_model(path: Path) -> "keras.Model":
    """Load a finished model from its `.keras` file: what `with_preprocessing` returned."""
    with quiet_native_logs():
        import keras

        return cast("keras.Model", keras.saving.load_model(path))


def network_of(model: "keras.Model") -> "keras.Model":
    """Return the network inside a finished model: normalized images (n, 28, 28) in, logits (n, 10) out."""
    return model.get_layer("network")
