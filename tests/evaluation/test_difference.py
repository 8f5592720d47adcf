"""How much two trainings differ, to the bit."""

import numpy as np

from mnist_pipeline.evaluation.difference import compare_predictions, compare_weights

WEIGHTS = [np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), np.array([4.0], np.float32)]


def test_the_same_bits_are_no_difference() -> None:
    found = compare_weights(WEIGHTS, [array.copy() for array in WEIGHTS])
    assert found is not None
    assert (found.count, found.differing, found.largest) == (5, 0, 0.0)


def test_the_last_bit_counts_and_so_does_a_sign_of_zero() -> None:
    other = [np.array([[-0.0, np.nextafter(np.float32(1), np.float32(2))], [2.0, 3.0]], np.float32), WEIGHTS[1] + 1]
    found = compare_weights(WEIGHTS, other)
    assert found is not None
    assert (found.differing, found.largest) == (3, 1.0)


def test_other_shapes_are_another_network() -> None:
    assert compare_weights(WEIGHTS, WEIGHTS[:1]) is None
    assert compare_weights(WEIGHTS, [WEIGHTS[0].ravel(), WEIGHTS[1]]) is None


def test_agreement_is_about_the_digit_seen_whether_right_or_wrong() -> None:
    logits = np.eye(10)[[0, 1, 2, 3]]
    found = compare_predictions(np.array([0, 1, 9, 9], np.uint8), logits, np.eye(10)[[0, 5, 2, 9]])
    assert (found.images, found.agreeing) == (4, 2)
    assert (found.recorded_accuracy, found.rebuilt_accuracy) == (0.5, 0.5)
