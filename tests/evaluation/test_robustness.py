"""Robustness: the same corruptions for every model, stronger step by step, and what they cost."""

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.evaluation.robustness import (
    CORRUPTIONS,
    STRENGTHS,
    accuracies,
    corrupt,
    less_robust,
    robustness_table,
)
from small_project import draw_digits

DIGITS = draw_digits(100, seed=1)
TEMPLATES = np.stack([DIGITS.images[DIGITS.labels == digit].mean(axis=0) for digit in range(10)])


def nearest_template(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Read in each image the digit whose mean image is nearest."""
    distance = np.abs(images[:, None].astype(np.float32) - TEMPLATES).mean(axis=(2, 3))
    return np.eye(10, dtype=np.float32)[distance.argmin(axis=1)]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_each_strength_changes_images_more_than_the_one_before(name: str) -> None:
    plain = DIGITS.images.astype(float)
    worse = [corrupt(DIGITS.images, name, strength) for strength in STRENGTHS]
    changes = [float(np.abs(images - plain).mean()) for images in worse]
    assert changes == sorted(changes)
    assert changes[0] > 0.3
    assert all(images.dtype == np.uint8 and images.shape == DIGITS.images.shape for images in worse)


def test_a_blot_moves_as_its_corruption_says() -> None:
    """Of 32 x 28 pixels, so that rows taken for columns would show; to either side, so that both are drawn."""
    images = np.zeros((40, 32, 28), np.uint8)
    images[:, 8:11, 15:18] = 200
    rows, columns = np.mgrid[-15.5:16, -13.5:14]
    before = complex(16 - 13.5, 9 - 15.5)

    def places(name: str, strength: int) -> NDArray[np.complex128]:
        moved = corrupt(images, name, strength).astype(float)
        return (moved * (columns + 1j * rows)).sum(axis=(1, 2)) / moved.sum(axis=(1, 2))

    np.testing.assert_allclose(np.abs(places("shift", 4) - before), 4, atol=0.1)
    assert np.abs(np.mean(places("shift", 4) - before)) < 2, "in all directions"
    angles = np.degrees(np.angle(places("rotation", 3) / before))
    np.testing.assert_allclose(np.abs(angles), 30, atol=1)
    factors = places("zoom", 2) / before
    np.testing.assert_allclose(np.where(factors.real > 1, factors, 1 / factors), 1.2, atol=0.03)
    assert 0.2 < np.mean(angles > 0) < 0.8
    assert 0.2 < np.mean(factors.real > 1) < 0.8


def test_every_model_is_shown_the_same_corrupted_images() -> None:
    for name in CORRUPTIONS:
        np.testing.assert_array_equal(corrupt(DIGITS.images, name, 3), corrupt(DIGITS.images, name, 3))


def test_the_table_tells_what_each_corruption_costs() -> None:
    table = robustness_table(nearest_template, DIGITS, images=50)
    assert [*table.columns] == ["strength", *CORRUPTIONS, "mean"]
    assert [*table["strength"]] == [0, 1, 2, 3, 4, 5]
    assert set(table.loc[0, [*CORRUPTIONS]]) == {1.0}, "as they are, all fifty are read"
    assert table["mean"].is_monotonic_decreasing
    # The bars are told apart by their place alone, in steps of two pixels.
    means = accuracies(table)
    assert min(means, key=means.__getitem__) == "shift"
    assert means["shift"] == pytest.approx(table.loc[1:, "shift"].mean(), abs=1e-4)


def test_what_is_less_robust_is_said_if_it_is_no_chance() -> None:
    champion = dict.fromkeys(CORRUPTIONS, 0.8)
    assert less_robust(champion | {"noise": 0.785}, champion) == ""
    said = less_robust(champion | {"noise": 0.7, "uneven_light": 0.5, "blur": 0.9}, champion)
    assert said == "; less robust to noise (70.0% against 80.0%), uneven light (50.0% against 80.0%)"
