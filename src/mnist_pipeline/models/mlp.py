"""The multi-layer perceptron."""

from typing import TYPE_CHECKING

from mnist_pipeline.models.params import MlpArchitecture

if TYPE_CHECKING:
    import keras


def connect(x: "keras.KerasTensor", architecture: MlpArchitecture) -> "keras.KerasTensor":
    """Append the hidden layers to normalized images (n, height, width); return what the last one gives, (n, units)."""
    from keras import layers

    x = layers.Flatten(name="flatten")(x)
    sizes = zip(architecture.hidden_units, architecture.dropouts, strict=True)
    for index, (units, dropout) in enumerate(sizes, start=1):
        x = layers.Dense(units, use_bias=not architecture.batch_normalization, name=f"dense_{index}")(x)
        if architecture.batch_normalization:
            x = layers.BatchNormalization(name=f"batch_normalization_{index}")(x)
        x = layers.Activation(architecture.activation, name=f"activation_{index}")(x)
        if dropout:
            x = layers.Dropout(dropout, name=f"dropout_{index}")(x)
    return x
