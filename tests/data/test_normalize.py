"""The statistics are exact, come from the train split alone, and survive the disk; the plot shows what schemes do."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import load_train
from mnist_pipeline.data.normalize import distribution, fit, load_statistics, save_statistics
from mnist_pipeline.data.params import Split
from mnist_pipeline.stages import normalize as stage
from mnist_pipeline.stages import split

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]


def test_statistics_are_exact_for_any_number_of_images() -> None:
    for count in (1, 999, 1_000, 2_001):
        images = np.random.default_rng(count).integers(0, 256, (count, 28, 28), dtype=np.uint8)
        statistics = fit(images)
        assert statistics.mean == pytest.approx(images.mean(), rel=1e-12)
        assert statistics.standard_deviation == pytest.approx(images.std(), rel=1e-12)


def test_blank_training_images_are_refused() -> None:
    with pytest.raises(UserError, match="blank"):
        fit(np.full((3, 28, 28), 7, np.uint8))


def test_they_survive_the_disk(digits: Digits, tmp_path: Path) -> None:
    save_statistics(tmp_path / "normalization.json", fit(digits[0]))
    assert load_statistics(tmp_path / "normalization.json") == fit(digits[0])


@pytest.mark.parametrize("content", ["{}", "[]", '{"mean": "x", "standard_deviation": 1}', "nonsense"])
def test_a_damaged_record_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "normalization.json").write_text(content)
    with pytest.raises(UserError, match=r"normalization\.json .*`mnist normalize` again"):
        load_statistics(tmp_path / "normalization.json")


def test_the_distribution_shows_the_range_of_each_scheme(digits: Digits) -> None:
    table = distribution(digits[0], fit(digits[0]))
    assert table.groupby("scheme")["share"].sum().tolist() == pytest.approx([1] * 5)
    ranges = {str(scheme): (rows["value"].min(), rows["value"].max()) for scheme, rows in table.groupby("scheme")}
    assert ranges["raw"] == pytest.approx((0, 255), abs=7)
    assert ranges["unit"] == pytest.approx((0, 1), abs=0.03)
    assert ranges["symmetric"] == pytest.approx((-1, 1), abs=0.06)
    standard = table[table["scheme"] == "standard"]
    assert (standard["value"] * standard["share"]).sum() == pytest.approx(0, abs=0.05)
    assert 0 <= ranges["l2"][0] < ranges["l2"][1] <= 1


def test_the_stage_looks_at_the_train_split_alone(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="run `mnist split`"):
        stage.run(project)
    split.run(project, Split(validation_size=50, seed=3))
    for other in ("validation", "test"):
        (project.split / f"{other}.npz").unlink()
    stage.run(project)
    assert load_statistics(project.normalization) == fit(load_train(project.split).images)
    assert set(pd.read_csv(project.pixel_distribution)["scheme"]) == {"raw", "unit", "standard", "symmetric", "l2"}
    assert "150 training images" in capsys.readouterr().out
