import json
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.evaluation.metrics import (
    calibration_error,
    evaluate_predictions,
    predictions_table,
    reliability_table,
    wilson_interval,
)
from small_project import MNIST

quick = settings(max_examples=50, deadline=None)  # no deadline: a busy machine is no failure


def sure_of(digits: list[int], confidence: float) -> NDArray[np.float32]:
    """Probabilities that give each of `digits` the same confidence, and the rest to the others evenly."""
    probabilities = np.full((len(digits), 10), (1 - confidence) / 9, np.float32)
    probabilities[np.arange(len(digits)), digits] = confidence
    return probabilities


@st.composite
def predictions(draw: st.DrawFn) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    images = draw(st.integers(1, 40))
    labels = draw(arrays(np.uint8, images, elements=st.integers(0, 9)))
    logits = draw(arrays(np.float32, (images, 10), elements=st.floats(-30, 30, width=32)))
    powers = np.exp(logits)
    return labels, powers / powers.sum(axis=1, keepdims=True)


def test_a_tiny_case_worked_out_by_hand() -> None:
    labels = np.array([0, 0, 1, 2], np.uint8)
    metrics = evaluate_predictions(labels, sure_of([0, 1, 1, 2], 0.82), MNIST.classes)
    assert metrics.images == 4
    assert metrics.accuracy == 0.75
    # Wilson 1927: (p + z²/2n ± z √(p(1-p)/n + z²/4n²)) / (1 + z²/n) with p = 3/4, n = 4, z = 1.96.
    assert (metrics.accuracy_low, metrics.accuracy_high) == pytest.approx((0.3006, 0.9544), abs=1e-4)
    # Three images are given 0.82, one 0.02.
    assert metrics.loss == pytest.approx(-(3 * np.log(0.82) + np.log(0.02)) / 4, rel=1e-5)
    # Precision 1, 1/2, 1; recall 1/2, 1, 1; F1 2/3, 2/3, 1; nothing for the seven digits that do not occur.
    assert metrics.macro_precision == pytest.approx(2.5 / 10)
    assert metrics.macro_recall == pytest.approx(2.5 / 10)
    assert metrics.macro_f1 == pytest.approx((2 / 3 + 2 / 3 + 1) / 10)
    assert metrics.recall == {"0": 0.5, "1": 1, "2": 1, **{str(digit): 0 for digit in range(3, 10)}}
    assert metrics.expected_calibration_error == pytest.approx(0.82 - 0.75)


@quick
@given(predictions())
def test_every_share_is_a_share_and_the_accuracy_lies_in_its_interval(
    case: tuple[NDArray[np.uint8], NDArray[np.float32]],
) -> None:
    metrics = asdict(evaluate_predictions(*case, MNIST.classes))
    assert 0 <= metrics["accuracy_low"] <= metrics["accuracy"] <= metrics["accuracy_high"] <= 1
    assert metrics["loss"] >= 0
    for name in ("macro_precision", "macro_recall", "macro_f1", "expected_calibration_error"):
        assert 0 <= metrics[name] <= 1
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


def test_certain_and_right_is_perfect() -> None:
    labels = np.arange(10, dtype=np.uint8)
    metrics = evaluate_predictions(labels, np.eye(10, dtype=np.float32), MNIST.classes)
    assert (metrics.accuracy, metrics.macro_f1, metrics.expected_calibration_error) == (1, 1, 0)
    assert metrics.loss < 1e-6


def test_certain_and_wrong_has_a_finite_loss() -> None:
    labels = np.arange(10, dtype=np.uint8)
    metrics = evaluate_predictions(labels, np.roll(np.eye(10, dtype=np.float32), 1, axis=1), MNIST.classes)
    assert metrics.accuracy == 0
    assert 15 < metrics.loss < 16
    assert metrics.expected_calibration_error == 1


def test_a_diverged_model_is_refused_in_plain_words() -> None:
    probabilities = np.full((1, 10), np.nan, np.float32)
    with pytest.raises(UserError, match="diverged; lower its learning_rate"):
        evaluate_predictions(np.zeros(1, np.uint8), probabilities, MNIST.classes)


@pytest.mark.parametrize("confidence", [0.25, 0.5, 0.75])
def test_a_model_as_often_right_as_it_says_has_no_calibration_error(confidence: float) -> None:
    labels = np.where(np.arange(100) < 100 * confidence, 3, 4).astype(np.uint8)
    table = reliability_table(labels, sure_of([3] * 100, confidence))
    assert calibration_error(table) == pytest.approx(0, abs=1e-7)


def test_the_calibration_error_weighs_bins_by_their_images() -> None:
    # 30 images at 0.9, all right: a gap of 0.1. 10 images at 0.5, all wrong: a gap of 0.5.
    labels = np.array([1] * 30 + [2] * 10, np.uint8)
    probabilities = np.concatenate([sure_of([1] * 30, 0.9), sure_of([1] * 10, 0.5)])
    assert calibration_error(reliability_table(labels, probabilities)) == pytest.approx(0.75 * 0.1 + 0.25 * 0.5)


@quick
@given(predictions())
def test_every_image_is_in_the_bin_of_its_confidence(
    case: tuple[NDArray[np.uint8], NDArray[np.float32]],
) -> None:
    labels, probabilities = case
    table = reliability_table(labels, probabilities)
    assert len(table) == 15
    assert table["images"].sum() == len(labels)
    assert table["correct"].sum() == (probabilities.argmax(axis=1) == labels).sum()
    filled = table[table["images"] > 0]
    slack = 1e-6
    assert (filled["confidence"] > filled["low"] - slack).all()
    assert (filled["confidence"] <= filled["high"] + slack).all()


def test_a_confidence_on_the_edge_belongs_to_the_bin_below() -> None:
    table = reliability_table(np.array([1], np.uint8), sure_of([1], 0.5), bins=4)
    assert table["images"].tolist() == [0, 1, 0, 0]


@quick
@given(st.integers(0, 300), st.integers(0, 300))
def test_an_interval_holds_its_share_and_narrows_with_more_images(right: int, wrong: int) -> None:
    total = right + wrong
    low, high = wilson_interval(right, total)
    assert 0 <= low < high <= 1
    if total:
        assert low <= right / total <= high
        closer_low, closer_high = wilson_interval(4 * right, 4 * total)
        assert closer_high - closer_low < high - low


@quick
@given(predictions())
def test_the_table_of_predictions_has_a_row_per_image(case: tuple[NDArray[np.uint8], NDArray[np.float32]]) -> None:
    labels, probabilities = case
    table = predictions_table(labels, probabilities)
    assert table["index"].tolist() == [*range(len(labels))]
    assert table["label"].tolist() == labels.tolist()
    columns = [f"probability_{digit}" for digit in range(10)]
    assert [*table.columns] == ["index", "label", "predicted", *columns]
    np.testing.assert_array_equal(table[columns].to_numpy(), probabilities)
    assert (table["predicted"] == table[columns].to_numpy().argmax(axis=1)).all()
