"""The multi-layer perceptron."""

from typing import TYPE_CHECKING

from mnist_pipeline.params import IMAGE_SIDE, MlpArchitecture

if TYPE_CHECKING:
    import keras


def build_mlp(architecture: MlpArchitecture) -> "keras.Model":
    """Build the untrained perceptron: normalized images (n, 28, 28) in, float32 logits (n, 10) out."""
    import keras
    from keras import layers

    images = keras.Input((IMAGE_SIDE, IMAGE_SIDE), name="normalized_image")
    x = layers.Flatten()(images)
    for units, dropout in zip(architecture.hidden_units, architecture.dropouts, strict=True):
        x = layers.Dense(units, use_bias=not architecture.batch_normalization)(x)
        if architecture.batch_normalization:
            x = layers.BatchNormalization()(x)
        x = layers.Activation(architecture.activation)(x)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return keras.Model(images, layers.Dense(10, dtype="float32", name="logits")(x), name="network")
