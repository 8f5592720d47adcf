"""What is written in the figures; how they look was judged by eye."""

import sys

import numpy as np
from fake_predictions import GOOD, PERFECT, fake
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.text import Text
from numpy.typing import NDArray

from mnist_pipeline.evaluation import figures
from small_project import MNIST


def texts(figure: Figure) -> list[str]:
    """Return everything written in a figure."""
    return [text.get_text() for text in figure.findobj(Text) if text.get_text()]


def test_the_confusion_matrix_shows_each_count_and_leaves_zeros_out() -> None:
    figure = figures.confusion_matrix("cnn", MNIST, GOOD.labels, GOOD.probabilities)
    numbers = [text.get_text() for text in figure.axes[0].texts]
    # 50 images of each digit, of which 3 are read as the next one.
    assert sorted(numbers) == ["3"] * 10 + ["47"] * 10
    assert "cnn: 30 of 500 test digits misclassified" in texts(figure)


def test_the_gallery_shows_the_surest_errors_first() -> None:
    figure = figures.confidently_wrong("cnn", MNIST, GOOD.labels, GOOD.probabilities, GOOD.images)
    titles = [text.get_text() for text in figure.axes[0].texts]
    assert len(titles) == 24
    surest = int(GOOD.probabilities[:30].max(axis=1).argmax())
    confidence = GOOD.probabilities[surest].max()
    label = GOOD.labels[surest]
    assert titles[0] == f"{label} taken for {(label + 1) % 10}\n{confidence:.1%} sure"
    np.testing.assert_array_equal(framed(figure)[0], GOOD.images[surest])
    shares = [float(title.split("\n")[1].split("%")[0]) for title in titles]
    assert shares == sorted(shares, reverse=True)
    assert any("24 surest of 30" in text for text in texts(figure))


def test_the_gallery_shows_few_errors_without_empty_frames() -> None:
    few = fake([*range(10)] * 2, wrong=2)
    figure = figures.confidently_wrong("cnn", MNIST, few.labels, few.probabilities, few.images)
    surer = np.argsort(-few.probabilities[:2].max(axis=1))
    np.testing.assert_array_equal(framed(figure), few.images[surer])


def test_the_gallery_has_room_for_long_titles_between_wide_images() -> None:
    names = MNIST.model_copy(update={"classes": ("ankle boot with laces", "trouser with a crease", *MNIST.classes[2:])})
    wide = np.repeat(GOOD.images, 3, axis=2)
    figure = figures.confidently_wrong("cnn", names, GOOD.labels % 2, GOOD.probabilities, wide)
    figure.canvas.draw()
    boxes = [each.get_window_extent() for each in (*figure.axes[0].texts, *figure.axes[0].patches)]
    assert not any(one.overlaps(other) for index, one in enumerate(boxes) for other in boxes[:index])


def framed(figure: Figure) -> list[NDArray[np.uint8]]:
    """Return what the frames of a gallery surround, in order."""
    sheet = np.asarray(figure.axes[0].images[0].get_array())
    frames = [frame.get_bbox() for frame in figure.axes[0].patches if isinstance(frame, Rectangle)]
    sides = [np.rint(np.add(frame.extents, 0.5)).astype(int) for frame in frames]
    return [sheet[top:bottom, left:right] for left, top, right, bottom in sides]


def test_the_gallery_says_so_when_there_is_no_error() -> None:
    figure = figures.confidently_wrong("cnn", MNIST, PERFECT.labels, PERFECT.probabilities, PERFECT.images)
    assert texts(figure) == ["cnn: all 50 test digits were classified correctly"]


def test_the_calibration_figure_counts_the_images_of_each_bin() -> None:
    figure = figures.calibration("cnn", MNIST, GOOD.labels, GOOD.probabilities)
    counts = [int(text.get_text()) for text in figure.axes[1].texts]
    assert sum(counts) == 500
    assert any("expected calibration error" in text for text in texts(figure))


def test_the_recall_figure_has_a_bar_for_each_digit_on_a_stated_scale() -> None:
    axes = figures.recall("cnn", MNIST, GOOD.labels, GOOD.probabilities).axes[0]
    heights = [bar.get_height() for bar in axes.patches if isinstance(bar, Rectangle)]
    assert heights == [47 / 50] * 10
    start = axes.get_ylim()[0]
    assert f"start at {start:.0%}" in axes.get_ylabel()
    assert start < figures.wilson_interval(47, 50)[0]


def test_a_digit_without_images_is_drawn_too() -> None:
    only_ones = fake([1] * 5, wrong=1)
    assert figures.recall("cnn", MNIST, only_ones.labels, only_ones.probabilities).axes[0].get_ylim()[0] == 0
    assert figures.confusion_matrix("cnn", MNIST, only_ones.labels, only_ones.probabilities).axes


def test_drawing_leaves_matplotlib_s_global_state_alone() -> None:
    figures.recall("cnn", MNIST, GOOD.labels, GOOD.probabilities)
    assert "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
