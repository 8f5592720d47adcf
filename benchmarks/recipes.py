"""The published recipes, as a user would copy them: `Sequential`, `compile`, `fit`, and nothing of this project.

Each is true to its source, with three liberties, all of them in its favour or neutral: preparing the pixels is not
timed, no progress bar is printed, and a callback takes the weights after each epoch (the time for that is taken off).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers

Array = Any
"""NumPy arrays; Keras has no types for them."""


@dataclass(frozen=True)
class Recipe:
    """One published example."""

    inputs: Callable[[Array], Array]
    """From pixels, uint8 (n, 28, 28), to what its model takes."""
    targets: Callable[[Array], Array]
    """From labels, uint8 (n,), to what its loss takes."""
    build: Callable[[], keras.Model]
    """Returns the compiled model."""
    fit: Mapping[str, Any]
    """What it says to `fit` besides data and epochs."""


def keras_convnet() -> keras.Model:
    """Build keras.io/examples/vision/mnist_convnet: 34,826 parameters."""
    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28, 1)),
            layers.Conv2D(32, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Conv2D(64, kernel_size=(3, 3), activation="relu"),
            layers.MaxPooling2D(pool_size=(2, 2)),
            layers.Flatten(),
            layers.Dropout(0.5),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def keras_mlp() -> keras.Model:
    """Build Keras' mnist_mlp: 669,706 parameters."""
    model = keras.Sequential(
        [
            keras.Input(shape=(784,)),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(512, activation="relu"),
            layers.Dropout(0.2),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(loss="categorical_crossentropy", optimizer=keras.optimizers.RMSprop(), metrics=["accuracy"])
    return model


def tf_mlp() -> keras.Model:
    """Build the two-layer perceptron of the TensorFlow tutorials."""
    model = keras.Sequential(
        [
            keras.Input(shape=(28, 28)),
            layers.Flatten(),
            layers.Dense(128, activation="relu"),
            layers.Dense(128, activation="relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def one_hot(labels: Array) -> Array:
    """Return the labels as targets, float32 (n, 10)."""
    return keras.utils.to_categorical(labels, 10)


def unit_columns(images: Array) -> Array:
    """Normalize as published: of (n, 28, 28), `axis=1` gives each column of pixels unit length, in float64."""
    return keras.utils.normalize(images, axis=1)


RECIPES = {
    "keras_convnet": Recipe(
        inputs=lambda images: np.expand_dims(images.astype("float32") / 255, -1),
        targets=one_hot,
        build=keras_convnet,
        fit={"batch_size": 128, "validation_split": 0.1},
    ),
    # The source validates on the test images after each epoch; not to validate only makes it faster.
    "keras_mlp": Recipe(
        inputs=lambda images: images.reshape(-1, 784).astype("float32") / 255,
        targets=one_hot,
        build=keras_mlp,
        fit={"batch_size": 128},
    ),
    "tf_mlp": Recipe(
        inputs=unit_columns,
        targets=lambda labels: labels,
        build=tf_mlp,
        fit={},
    ),
}
