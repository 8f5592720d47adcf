"""The figures of a test report, drawn without matplotlib's global state.

`labels` are the true classes, uint8 (n,); `probabilities` the model's, float32 (n, classes); `data` says what they are
called. The colours are Okabe and Ito's, which colour-blind readers can tell apart.
"""

import math
from collections.abc import Sequence
from textwrap import fill
from typing import Any

import numpy as np
from matplotlib.colors import ListedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import PercentFormatter
from numpy.typing import NDArray
from pandas import DataFrame
from sklearn.metrics import confusion_matrix as count

from mnist_pipeline.data.params import Data
from mnist_pipeline.evaluation.metrics import calibration_error, reliability_table, wilson_interval
from mnist_pipeline.evaluation.robustness import CORRUPTIONS

BLUE, VERMILION, GREY, PALE = "#0072B2", "#D55E00", "#666666", "#EEEEEE"
OKABE_ITO = (BLUE, VERMILION, "#009E73", "#000000", "#E69F00", "#56B4E9", "#CC79A7", GREY)


def confusion_matrix(name: str, data: Data, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Figure:
    """Draw the counts of true against predicted classes: the few errors in colour, the many right in grey."""
    classes = range(len(data.classes))
    counts = np.asarray(count(labels, probabilities.argmax(axis=1), labels=classes))
    right = np.eye(len(classes), dtype=bool)
    side = max(7, len(classes) / 2)
    figure = Figure(figsize=(side, side - 0.4), dpi=120, layout="constrained")
    axes = figure.subplots()
    errors = np.ma.masked_where((counts == 0) | right, counts)
    # The upper half of the scale stays unused, so that black numbers are readable on the darkest cell.
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=2 * errors.filled(0).max() or 1)
    axes.imshow(np.ma.masked_where((counts == 0) | ~right, counts), cmap=ListedColormap([PALE]))
    for true, predicted in np.argwhere(counts):
        color, size = (GREY, 10) if true == predicted else ("black", 12)
        axes.text(predicted, true, str(counts[true, predicted]), ha="center", va="center", color=color, fontsize=size)
    # Thin lines between the cells, instead of a frame around them all.
    axes.spines[:].set_visible(False)
    between = np.arange(0.5, len(classes) - 1)
    axes.set(xlabel="taken for", ylabel=f"true {data.item}")
    axes.set_xticks(classes, data.classes, **_slant(data.classes))
    axes.set_yticks(classes, data.classes)
    axes.set_xticks(between, minor=True)
    axes.set_yticks(between, minor=True)
    axes.grid(which="minor", color=PALE)
    axes.tick_params(which="both", length=0)
    axes.set_title(f"{name}: {errors.filled(0).sum():,} of {len(labels):,} test {data.items} misclassified")
    return figure


def confidently_wrong(
    name: str, data: Data, labels: NDArray[np.uint8], probabilities: NDArray[np.float32], images: NDArray[np.uint8]
) -> Figure:
    """Draw the 24 mistakes of which the model was surest, the worst first; `images` are uint8 (n, height, width)."""
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:24]
    if not wrong.size:
        figure = Figure(figsize=(9, 1), dpi=120)
        figure.suptitle(f"{name}: all {len(labels):,} test {data.items} were classified correctly")
        return figure
    true, taken_for = ([data.classes[label] for label in each[worst]] for each in (labels, predicted))
    titles = [
        f"{fill(f'{one} taken for {other}', 20)}\n{sure:.1%} sure"
        for one, other, sure in zip(true, taken_for, confidence[worst], strict=True)
    ]
    figure = _gallery(images[worst], titles)
    which = f"the {worst.size} surest of {wrong.size:,}" if wrong.size > worst.size else f"all {wrong.size}"
    figure.suptitle(f"{name}: misclassified test {data.items}, the surest first ({which})")
    return figure


