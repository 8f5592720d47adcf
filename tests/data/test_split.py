"""Train and validation are disjoint, complete, stratified and reproducible; repeated images are counted."""

import hashlib
import shutil
from collections.abc import Callable
from typing import IO, Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import Subset, load_test, load_train, load_validation
from mnist_pipeline.data.idx import images_name, labels_name
from mnist_pipeline.data.params import Split
from mnist_pipeline.data.split import count_duplicates, split_indices
from mnist_pipeline.stages import split as stage

Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]
ToIdx = Callable[[NDArray[np.uint8]], bytes]

CLASSES = [str(digit) for digit in range(10)]
# As uneven as MNIST, a hundredth of it.
LABELS = np.random.default_rng(0).permutation(
    np.repeat(np.arange(10, dtype=np.uint8), [59, 67, 60, 61, 58, 54, 59, 63, 59, 60])
)


@settings(deadline=None)
@given(size=st.integers(12, 588), seed=st.integers(0, 2**32 - 1))
def test_every_split_is_disjoint_complete_and_stratified(size: int, seed: int) -> None:
    train, validation = split_indices(LABELS, size, seed, CLASSES)
    assert len(validation) == size
    assert sorted([*train, *validation]) == list(range(600))
    assert np.all(np.diff(train) > 0)
    assert np.all(np.diff(validation) > 0)
    for part in (train, validation):
        exact = np.bincount(LABELS) * len(part) / len(LABELS)
        assert np.all(np.abs(np.bincount(LABELS[part], minlength=10) - exact) < 1)


def test_the_seed_decides() -> None:
    first, again, other = (split_indices(LABELS, 60, seed, CLASSES)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other


@pytest.mark.parametrize("size", [0, 5, 595, 600, 1000])
def test_a_size_that_leaves_a_class_out_is_refused(size: int) -> None:
    with pytest.raises(UserError, match=rf"split\.validation_size \(found {size}\)"):
        split_indices(LABELS, size, 0, CLASSES)


def test_a_class_too_rare_to_be_in_both_is_refused() -> None:
    labels = np.append(LABELS[LABELS < 9], np.array([9, 9], np.uint8))
    with pytest.raises(UserError, match=r"leaves a class out .*\(the rarest, 9, has 2\).*, such as 45\."):
        split_indices(labels, 30, 0, CLASSES)
    with pytest.raises(UserError, match=r"The class 9 has 1 of the 541 images to train on, but needs 2"):
        split_indices(labels[:-1], 30, 0, CLASSES)


def test_repeated_images_are_counted_within_and_across() -> None:
    def subset(*shades: int) -> Subset:
        images = np.stack([np.full((28, 28), shade, np.uint8) for shade in shades])
        return Subset(images, np.zeros(len(shades), np.uint8))

    counted = count_duplicates(
        {"train": subset(1, 2, 2, 2, 3), "validation": subset(2, 4, 5), "test": subset(3, 3, 5, 6)}
    )
    assert counted == {
        "train": 2,
        "validation": 0,
        "test": 1,
        "validation_in_train": 1,
        "test_in_train": 2,
        "test_in_validation": 1,
    }


PARAMS = Split(validation_size=50, seed=3)
"""Of the 200 training images of `project`."""


def _digests(project: Project) -> dict[str, str]:
    files = [path for folder in (project.split, project.reports) for path in folder.iterdir()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(files)}


def test_the_stage_writes_raw_pixels_as_its_manifest_says(
    project: Project, digits: Digits, capsys: pytest.CaptureFixture[str]
) -> None:
    stage.run(project, PARAMS)
    manifest = pd.read_parquet(project.split / "manifest.parquet")
    assert len(manifest) == 300
    parts = {"train": load_train, "validation": load_validation, "test": load_test}
    for name, load in parts.items():
        subset, rows = load(project.split), manifest[manifest["subset"] == name]
        first = 200 if name == "test" else 0
        assert set(rows["source"]) == {f"{'t10k' if name == 'test' else 'train'}-images-idx3-ubyte"}
        np.testing.assert_array_equal(subset.labels, rows["label"])
        np.testing.assert_array_equal(subset.images, digits[0][first + rows["index"].to_numpy()])
    counts = pd.read_csv(project.class_counts)
    assert list(counts.columns) == ["subset", "label", "images"]
    assert counts.groupby("subset")["images"].sum().to_dict() == {"train": 150, "validation": 50, "test": 100}
    summary = read_json(project.split_summary, dict[str, Any], "")
    assert summary["images"] == {"train": 150, "validation": 50, "test": 100}
    assert "0 pixel-identical across subsets" in capsys.readouterr().out


def test_two_runs_write_the_same_bytes(project: Project) -> None:
    stage.run(project, PARAMS)
    first = _digests(project)
    assert len(first) == 6
    shutil.rmtree(project.split)
    shutil.rmtree(project.reports)
    stage.run(project, PARAMS)
    assert _digests(project) == first


def test_the_choice_does_not_depend_on_the_test_images(project: Project, to_idx: ToIdx) -> None:
    stage.run(project, PARAMS)
    before = _digests(project)
    (project.raw / images_name("t10k")).write_bytes(to_idx(np.zeros((10, 28, 28), np.uint8)))
    (project.raw / labels_name("t10k")).write_bytes(to_idx(np.arange(10, dtype=np.uint8)))
    stage.run(project, PARAMS)
    after = _digests(project)
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"test.npz", "manifest.parquet", "class_counts.csv", "split.json"}


def test_the_stage_reports_images_shared_by_subsets(
    project: Project, digits: Digits, to_idx: ToIdx, capsys: pytest.CaptureFixture[str]
) -> None:
    (project.raw / images_name("t10k")).write_bytes(to_idx(digits[0][:200]))
    (project.raw / labels_name("t10k")).write_bytes(to_idx(digits[1][:200]))
    stage.run(project, PARAMS)
    assert read_json(project.split_summary, dict[str, Any], "")["duplicates"]["test_in_train"] == 150
    assert "200 pixel-identical across subsets, 0 within" in capsys.readouterr().out


def test_an_impossible_size_leaves_the_last_split_alone(project: Project) -> None:
    stage.run(project, PARAMS)
    before = _digests(project)
    with pytest.raises(UserError, match=r"split\.validation_size \(found 199\)"):
        stage.run(project, Split(validation_size=199, seed=0))
    assert _digests(project) == before


def test_a_failing_disk_leaves_no_half_written_file(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(file: IO[bytes], *_: object, **__: object) -> None:
        file.write(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", full_disk)
    with pytest.raises(OSError, match="No space"):
        stage.run(project, PARAMS)
    assert list(project.split.iterdir()) == []


def test_a_damaged_raw_file_is_named_and_nothing_is_written(project: Project) -> None:
    (project.raw / labels_name("t10k")).write_bytes(b"cut")
    with pytest.raises(UserError, match="t10k-labels"):
        stage.run(project, PARAMS)
    assert not project.split.exists()
    (project.raw / labels_name("t10k")).unlink()
    with pytest.raises(UserError, match="run `mnist download`"):
        stage.run(project, PARAMS)
