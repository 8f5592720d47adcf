"""How much two trainings differ, to the bit."""

import numpy as np

from mnist_pipeline.reproduction.difference import compare_weights

WEIGHTS = [np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), np.array([4.0], np.float32)]


def test_the_same_bits_are_no_difference() -> None:
    assert compare_weights(WEIGHTS, [array.copy() for array in WEIGHTS]) == (5, 0, 0.0)


def test_the_last_bit_counts_and_so_does_a_sign_of_zero() -> None:
    other = [np.array([[-0.0, np.nextafter(np.float32(1), np.float32(2))], [2.0, 3.0]], np.float32), WEIGHTS[1] + 1]
    assert compare_weights(WEIGHTS, other) == (5, 3, 1.0)


def test_other_shapes_are_another_network() -> None:
    assert compare_weights(WEIGHTS, WEIGHTS[:1]) is None
    assert compare_weights(WEIGHTS, [WEIGHTS[0].ravel(), WEIGHTS[1]]) is None
