"""Raw pixels of a subset, found through the manifest, and recognized again."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mnist_pipeline.data.dataset import load_validation
from mnist_pipeline.data.originals import fingerprints, load_originals
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from small_project import make_project


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


def test_the_originals_are_those_of_the_subset_in_its_order(project: Project) -> None:
    validation = load_validation(project.split)
    pixels, labels = load_originals(project.raw, project.split, "validation")
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(labels, validation.labels)
    np.testing.assert_allclose(pixels / 255, validation.images, atol=0.5 / 255)


def test_the_test_images_are_not_opened(project: Project) -> None:
    for path in project.raw.glob("t10k*"):
        path.unlink()
    assert len(load_originals(project.raw, project.split, "train")[1]) == 500


def test_a_manifest_of_other_files_is_refused(project: Project) -> None:
    path = project.split / "manifest.parquet"
    manifest = pd.read_parquet(path)
    manifest["label"] = (manifest["label"] + 1) % 10
    manifest.to_parquet(path, index=False)
    with pytest.raises(UserError, match=r"manifest\.parquet does not describe the images.*dvc repro"):
        load_originals(project.raw, project.split, "train")
    path.unlink()
    with pytest.raises(UserError, match=r"manifest\.parquet is missing: run `mnist split`"):
        load_originals(project.raw, project.split, "train")


def test_an_image_is_recognized_wherever_it_is(project: Project) -> None:
    pixels, _ = load_originals(project.raw, project.split, "train")
    known = fingerprints(pixels)
    assert known.dtype == np.uint64
    assert len(np.unique(known)) == len(pixels)
    np.testing.assert_array_equal(fingerprints(pixels[::-1]), known[::-1])
    changed = pixels[:1].copy()
    changed[0, 0, 0] ^= 1
    assert not np.isin(fingerprints(changed), known).any()
