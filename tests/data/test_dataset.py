"""Subsets survive the disk, equal ones give equal files, and a damaged file is named with the way out."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.dataset import Subset, fingerprints, load_test, load_train, load_validation, save_subset

SUBSET = Subset(np.random.default_rng(0).integers(0, 256, (7, 28, 28), dtype=np.uint8), np.arange(7, dtype=np.uint8))


@pytest.mark.parametrize(
    ("load", "name"), [(load_train, "train"), (load_validation, "validation"), (load_test, "test")]
)
def test_each_loader_reads_its_own_file(load: Callable[[Path], Subset], name: str, tmp_path: Path) -> None:
    save_subset(tmp_path / f"{name}.npz", SUBSET)
    loaded = load(tmp_path)
    assert len(loaded) == 7
    assert (loaded.images.dtype, loaded.labels.dtype) == (np.uint8, np.uint8)
    np.testing.assert_array_equal(loaded.images, SUBSET.images)
    np.testing.assert_array_equal(loaded.labels, SUBSET.labels)


def test_equal_subsets_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        save_subset(tmp_path / name / "train.npz", SUBSET)
    first, second = ((tmp_path / name / "train.npz").read_bytes() for name in ("a", "b"))
    assert first == second


def test_a_missing_file_names_the_command_that_writes_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"validation\.npz is missing: run `mnist split`"):
        load_validation(tmp_path)


def _cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _flip_a_pixel(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[1000] ^= 255
    path.write_bytes(content)


def _text(path: Path) -> None:
    path.write_text("not an archive")


def _nothing(path: Path) -> None:
    path.write_bytes(b"")


def _plain_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, SUBSET.images)


def _no_labels(path: Path) -> None:
    np.savez(path, images=SUBSET.images)


def _objects(path: Path) -> None:
    np.savez(path, images=np.array([{}], dtype=object), labels=SUBSET.labels)


def _too_few_labels(path: Path) -> None:
    np.savez(path, images=SUBSET.images, labels=SUBSET.labels[:-1])


def _normalized_pixels(path: Path) -> None:
    np.savez(path, images=SUBSET.images.astype(np.float32), labels=SUBSET.labels)


@pytest.mark.parametrize(
    "damage",
    [
        _cut_short,
        _flip_a_pixel,
        _text,
        _nothing,
        _plain_array,
        _no_labels,
        _objects,
        _too_few_labels,
        _normalized_pixels,
    ],
)
def test_a_damaged_file_is_refused(damage: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "train.npz"
    save_subset(path, SUBSET)
    damage(path)
    with pytest.raises(UserError, match=r"train\.npz .*run `mnist split` again"):
        load_train(tmp_path)


def test_an_image_is_recognized_wherever_it_is() -> None:
    known = fingerprints(SUBSET.images)
    assert known.dtype == np.uint64
    assert len(np.unique(known)) == 7
    np.testing.assert_array_equal(fingerprints(SUBSET.images[::-1]), known[::-1])
    changed = SUBSET.images[:1].copy()
    changed[0, 0, 0] ^= 1
    assert not np.isin(fingerprints(changed), known).any()
