"""The contact sheet shows what training sees, and its command refuses what it cannot write."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.augmentation_sheet import DRAWS, GAP, contact_sheet, write_contact_sheet
from mnist_pipeline.training.params import Params
from small_project import MNIST, draw_digits


def test_a_sheet_has_a_row_per_digit_that_starts_with_the_original(params: Params) -> None:
    examples = draw_digits(40, 0)
    figure = contact_sheet("cnn", params.model("cnn"), MNIST, examples, seed=0)
    shown = np.asarray(figure.axes[0].images[0].get_array())
    assert shown.shape == (10 * (28 + GAP) - GAP, (1 + DRAWS) * (28 + GAP) - GAP)
    row = shown[:28]
    np.testing.assert_array_equal(row[:, :28], examples.images[0])
    cells = {row[:, start : start + 28].tobytes() for start in range(0, row.shape[1], 28 + GAP)}
    assert len(cells) == 1 + DRAWS
    assert "rotation 10°" in figure.get_suptitle()


def test_a_picture_is_written_and_the_seed_decides_it(project: Project, params: Params, tmp_path: Path) -> None:
    pictures = [tmp_path / "pictures" / f"{name}.png" for name in ("first", "same", "other")]
    for path, seed in zip(pictures, (0, 0, 1), strict=True):
        write_contact_sheet(project, params, "cnn", path, seed)
    first, same, other = (np.asarray(Image.open(path).convert("L")) for path in pictures)
    np.testing.assert_array_equal(first, same)
    assert not np.array_equal(first, other)
    assert first[0, 0] == 0


def test_a_name_that_cannot_be_written_and_a_model_without_augmentation_are_refused(
    project: Project, params: Params, tmp_path: Path
) -> None:
    for name in ("sheet.docx", "sheet"):
        with pytest.raises(UserError, match=r"matplotlib cannot write.*\.png"):
            write_contact_sheet(project, params, "cnn", tmp_path / name, 0)
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(UserError, match=r"folder\.png cannot be written"):
        write_contact_sheet(project, params, "cnn", tmp_path / "folder.png", 0)
    with pytest.raises(UserError, match=r"models\.mlp\.augmentation is off"):
        write_contact_sheet(project, params, "mlp", tmp_path / "sheet.png", 0)
