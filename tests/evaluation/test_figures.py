"""What is written in the figures; how they look was judged by eye."""

import sys
from typing import Any

import numpy as np

from mnist_pipeline.evaluation import figures

from .conftest import Predictions, predict


def texts(figure: Any) -> list[str]:  # noqa: ANN401
    """Return everything written in a matplotlib figure, in order of drawing."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_confusion_matrix_shows_each_count_and_leaves_zeros_out(good: Predictions) -> None:
    figure = figures.confusion_matrix("cnn", good.labels, good.probabilities)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    # 50 images of each digit, of which 3 are read as the next one.
    assert sorted(numbers) == ["3"] * 10 + ["47"] * 10
    assert "cnn: 30 of 500 test digits misread" in texts(figure)


def test_the_gallery_shows_the_surest_errors_first(good: Predictions) -> None:
    figure = figures.confidently_wrong("cnn", good.labels, good.probabilities, good.images)
    titles = [axes.get_title() for axes in figure.axes]
    assert len(titles) == 24
    surest = int(good.probabilities[:30].max(axis=1).argmax())
    confidence = good.probabilities[surest].max()
    label = good.labels[surest]
    assert titles[0] == f"{label} read as {(label + 1) % 10}\n{confidence:.1%} sure"
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), good.images[surest])
    shares = [float(title.split("\n")[1].split("%")[0]) for title in titles]
    assert shares == sorted(shares, reverse=True)
    assert any("24 surest of 30" in text for text in texts(figure))


def test_the_gallery_shows_few_errors_without_empty_frames() -> None:
    few = predict(np.arange(20, dtype=np.uint8) % 10, wrong=2)
    figure = figures.confidently_wrong("cnn", few.labels, few.probabilities, few.images)
    assert len(figure.axes) == 2


def test_the_gallery_says_so_when_there_is_no_error(perfect: Predictions) -> None:
    figure = figures.confidently_wrong("cnn", perfect.labels, perfect.probabilities, perfect.images)
    assert "None: all 50 were read correctly." in texts(figure)


def test_the_gallery_looks_the_same_on_any_scale(good: Predictions) -> None:
    def colours(images: Any) -> Any:  # noqa: ANN401
        figure = figures.confidently_wrong("cnn", good.labels, good.probabilities, images)
        image = figure.axes[0].images[0]
        return image.to_rgba(image.get_array())

    np.testing.assert_allclose(colours(good.images), colours(20 + 7 * good.images), atol=1 / 255)


def test_the_calibration_figure_counts_the_images_of_each_bin(good: Predictions) -> None:
    figure = figures.calibration("cnn", good.labels, good.probabilities)
    counts = [int(text.get_text()) for text in figure.axes[1].texts]
    assert sum(counts) == 500
    assert any("expected calibration error" in text for text in texts(figure))


def test_the_recall_figure_has_a_bar_for_each_digit_on_a_stated_scale(good: Predictions) -> None:
    axes = figures.recall("cnn", good.labels, good.probabilities).axes[0]
    assert [patch.get_height() for patch in axes.patches] == [47 / 50] * 10
    start = axes.get_ylim()[0]
    assert f"start at {start:.0%}" in axes.get_ylabel()
    assert start < figures.wilson_interval(47, 50)[0]


def test_a_digit_without_images_is_drawn_too() -> None:
    only_ones = predict(np.ones(5, np.uint8), wrong=1)
    assert figures.recall("cnn", only_ones.labels, only_ones.probabilities).axes[0].get_ylim()[0] == 0
    assert figures.confusion_matrix("cnn", only_ones.labels, only_ones.probabilities).axes


def test_drawing_leaves_matplotlib_s_global_state_alone(good: Predictions) -> None:
    figures.recall("cnn", good.labels, good.probabilities)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
