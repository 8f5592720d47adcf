"""Each scheme gives what Keras gives, and its numbers survive the disk."""

import os
from pathlib import Path
from types import ModuleType
from typing import get_args

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.data.dataset import load_subset
from mnist_pipeline.data.normalize import (
    Scheme,
    fit,
    load_normalization,
    pixel_statistics,
    save_normalization,
)
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import read_json
from mnist_pipeline.params import Normalize
from mnist_pipeline.project import Project
from mnist_pipeline.stages import normalize as stage

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]
SCHEMES: tuple[Scheme, ...] = get_args(Scheme)


@pytest.fixture(scope="module")
def keras() -> ModuleType:
    """The slow import, once, and only when these tests run."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras

    return keras


@pytest.mark.parametrize("scheme", ["unit", "standard", "symmetric"])
def test_keras_rescaling_gives_the_same_bits(scheme: Scheme, digits: Digits, keras: ModuleType) -> None:
    normalization = fit(scheme, digits[0])
    layer = keras.layers.Rescaling(normalization.scale, normalization.offset)
    ours = normalization.apply(digits[0])
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, keras.ops.convert_to_numpy(layer(digits[0])))


def test_standard_is_keras_normalization_adapted_to_the_training_images(digits: Digits, keras: ModuleType) -> None:
    layer = keras.layers.Normalization(axis=None)
    layer.adapt(digits[0].astype(np.float32) / 255)
    theirs = keras.ops.convert_to_numpy(layer(digits[0].astype(np.float32) / 255))
    np.testing.assert_allclose(fit("standard", digits[0]).apply(digits[0]), theirs, atol=2e-6)


def test_l2_is_keras_normalize_along_axis_1(digits: Digits, keras: ModuleType) -> None:
    ours = fit("l2", digits[0]).apply(digits[0])
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, keras.utils.normalize(digits[0], axis=1), rtol=2e-7)
    pixels = digits[0].astype(np.float32)
    np.testing.assert_allclose(
        ours, keras.ops.convert_to_numpy(keras.layers.UnitNormalization(axis=1)(pixels)), rtol=1e-6
    )


@pytest.mark.parametrize(("scheme", "low", "high"), [("unit", 0, 1), ("symmetric", -1, 1), ("l2", 0, 1)])
def test_ranges(scheme: Scheme, low: float, high: float, digits: Digits) -> None:
    normalized = fit(scheme, digits[0]).apply(digits[0])
    assert normalized.min() == low
    assert low < normalized.max() <= high


def test_standard_gives_mean_0_and_deviation_1(digits: Digits) -> None:
    normalized = fit("standard", digits[0]).apply(digits[0]).astype(np.float64)
    assert normalized.mean() == pytest.approx(0, abs=1e-6)
    assert normalized.std() == pytest.approx(1, abs=1e-6)


def test_statistics_are_exact_for_any_number_of_images() -> None:
    for count in (1, 999, 1_000, 2_001):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        mean, deviation = pixel_statistics(images)
        assert mean == pytest.approx((images / 255).mean(), rel=1e-12)
        assert deviation == pytest.approx((images / 255).std(), rel=1e-12)


def test_l2_gives_every_column_with_ink_unit_length(digits: Digits) -> None:
    lengths = np.linalg.norm(fit("l2", digits[0]).apply(digits[0]), axis=1)
    np.testing.assert_allclose(lengths[:, 4:], 1, rtol=1e-6)
    assert not lengths[:, :4].any()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_black_is_what_paper_becomes(scheme: Scheme, digits: Digits) -> None:
    normalization = fit(scheme, digits[0])
    blank: NDArray[np.uint8] = np.zeros((1, 28, 28), np.uint8)
    assert np.all(normalization.apply(blank) == normalization.black)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_survives_the_disk(scheme: Scheme, digits: Digits, tmp_path: Path) -> None:
    normalization = fit(scheme, digits[0])
    save_normalization(tmp_path / "normalization.json", normalization)
    assert load_normalization(tmp_path / "normalization.json") == normalization


def test_the_file_records_the_statistics_used(digits: Digits, tmp_path: Path) -> None:
    save_normalization(tmp_path / "n.json", fit("standard", digits[0]))
    content = read_json(tmp_path / "n.json", made_by="")
    assert content["mean"] == pytest.approx((digits[0] / 255).mean())
    assert content["standard_deviation"] == pytest.approx((digits[0] / 255).std())


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        "[]",
        '{"scheme": "unit", "scale": "x", "offset": 0}',
        '{"scheme": "other", "scale": 1, "offset": 0}',
        "nonsense",
    ],
)
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "normalization.json").write_text(content)
    with pytest.raises(UserError, match=r"normalization\.json .*`mnist normalize` again"):
        load_normalization(tmp_path / "normalization.json")


def test_blank_training_images_are_refused() -> None:
    with pytest.raises(UserError, match="blank"):
        fit("standard", np.full((3, 28, 28), 7, np.uint8))


def test_the_stage_writes_both_files_by_the_training_statistics(
    project: Project, digits: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.run(project, Normalize(scheme="standard"))
    normalization = load_normalization(project.normalization)
    assert normalization == fit("standard", digits[0][:200])
    for name, some in (("train", slice(0, 200)), ("test", slice(200, 300))):
        subset = load_subset(project.normalized / f"{name}.npz", made_by="")
        np.testing.assert_array_equal(subset.images, normalization.apply(digits[0][some]))
        np.testing.assert_array_equal(subset.labels, digits[1][some])
    assert "200 + 100 images by `standard`" in capsys.readouterr().out


def test_the_stage_writes_nothing_if_a_raw_file_is_damaged(project: Project) -> None:
    (project.raw / "t10k-labels-idx1-ubyte").write_bytes(b"cut")
    with pytest.raises(UserError, match="t10k-labels"):
        stage.run(project, Normalize(scheme="unit"))
    assert not project.normalized.exists()


def test_the_raw_files_may_lie_elsewhere(project: Project, digits: Digits, tmp_path: Path) -> None:
    elsewhere = project.raw.rename(tmp_path / "elsewhere")
    stage.run(project, Normalize(scheme="unit"), elsewhere)
    assert len(load_subset(project.normalized / "train.npz", made_by="")) == 200
    with pytest.raises(UserError, match="is missing"):
        stage.run(project, Normalize(scheme="unit"))
