"""The figures of a test report, drawn without matplotlib's global state.

`labels` are the true digits, uint8 (n,); `probabilities` the model's, float32 (n, 10). The colours are Okabe
and Ito's, which colour-blind readers can tell apart.
"""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.evaluation.metrics import DIGITS, calibration_error, reliability_table, wilson_interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BLUE, VERMILION, GREY, PALE = "#0072B2", "#D55E00", "#666666", "#EEEEEE"


def confusion_matrix(name: str, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> "Figure":
    """Draw the counts of true against predicted digits: the few errors in colour, the many right in grey."""
    from sklearn.metrics import confusion_matrix as count

    counts = np.asarray(count(labels, probabilities.argmax(axis=1), labels=DIGITS))
    wrong = int(counts.sum() - counts.trace())
    figure = _figure(width=7, height=6.6)
    axes = figure.subplots()
    errors = np.ma.masked_where((counts == 0) | np.eye(len(DIGITS), dtype=bool), counts)
    # The upper half of the scale stays unused, so that black numbers are readable on the darkest cell.
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=2 * errors.filled(0).max() or 1)
    for true, predicted in np.argwhere(counts):
        _count_cell(axes, int(true), int(predicted), int(counts[true, predicted]))
    axes.set_xticks(DIGITS)
    axes.set_yticks(DIGITS)
    axes.set(xlabel="read as", ylabel="true digit")
    axes.set_title(f"{name}: {wrong:,} of {len(labels):,} test digits misread")
    # Thin lines between the cells, instead of a frame around them all.
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(0.5, len(DIGITS) - 1), minor=True)
    axes.set_yticks(np.arange(0.5, len(DIGITS) - 1), minor=True)
    axes.grid(which="minor", color=PALE)
    axes.tick_params(which="both", length=0)
    return figure


def _count_cell(axes: "Axes", true: int, predicted: int, count: int) -> None:
    from matplotlib.patches import Rectangle

    is_right = true == predicted
    if is_right:
        axes.add_patch(Rectangle((predicted - 0.5, true - 0.5), 1, 1, color=PALE, linewidth=0))
    color, size = (GREY, 10) if is_right else ("black", 12)
    axes.text(predicted, true, str(count), ha="center", va="center", color=color, fontsize=size)


def confidently_wrong(
    name: str,
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    images: NDArray[np.float32],
    *,
    rows: int = 4,
    columns: int = 6,
) -> "Figure":
    """Draw the misread digits of which the model was surest, the worst first.

    Each of the `images`, float32 (n, 28, 28), is scaled for itself, so that any normalization looks the same.
    """
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][: rows * columns]
    if not worst.size:
        return _no_errors(name, len(labels))
    rows = -(-worst.size // columns)
    figure = _figure(width=9, height=0.9 + 1.8 * rows)
    which = f"the {worst.size} surest of {wrong.size:,}" if wrong.size > worst.size else f"all {wrong.size}"
    figure.suptitle(f"{name}: misread test digits, the surest first ({which})")
    for place, index in enumerate(worst):
        axes = figure.add_subplot(rows, columns, place + 1)
        axes.imshow(images[index], cmap="gray_r")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color(PALE)
        title = f"{labels[index]} read as {predicted[index]}\n{confidence[index]:.1%} sure"
        axes.set_title(title, fontsize=10)
    return figure


def _no_errors(name: str, images: int) -> "Figure":
    figure = _figure(width=9, height=2.5)
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_title(f"{name}: misread test digits")
    axes.text(0.5, 0.5, f"None: all {images:,} were read correctly.", ha="center", va="center", fontsize=14)
    return figure


def calibration(name: str, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> "Figure":
    """Draw accuracy against confidence, with 95% Wilson intervals, above the number of images in each bin."""
    table = reliability_table(labels, probabilities)
    error = calibration_error(table)
    table = table[table["images"] > 0]
    figure = _figure(width=7, height=7)
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    accuracy = table["accuracy"].to_numpy()
    bars = _error_bars(table["correct"].to_numpy(), table["images"].to_numpy())
    above.plot([0, 1], [0, 1], linestyle="--", color=GREY, label="perfect calibration")
    above.errorbar(table["confidence"], accuracy, bars, fmt="o-", color=BLUE, capsize=3, label=f"{name}, 95% interval")
    above.set(ylabel="accuracy", ylim=(-0.02, 1.02))
    above.set_title(f"{name}: calibration on {len(labels):,} test digits\nexpected calibration error {error:.2%}")
    above.legend(loc="upper left", frameon=False)
    middles = (table["low"] + table["high"]) / 2
    counts = below.bar(middles, table["images"], width=0.9 * (table["high"] - table["low"]), color=BLUE)
    below.bar_label(counts, fmt="{:,.0f}", padding=2, fontsize=8)
    below.set_yscale("log")
    below.set(xlabel="confidence (the largest of the ten probabilities)", ylabel="images", xlim=(0, 1.02))
    below.set_ylim(0.5, 5 * len(labels))
    for axes in (above, below):
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def recall(name: str, labels: NDArray[np.uint8], probabilities: NDArray[np.float32]) -> "Figure":
    """Draw the share of each digit's images that was read correctly, with 95% Wilson intervals."""
    from matplotlib.ticker import PercentFormatter

    images = np.bincount(labels, minlength=len(DIGITS))
    correct = np.bincount(labels[probabilities.argmax(axis=1) == labels], minlength=len(DIGITS))
    share = correct / np.maximum(images, 1)
    bars = _error_bars(correct, images)
    # The bars start where the lowest interval leaves some room: at 0 they would all look alike.
    start = max(0.0, np.floor(100 * (share - bars[0]).min() - 1) / 100)
    figure = _figure(width=8, height=5)
    axes = figure.subplots()
    axes.bar(DIGITS, share, yerr=bars, color=BLUE, ecolor="black", capsize=4)
    overall = correct.sum() / images.sum()
    axes.axhline(overall, linestyle="--", color=VERMILION)
    axes.set(ylim=(start, 1), xlabel="true digit", ylabel=f"read correctly (the bars start at {start:.0%})")
    axes.set_xticks(DIGITS, [f"{digit}\n{share[digit]:.1%}" for digit in DIGITS])
    axes.yaxis.set_major_formatter(PercentFormatter(xmax=1, decimals=1))
    axes.set_title(f"{name}: recall of each test digit, with 95% intervals\ndashed: all digits, {overall:.2%}")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _figure(width: float, height: float) -> "Figure":
    """Make an empty figure; the sizes are inches."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=120, layout="constrained")


def _error_bars(correct: NDArray[np.int64], images: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return how far the Wilson interval of each share reaches below and above it, (2, n)."""
    intervals = np.array([wilson_interval(int(k), int(n)) for k, n in zip(correct, images, strict=True)])
    share = correct / np.maximum(images, 1)
    return np.abs(intervals.T - share)