def calibration(name: str, data: Data, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Figure:
    """Draw accuracy against confidence, with 95% Wilson intervals, above the number of images in each bin."""
    bins = reliability_table(labels, probabilities)
    table = bins[bins["images"] > 0]
    figure = Figure(figsize=(7, 7), dpi=120, layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    accuracy = table["accuracy"].to_numpy()
    bars = _error_bars(table["correct"].to_numpy(), table["images"].to_numpy())
    above.plot([0, 1], [0, 1], linestyle="--", color=GREY, label="perfect calibration")
    above.errorbar(table["confidence"], accuracy, bars, fmt="o-", color=BLUE, capsize=3, label=f"{name}, 95% interval")
    above.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    error = f"expected calibration error {calibration_error(bins):.2%}"
    above.set_title(f"{name}: calibration on {len(labels):,} test {data.items}\n{error}")
    above.legend(loc="upper left", frameon=False)
    middles = (table["low"] + table["high"]) / 2
    counts = below.bar(middles, table["images"], width=0.9 * (table["high"] - table["low"]), color=BLUE)
    below.bar_label(counts, fmt="{:,.0f}", padding=2, fontsize=8)
    below.set_yscale("log")
    below.minorticks_off()
    below.set(xlabel="confidence (the largest of the probabilities)", ylabel="images", xlim=(0, 1.02))
    below.set_ylim(0.5, 5 * len(labels))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def recall(name: str, data: Data, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> Figure:
    """Draw the share of each class's images that was classified correctly, with 95% Wilson intervals."""
    classes = range(len(data.classes))
    images = np.bincount(labels, minlength=len(classes))
    correct = np.bincount(labels[probabilities.argmax(axis=1) == labels], minlength=len(classes))
    share = correct / np.maximum(images, 1)
    bars = _error_bars(correct, images)
    # The bars start where the lowest interval leaves some room: at 0 they would all look alike.
    start = max(0.0, np.floor(100 * (share - bars[0]).min() - 1) / 100)
    figure = Figure(figsize=(max(8, len(classes) / 2), 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    axes.bar(classes, share, yerr=bars, color=BLUE, ecolor="black", capsize=4)
    overall = correct.sum() / images.sum()
    axes.axhline(overall, linestyle="--", color=VERMILION)
    axes.set(ylim=(start, 1), xlabel=f"true {data.item}", ylabel=f"recall (the bars start at {start:.0%})")
    ticks = [f"{each}\n{of_each:.1%}" for each, of_each in zip(data.classes, share, strict=True)]
    axes.set_xticks(classes, ticks, **_slant(data.classes))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes.set_title(
        f"{name}: recall by {data.item} on the test split, with 95% intervals\ndashed: all {data.items}, {overall:.2%}"
    )
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def robustness(name: str, table: DataFrame) -> Figure:
    """Draw the accuracy under each corruption by its strength; `table` is what `robustness_table` returned."""
    figure = Figure(figsize=(8, 5), dpi=120, layout="constrained")
    axes = figure.subplots()
    for index, corruption in enumerate(CORRUPTIONS):
        style, label = ("o-", "s--")[index // 4], corruption.replace("_", " ")
        axes.plot(table["strength"], table[corruption], style, color=OKABE_ITO[index], label=label)
    axes.set(xlabel="strength of the corruption (0: the images as they are)", ylabel="validation accuracy")
    axes.set(xticks=table["strength"], ylim=(0, 1.02))
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=0))
    axes.set_title(f"{name}: accuracy on corrupted validation images, {table['mean'].iloc[1:].mean():.1%} on average")
    axes.legend(loc="lower left", frameon=False, ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _gallery(images: NDArray[np.uint8], titles: Sequence[str], columns: int = 6) -> Figure:
    """Draw images, uint8 (n, height, width), in rows, each in a frame below its title, and leave room above them all.

    As one image, because axes for each take three times as long.
    """
    count, height, width = images.shape
    rows, beside = -(-count // columns), -(-width // 10)
    inches, head, line = 9, 0.5, 0.17
    scale = columns * (width + beside) / inches  # pixels of the images per inch
    above = math.ceil(scale * line * (1.5 + max(title.count("\n") for title in titles)))
    tiles = np.pad(images, ((0, rows * columns - count), (above, 0), (0, beside)))
    sheet = np.block([list(row) for row in tiles.reshape(rows, columns, *tiles.shape[1:])])
    tall = sheet.shape[0] / scale
    figure = Figure(figsize=(inches, head + tall), dpi=120)
    axes = figure.add_axes((0.5 * beside / sheet.shape[1], 0.01, 1, tall / (head + tall)))
    axes.set_axis_off()
    axes.imshow(sheet, cmap="gray_r", vmin=0, vmax=255, aspect="auto")
    for place, title in enumerate(titles):
        row, column = divmod(place, columns)
        x, y = column * tiles.shape[2] - 0.5, row * tiles.shape[1] + above - 0.5
        axes.text(x + width / 2, y - 0.25 * line * scale, title, ha="center", va="bottom", fontsize=10)
        axes.add_patch(Rectangle((x, y), width, height, edgecolor=PALE, facecolor="none"))
    return figure


def _slant(classes: Sequence[str]) -> dict[str, Any]:
    """Return how to write the names of classes below an axis: long ones would run into each other."""
    return {} if max(map(len, classes)) <= 5 and len(classes) <= 10 else {"rotation": 45, "ha": "right"}


def _error_bars(correct: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far the Wilson interval of each share reaches below and above it, (2, n)."""
    intervals = np.array([wilson_interval(int(k), int(n)) for k, n in zip(correct, images, strict=True)])
    share = correct / np.maximum(images, 1)
    return np.abs(intervals.T - share)
