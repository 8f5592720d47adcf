"""The published recipes, as a user would copy them: `Sequential`, `compile`, `fit`, and nothing of this project.

Each is true to its source, with three liberties, all of them in its favour or neutral: preparing the pixels is not
timed, no progress bar is printed, and `callbacks` takes the weights after each epoch (the time for that is taken off).
"""

from collections.abc import Callable
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
    train: Callable[..., tuple[keras.Model, keras.callbacks.History]]
    """(inputs, targets, epochs, callbacks) to the trained model and its history."""
    validation_split: float
    """Share of the images that it does not train on."""


def keras_convnet(x_train: Array, y_train: Array, epochs: int, callbacks: list[Any]) -> tuple[keras.Model, Any]:
    """Train keras.io/examples/vision/mnist_convnet: 34,826 parameters, 15 epochs, its own validation split."""
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
    history = model.fit(
        x_train,
        y_train,
        batch_size=128,
        epochs=epochs,
        validation_split=0.1,
        callbacks=callbacks,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )
    return model, history


def keras_mlp(x_train: Array, y_train: Array, epochs: int, callbacks: list[Any]) -> tuple[keras.Model, Any]:
    """Train Keras' mnist_mlp: 669,706 parameters, 20 epochs.

    The source validates on the test images after each epoch; here it does not validate, which only makes it faster.
    """
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
    history = model.fit(
        x_train,
        y_train,
        batch_size=128,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )
    return model, history


def tf_mlp(x_train: Array, y_train: Array, epochs: int, callbacks: list[Any]) -> tuple[keras.Model, Any]:
    """Train the two-layer perceptron of the TensorFlow tutorials: normalized pixels, batches of 32, 3 epochs."""
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
    history = model.fit(
        x_train,
        y_train,
        epochs=epochs,
        callbacks=callbacks,
        verbose=0,  # pyright: ignore[reportArgumentType]
    )
    return model, history


def _one_hot(labels: Array) -> Array:
    return keras.utils.to_categorical(labels, 10)


def _unit_length(images: Array) -> Array:
    # As published; of (n, 28, 28) this gives each column of pixels unit length, in float64.
    return keras.utils.normalize(images, axis=1)


RECIPES = {
    "keras_convnet": Recipe(
        inputs=lambda images: np.expand_dims(images.astype("float32") / 255, -1),
        targets=_one_hot,
        train=keras_convnet,
        validation_split=0.1,
    ),
    "keras_mlp": Recipe(
        inputs=lambda images: images.reshape(-1, 784).astype("float32") / 255,
        targets=_one_hot,
        train=keras_mlp,
        validation_split=0.0,
    ),
    "tf_mlp": Recipe(
        inputs=_unit_length,
        targets=lambda labels: labels,
        train=tf_mlp,
        validation_split=0.0,
    ),
}
