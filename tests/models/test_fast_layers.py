"""The layers that are trained in less time compute what Keras' own do, and never reach the saved model."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_model import RAW, build, cnn

from mnist_pipeline.models.fast_layers import accelerate
from mnist_pipeline.models.model import save_model

tf = pytest.importorskip("tensorflow")
keras = pytest.importorskip("keras")

TARGETS = np.random.default_rng(1).normal(size=(64, 10)).astype(np.float32)


def gradients(model: Any) -> list[Any]:
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(model(RAW, training=True) - TARGETS))
    return [loss, *tape.gradient(loss, model.trainable_variables)]


def logits_of(model: Any) -> Any:
    return keras.Model(model.input, model.get_layer("logits").output)


@pytest.mark.parametrize(
    ("size", "padding", "batch_normalization"),
    [(5, "valid", False), (4, "valid", True), (2, "same", True)],
)
def test_a_step_is_that_of_keras_own_layers(size: int, padding: str, batch_normalization: bool) -> None:
    keras.utils.set_random_seed(0)
    model = build(cnn([(4, size), (8, 3)], padding=padding, batch_normalization=batch_normalization))
    for variable in model.trainable_variables:
        variable.assign(variable + 0.1)  # biases, which start from 0, would not be seen
    plain, before = logits_of(model), model.get_weights()
    expected, expected_afterwards = gradients(plain), model.get_weights()
    model.set_weights(before)
    fast = accelerate(plain)
    kinds = {type(layer).__name__ for layer in fast.layers}
    assert "PooledConvolution" in kinds
    assert ("FusedBatchNormalization" in kinds) == batch_normalization
    # Of two values that are equal but for rounding, either may be the largest.
    for found, value in zip(gradients(fast), expected, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-2 * np.abs(value).max())
    for found, value in zip(model.get_weights(), expected_afterwards, strict=True):
        np.testing.assert_allclose(found, value, rtol=1e-3, atol=1e-5)  # the averaged statistics
    np.testing.assert_array_equal(fast(RAW, training=False), plain(RAW, training=False))


def test_the_model_keeps_its_layers_its_weights_and_its_file(tmp_path: Path) -> None:
    model = build(cnn([(4, 3)], batch_normalization=True))
    save_model(model, tmp_path / "before.keras")
    fast = accelerate(logits_of(model))
    assert [id(weight) for weight in fast.weights] == [id(weight) for weight in model.weights]
    save_model(model, tmp_path / "after.keras")
    assert (tmp_path / "before.keras").read_bytes() == (tmp_path / "after.keras").read_bytes()
