"""The verdict on two models: counts, exact test, rule."""

import numpy as np
import pytest
from fake_predictions import fake

from mnist_pipeline.evaluation.comparison import compare, mcnemar
from mnist_pipeline.evaluation.metrics import evaluate_predictions
from small_project import MNIST

DIGITS = [*range(10)] * 20


def test_mcnemar_is_exact() -> None:
    # Of 10 images, 8 or more heads or tails: 2 * (45 + 10 + 1) / 1024.
    assert mcnemar(8, 2) == pytest.approx(0.109375)
    assert mcnemar(2, 8) == pytest.approx(0.109375)
    assert mcnemar(5, 5) == 1
    assert mcnemar(0, 0) == 1


def test_images_are_counted_in_pairs() -> None:
    better, worse = fake(DIGITS, wrong=10), fake(DIGITS, wrong=30)
    comparison = compare(better.labels, better.probabilities, worse.probabilities)
    assert comparison.is_better
    assert (comparison.both_right, comparison.both_wrong) == (170, 10)
    assert (comparison.only_candidate_right, comparison.only_champion_right) == (20, 0)
    assert comparison.mcnemar_p == pytest.approx(2**-19)
    assert comparison.candidate.accuracy_low < comparison.candidate.accuracy < comparison.candidate.accuracy_high
    assert not compare(better.labels, worse.probabilities, better.probabilities).is_better
    assert "accuracy 95.00% against 85.00%; alone right on 20 against 0" in comparison.sentence()


def test_ties_go_by_loss_and_of_two_equals_the_champion_stays() -> None:
    one = fake(DIGITS, wrong=10)
    sure = np.eye(10, dtype=np.float32)[one.probabilities.argmax(axis=1)]
    surer = (0.9 * one.probabilities + 0.1 * sure).astype(np.float32)
    assert compare(one.labels, surer, one.probabilities).is_better
    assert "loss" in compare(one.labels, surer, one.probabilities).sentence()
    assert not compare(one.labels, one.probabilities, surer).is_better
    assert not compare(one.labels, one.probabilities, one.probabilities).is_better


def test_scores_are_those_of_the_test_report() -> None:
    one = fake(DIGITS, wrong=10)
    score = compare(one.labels, one.probabilities, one.probabilities).candidate
    report = evaluate_predictions(one.labels, one.probabilities, MNIST.classes)
    assert (score.accuracy, score.accuracy_low, score.accuracy_high) == (
        report.accuracy, report.accuracy_low, report.accuracy_high,
    )  # fmt: skip
    assert score.loss == pytest.approx(report.loss, rel=1e-5)
