"""A test report is complete, the same for the same predictions, and never half written."""

from pathlib import Path

import numpy as np
import pytest
from fake_predictions import GOOD, PERFECT, Predictions
from numpy.typing import NDArray
from PIL import Image

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.evaluation.metrics import Metrics
from mnist_pipeline.evaluation.report import write_report
from mnist_pipeline.evaluation.robustness import robustness_table
from small_project import MNIST

FIGURES = {"calibration.png", "confidently_wrong.png", "confusion_matrix.png", "recall.png", "robustness.png"}


def report(folder: Path, case: Predictions) -> Metrics:
    test = Subset(case.images, case.labels)
    return write_report(folder, "cnn", MNIST, test, case.probabilities, robustness_table(uncertain, test, images=20))


def uncertain(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Read a 0 in every image."""
    return np.eye(10, dtype=np.float32)[np.zeros(len(images), int)]


def test_the_report_is_complete_and_can_be_read_back(tmp_path: Path) -> None:
    import pandas as pd

    folder = tmp_path / "reports" / "cnn"
    metrics = report(folder, GOOD)
    assert {path.name for path in folder.iterdir()} == {
        "calibration.csv", "confusion.csv", "robustness.csv", "figures",
    }  # fmt: skip
    assert metrics.accuracy == 0.94
    calibration = pd.read_csv(folder / "calibration.csv")
    assert [*calibration.columns] == ["confidence", "accuracy", "images"]
    assert calibration["images"].sum() == 500
    confusion = pd.read_csv(folder / "confusion.csv")
    assert [*confusion.columns] == ["actual", "predicted"]
    assert (confusion["actual"] != confusion["predicted"]).sum() == 30
    assert {path.name for path in (folder / "figures").iterdir()} == FIGURES
    for path in (folder / "figures").iterdir():
        with Image.open(path) as image:
            image.load()
            assert image.format == "PNG"
            assert 500 < image.width < 1500
            assert 300 < image.height < 1500
            assert len(image.getcolors(2**20) or []) > 10, "an empty figure"


def test_the_same_predictions_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        report(tmp_path / name, PERFECT)
    for path in (tmp_path / "one").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "two" / path.relative_to(tmp_path / "one")).read_bytes()


def test_a_refused_model_leaves_the_last_report_alone(tmp_path: Path) -> None:
    (tmp_path / "confusion.csv").write_text("the last report")
    nonsense = Predictions(GOOD.labels, GOOD.probabilities * np.float32(np.nan), GOOD.images)
    with pytest.raises(UserError):
        report(tmp_path, nonsense)
    assert [path.name for path in tmp_path.iterdir()] == ["confusion.csv"]
    assert (tmp_path / "confusion.csv").read_text() == "the last report"
