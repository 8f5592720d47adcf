"""The networks are what their parameters say, and the finished model takes raw pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.data.normalize import fit
from mnist_pipeline.params import CnnArchitecture, MlpArchitecture, load_params
from small_project import ROOT

keras = pytest.importorskip("keras")

RAW = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)


def mlp(**changes: Any) -> MlpArchitecture:
    base = {"kind": "mlp", "hidden_units": [32], "dropout": 0.0, "activation": "relu", "batch_normalization": False}
    return MlpArchitecture.model_validate(base | changes)


def cnn(blocks: list[tuple[int, int]], **changes: Any) -> CnnArchitecture:
    base: dict[str, Any] = {"kind": "cnn", "padding": "valid", "dense_units": [], "dropout": 0.0, "activation": "relu"}
    entries = [
        {"filters": filters, "kernel_size": size, "convolutions": 1, "pooling": 2, "dropout": 0.0}
        for filters, size in blocks
    ]
    return CnnArchitecture.model_validate(base | {"batch_normalization": False, "blocks": entries} | changes)


@pytest.mark.parametrize(
    ("file", "name", "parameters"),
    [
        ("baselines/keras_mlp/params.yaml", "keras_mlp", 669_706),
        ("baselines/keras_convnet/params.yaml", "keras_convnet", 34_826),
        ("params.yaml", "cnn", 215_194),
    ],
)
def test_published_networks_have_their_published_number_of_parameters(file: str, name: str, parameters: int) -> None:
    from mnist_pipeline.models.network import build_network

    network = build_network(load_params(ROOT / file).model(name).architecture)
    assert network.count_params() == parameters
    assert network.output_shape == (None, 10)


def test_dropout_may_differ_per_layer_and_normalization_can_be_switched_on() -> None:
    from mnist_pipeline.models.network import build_network

    network = build_network(mlp(hidden_units=[8, 8, 8], dropout=[0.1, 0.0, 0.3], batch_normalization=True))
    rates = [layer.rate for layer in network.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.1, 0.3]
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in network.layers) == 3


@pytest.mark.parametrize("scheme", ["unit", "standard", "symmetric", "l2"])
def test_raw_pixels_in_the_saved_model_equal_normalized_ones_in_the_network(scheme: Any, tmp_path: Path) -> None:
    from mnist_pipeline.models.network import build_network
    from mnist_pipeline.models.preprocessing import load_model, network_of, with_preprocessing

    keras.utils.set_random_seed(1)
    normalization = fit(scheme, RAW)
    model = with_preprocessing(build_network(cnn([(4, 3)])), normalization)
    model.save(tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    expected = keras.ops.softmax(network_of(loaded)(normalization.apply(RAW)))
    for pixels in (RAW, RAW.astype(np.float32), RAW.astype(np.float64)):
        probabilities = np.asarray(loaded(pixels))
        assert probabilities.dtype == np.float32
        np.testing.assert_allclose(probabilities, expected, atol=1e-6)
    np.testing.assert_allclose(np.sum(expected, axis=1), 1, atol=1e-6)
