"""A model's test report: everything under `reports/<name>/`."""

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.data.params import Data
from mnist_pipeline.evaluation import figures
from mnist_pipeline.evaluation.metrics import Metrics, evaluate_predictions, reliability_table


def write_report(
    folder: Path, name: str, data: Data, test: Subset, probabilities: NDArray[np.float32], robustness: pd.DataFrame
) -> Metrics:
    """Judge a model's predictions on the test split, float32 (n, classes), and write the report into `folder`.

    Writes `confusion.csv`, `calibration.csv` and `robustness.csv` (for `dvc plots`) and the PNG files in `figures/`;
    `name` is the model's, for their titles, `data` names the classes, `robustness` is what `robustness_table` returned.
    A UserError says that training diverged.
    """
    answers = test.labels, probabilities
    metrics, classes = evaluate_predictions(*answers, data.classes), np.array(data.classes)
    bins = reliability_table(*answers).query("images > 0")
    tables = {
        "confusion": pd.DataFrame({"actual": classes[test.labels], "predicted": classes[probabilities.argmax(axis=1)]}),
        "calibration": bins[["confidence", "accuracy", "images"]].round(4),
        "robustness": robustness,
    }
    for stem, table in tables.items():
        with atomic_path(folder / f"{stem}.csv") as path:
            table.to_csv(path, index=False)
    drawings = {
        "confusion_matrix": figures.confusion_matrix(name, data, *answers),
        "confidently_wrong": figures.confidently_wrong(name, data, *answers, test.images),
        "calibration": figures.calibration(name, data, *answers),
        "recall": figures.recall(name, data, *answers),
        "robustness": figures.robustness(name, robustness),
    }
    for stem, figure in drawings.items():
        with atomic_path(folder / "figures" / f"{stem}.png") as path:
            figure.savefig(path)
    return metrics
