"""A model's test report: everything under `reports/<name>/`."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.evaluation import figures
from mnist_pipeline.evaluation.metrics import (
    Metrics,
    confusion_table,
    evaluate_predictions,
    predictions_table,
)
from mnist_pipeline.files import atomic_path, write_json


def write_report(
    folder: Path,
    name: str,
    labels: NDArray[np.uint8],
    probabilities: NDArray[np.float32],
    images: NDArray[np.float32],
) -> Metrics:
    """Judge a model's predictions and write the report into `folder`.

    Writes `metrics.json`, `predictions.parquet`, `confusion.csv` (for `dvc plots`) and the PNG files in
    `figures/`.

    Args:
        folder: where the report goes; made if missing.
        name: the model's, for the titles.
        labels: the true digits, uint8 (n,).
        probabilities: the model's, float32 (n, 10).
        images: what it saw, float32 (n, 28, 28), on any scale.

    Raises:
        UserError: the probabilities are not numbers, because training diverged.
    """
    metrics = evaluate_predictions(labels, probabilities)
    write_json(folder / "metrics.json", asdict(metrics))
    with atomic_path(folder / "predictions.parquet") as path:
        predictions_table(labels, probabilities).to_parquet(path, index=False)
    with atomic_path(folder / "confusion.csv") as path:
        confusion_table(labels, probabilities).to_csv(path, index=False)
    drawings = {
        "confusion_matrix": figures.confusion_matrix(name, labels, probabilities),
        "confidently_wrong": figures.confidently_wrong(name, labels, probabilities, images),
        "calibration": figures.calibration(name, labels, probabilities),
        "recall": figures.recall(name, labels, probabilities),
    }
    for stem, figure in drawings.items():
        with atomic_path(folder / "figures" / f"{stem}.png") as path:
            figure.savefig(path)
    return metrics
