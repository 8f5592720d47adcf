"""Augmentation moves ink where its parameters say, and its draws depend on the seed alone."""

import math
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.models.augmentation import _affine_grid, _displacement, augment, sample_bilinear
from mnist_pipeline.models.params import Augmentation

tf = pytest.importorskip("tensorflow")

OFF = {"rotation": 0, "shift": 0, "zoom": 0, "shear": 0, "elastic": 0, "elastic_smoothing": 4, "flip": False}
IMAGES: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (16, 28, 28), dtype=np.uint8)


def distort(images: Any = IMAGES, seed: int = 0, strength: float = 1.0, **strengths: Any) -> Any:
    augmentation = Augmentation.model_validate(OFF | strengths)
    return augment(tf.constant(images), augmentation, tf.constant([seed, 0], tf.int64), strength=strength).numpy()


def warp(image: NDArray[np.float32], **draw: float) -> NDArray[np.float32]:
    """Apply a known map to one image, by the functions that `augment` is made of."""
    names = ("rotation", "shear", "zoom_rows", "zoom_columns", "shift_rows", "shift_columns")
    rows, columns = _affine_grid([tf.constant([float(draw.get(name, 0))]) for name in names], *image.shape)
    return sample_bilinear(tf.constant(image[None]), rows, columns).numpy()[0]


def dot(row: int, column: int) -> NDArray[np.float32]:
    image = np.zeros((28, 28), np.float32)
    image[row, column] = 1
    return image


def peak(image: NDArray[np.float32]) -> tuple[int, int]:
    row, column = np.unravel_index(image.argmax(), image.shape)
    return int(row), int(column)


def test_zero_strength_is_the_identity() -> None:
    np.testing.assert_array_equal(distort(), IMAGES)
    np.testing.assert_array_equal(distort(rotation=30, shift=3, elastic=2, flip=True, strength=0.0), IMAGES)


def test_a_shift_moves_down_and_right() -> None:
    assert peak(warp(dot(10, 12), shift_rows=3)) == (13, 12)
    assert peak(warp(dot(10, 12), shift_columns=4)) == (10, 16)


def test_a_rotation_is_counter_clockwise_about_the_centre() -> None:
    # The centre is (13.5, 13.5): what is 8.5 to the right of it goes 8.5 above it.
    assert peak(warp(dot(14, 22), rotation=math.pi / 2)) == (5, 14)


def test_zoom_enlarges_along_its_axis_and_shear_slants() -> None:
    bar = np.zeros((28, 28), np.float32)
    bar[10:18, 10:18] = 1
    taller = warp(bar, zoom_rows=0.5)
    assert taller.sum(axis=0).max() == pytest.approx(12, abs=0.5)
    assert taller.sum(axis=1).max() == pytest.approx(8, abs=0.1)
    line = np.zeros((28, 28), np.float32)
    line[4:24, 14] = 1
    slanted = warp(line, shear=math.pi / 4)
    assert peak(slanted[6:7])[1] < 14 < peak(slanted[21:22])[1]


def test_every_image_gets_its_own_draw_and_every_seed_others() -> None:
    same = np.repeat(IMAGES[:1], 16, axis=0)
    drawn = distort(same, rotation=20, shift=2)
    assert len({image.tobytes() for image in drawn}) == 16
    assert not np.array_equal(drawn, distort(same, seed=1, rotation=20, shift=2))
    np.testing.assert_array_equal(drawn, distort(same, rotation=20, shift=2))


def test_half_of_the_images_are_mirrored_left_to_right_and_each_by_its_own_draw() -> None:
    many = np.repeat(IMAGES[:1], 1000, axis=0)
    mirrored = (distort(many, flip=True) == many[:, :, ::-1]).all(axis=(1, 2))
    same = (distort(many, flip=True) == many).all(axis=(1, 2))
    assert (mirrored ^ same).all()
    assert mirrored.mean() == pytest.approx(0.5, abs=0.05)


def test_images_need_not_be_square() -> None:
    image = np.zeros((20, 32), np.float32)
    image[10, 26] = 1
    # The centre is (9.5, 15.5): what is 10.5 to the right of it and 0.5 below is mirrored to the left and above.
    assert peak(warp(image, rotation=math.pi)) == (9, 5)
    wide: NDArray[np.uint8] = np.random.default_rng(0).integers(0, 256, (8, 20, 32), dtype=np.uint8)
    assert distort(wide, rotation=20, shift=2, shear=5, zoom=0.1, elastic=2, flip=True).shape == wide.shape
    np.testing.assert_array_equal(distort(wide), wide)


def test_what_comes_in_from_outside_is_paper() -> None:
    ink = np.full((16, 28, 28), 255, np.uint8)
    shifted = distort(ink, shift=14)
    assert set(np.unique(shifted[:, [0, 0, -1, -1], [0, -1, 0, -1]])) >= {0, 255}
    paper = np.zeros((16, 28, 28), np.uint8)
    np.testing.assert_array_equal(distort(paper, rotation=40, shift=8, zoom=0.3), paper)


def test_elastic_displacements_have_the_deviation_asked_for_and_are_smooth() -> None:
    down, right = _displacement(4.0, (500, 28, 28), tf.constant([0, 0], tf.int64)).numpy()
    assert down.std() == pytest.approx(1.0, rel=0.05)
    assert right.std() == pytest.approx(1.0, rel=0.05)
    assert np.abs(np.diff(down, axis=1)).mean() < 0.3
    assert abs(np.corrcoef(down.ravel(), right.ravel())[0, 1]) < 0.05


@pytest.mark.parametrize("elastic", [0, 1.5])
def test_xla_gives_the_same_images_and_keeps_shape_and_type(elastic: float) -> None:
    strengths: dict[str, Any] = {"rotation": 10, "shift": 2, "zoom": 0.1, "shear": 5, "elastic": elastic}
    compiled = tf.function(lambda: distort_graph(strengths), jit_compile=True)().numpy()
    assert compiled.shape == IMAGES.shape
    assert compiled.dtype == np.uint8
    np.testing.assert_allclose(compiled.astype(float), distort(**strengths), atol=1)  # a half may be rounded either way


def distort_graph(strengths: dict[str, float]) -> Any:
    augmentation = Augmentation.model_validate(OFF | strengths)
    return augment(tf.constant(IMAGES), augmentation, tf.constant([0, 0], tf.int64))
