"""Models are what their parameters say, take raw pixels, and are equal files if they are equal."""

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.normalize import fit
from mnist_pipeline.data.params import Data
from mnist_pipeline.evaluation.metrics import predict_probabilities
from mnist_pipeline.models.model import build_model, load_model, save_model
from mnist_pipeline.models.params import CnnArchitecture, MlpArchitecture, Scheme
from mnist_pipeline.training.params import load_params
from repository import run
from small_project import MNIST, ROOT

keras = pytest.importorskip("keras")

RAW = np.random.default_rng(0).integers(0, 256, (64, 28, 28), dtype=np.uint8)
STATISTICS = fit(RAW)


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


def build(architecture: MlpArchitecture | CnnArchitecture, scheme: Scheme = "unit", data: Data = MNIST) -> Any:
    return build_model(architecture, scheme, STATISTICS, data)


@pytest.mark.parametrize(
    ("file", "name", "parameters"),
    [
        ("baselines/params.yaml", "keras_mlp", 669_706),
        ("baselines/params.yaml", "keras_convnet", 34_826),
        ("params.yaml", "cnn", 215_194),
    ],
)
def test_published_networks_have_their_published_number_of_parameters(file: str, name: str, parameters: int) -> None:
    model = build(load_params(ROOT / file).model(name).architecture)
    assert model.count_params() == parameters
    assert model.output_shape == (None, 10)


def test_dropout_may_differ_per_layer_and_normalization_can_be_switched_on() -> None:
    model = build(mlp(hidden_units=[8, 8, 8], dropout=[0.1, 0.0, 0.3], batch_normalization=True))
    rates = [layer.rate for layer in model.layers if isinstance(layer, keras.layers.Dropout)]
    assert rates == [0.1, 0.3]
    assert sum(isinstance(layer, keras.layers.BatchNormalization) for layer in model.layers) == 3


def normalized(scheme: Scheme) -> Any:
    """Return what the second layer of a model sees of `RAW`."""
    model = build(mlp(), scheme)
    return np.asarray(keras.Model(model.input, model.get_layer("normalization").output)(RAW))


def test_unit_and_symmetric_have_their_ranges() -> None:
    np.testing.assert_allclose(normalized("unit"), RAW / 255, atol=1e-6)
    np.testing.assert_allclose(normalized("symmetric"), RAW / 127.5 - 1, atol=1e-6)


def test_standard_has_mean_0_and_deviation_1_over_the_train_split() -> None:
    pixels = normalized("standard").astype(np.float64)
    assert pixels.mean() == pytest.approx(0, abs=1e-5)
    assert pixels.std() == pytest.approx(1, abs=1e-5)


def test_l2_is_keras_normalize_along_axis_1() -> None:
    np.testing.assert_allclose(normalized("l2"), keras.utils.normalize(RAW, axis=1), rtol=1e-5)


@pytest.mark.parametrize("scheme", ["unit", "standard", "symmetric", "l2"])
def test_a_saved_model_takes_raw_pixels_and_gives_probabilities(scheme: Scheme, tmp_path: Path) -> None:
    model = build(cnn([(4, 3)]), scheme)
    save_model(model, tmp_path / "model.keras")
    loaded = load_model(tmp_path / "model.keras")
    assert (loaded.inputs[0].name, loaded.inputs[0].dtype) == ("pixels", "uint8")
    probabilities = predict_probabilities(loaded, RAW)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(probabilities, predict_probabilities(model, RAW))


def save(path: Path) -> None:
    keras.utils.set_random_seed(1)
    save_model(build(cnn([(4, 3), (8, 3)], dropout=0.5, dense_units=[16], batch_normalization=True)), path)


def test_equal_models_of_two_processes_are_equal_files(tmp_path: Path) -> None:
    build(mlp())  # so that Keras counts its automatic names from elsewhere
    save(tmp_path / "here.keras")
    code = f"from pathlib import Path; import test_model; test_model.save(Path({str(tmp_path / 'there.keras')!r}))"
    run(ROOT, sys.executable, "-c", code, PYTHONPATH=os.pathsep.join(sys.path))
    assert (tmp_path / "here.keras").read_bytes() == (tmp_path / "there.keras").read_bytes()


def test_what_is_no_model_of_this_project_is_refused(tmp_path: Path) -> None:
    good = tmp_path / "good.keras"
    save_model(build(mlp()), good)
    for name, content in {"text": b"no model", "empty": b"", "cut": good.read_bytes()[:-500]}.items():
        path = tmp_path / f"{name}.keras"
        path.write_bytes(content)
        with pytest.raises(UserError, match=rf"{name}\.keras cannot be loaded .*run `mnist train cnn` again"):
            load_model(path, "mnist train cnn")
    with pytest.raises(UserError, match=r"missing\.keras is missing: run `mnist train`"):
        load_model(tmp_path / "missing.keras")
    colour = keras.Input((28, 28, 3))
    keras.Model(colour, keras.layers.Dense(10)(keras.layers.Flatten()(colour))).save(tmp_path / "colour.keras")
    with pytest.raises(UserError, match="not a model of this project"):
        load_model(tmp_path / "colour.keras")


def changed(**changes: Any) -> Data:
    """Return MNIST's section `data` with other values."""
    return Data.model_validate(MNIST.model_dump() | changes)


@pytest.mark.parametrize("size", [(20, 20), (32, 24)])
@pytest.mark.parametrize("architecture", [mlp(), cnn([(4, 3), (8, 3)])])
def test_a_model_takes_the_images_and_has_the_classes_that_the_data_have(
    architecture: MlpArchitecture | CnnArchitecture, size: tuple[int, int]
) -> None:
    data = changed(name="shapes", image_size=size, classes=["disc", "ring", "bar", "cross"])
    model = build(architecture, "l2", data)
    assert (model.name, model.input_shape, model.output_shape) == ("shapes", (None, *size), (None, 4))
    pixels = np.random.default_rng(0).integers(0, 256, (3, *size), dtype=np.uint8)
    np.testing.assert_allclose(np.asarray(model(pixels)).sum(axis=1), 1, atol=1e-5)


def test_an_architecture_that_leaves_nothing_of_small_images_is_refused() -> None:
    blocks = [(4, 5), (8, 3)]  # 16x12 pixels: 12x8, 6x4, 4x2, 2x1
    assert build(cnn(blocks), data=changed(image_size=[16, 12])).get_layer("flatten").output.shape == (None, 16)
    with pytest.raises(UserError, match=r"leaves no pixel of 16x11 after blocks\.1: use fewer .*`padding: same`\.$"):
        build(cnn(blocks), data=changed(image_size=[16, 11]))


def test_a_model_of_other_data_is_refused_where_it_is_to_be_used_on_these(tmp_path: Path) -> None:
    save_model(build(mlp()), tmp_path / "model.keras")
    load_model(tmp_path / "model.keras", data=MNIST)
    for other, said in (
        (changed(image_size=[20, 20]), "data have 20x20 pixels and 10"),
        (changed(classes=["a", "b"]), "28x28 pixels and 2 cl"),
    ):
        with pytest.raises(UserError, match=f"{said}.*train one for these by `dvc repro`"):
            load_model(tmp_path / "model.keras", data=other)
