"""IDX files are read exactly, and a damaged one is named and refused."""

from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.idx import Part, header, images_name, labels_name, parse_idx, read_part
from small_project import MNIST

ToIdx = Callable[[NDArray[np.uint8]], bytes]
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]
ANY_ARRAY = arrays(np.uint8, array_shapes(min_dims=1, max_dims=3, min_side=0, max_side=9))


@given(array=ANY_ARRAY)
def test_any_array_survives_the_round_trip(array: NDArray[np.uint8], to_idx: ToIdx) -> None:
    assert to_idx(array) == header(*array.shape) + array.tobytes()
    parsed = parse_idx(to_idx(array), array.ndim, "file")
    assert parsed.dtype == np.uint8
    np.testing.assert_array_equal(parsed, array)


@given(array=ANY_ARRAY, change=st.integers(-2000, 50).filter(bool))
def test_a_file_cut_short_or_with_a_tail_is_refused(array: NDArray[np.uint8], change: int, to_idx: ToIdx) -> None:
    content = to_idx(array)
    content = content + bytes(change) if change > 0 else content[:change]
    with pytest.raises(UserError, match="some-file"):
        parse_idx(content, array.ndim, "some-file")


@given(content=st.binary(max_size=40), dimensions=st.sampled_from([1, 3]))
def test_arbitrary_bytes_never_raise_anything_but_the_users_error(content: bytes, dimensions: int) -> None:
    magic = bytes((0, 0, 8, dimensions))
    for candidate in (content, magic + content):
        with suppress(UserError):
            assert parse_idx(candidate, dimensions, "some-file").ndim == dimensions


def test_reads_both_halves(project: Project, digits: Digits) -> None:
    halves: dict[Part, slice] = {"train": slice(0, 200), "t10k": slice(200, 300)}
    for part, some in halves.items():
        images, labels = read_part(project.raw, part, MNIST)
        np.testing.assert_array_equal(images, digits[0][some])
        np.testing.assert_array_equal(labels, digits[1][some])


IMAGES, LABELS = images_name("train"), labels_name("train")


@pytest.mark.parametrize(
    ("damaged", "content", "complaint"),
    [
        (IMAGES, np.zeros((0, 28, 28)), "no image"),
        (IMAGES, np.zeros((200, 784)), "magic number"),
        (IMAGES, b"\0\0\x0b\3" + bytes(12), "magic number"),
        (IMAGES, b"", "magic number"),
        (IMAGES, b"<html>", "magic number"),
        (IMAGES, b"\0\0\x08\3\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", "announces"),
        (IMAGES, b"\0\0\x08\3\x80\0\0\0\x80\0\0\0\0\0\0\4", "announces"),  # 2**64, which overflows to 0
        (LABELS, np.zeros(199), "199 labels for the 200 images"),
        (LABELS, np.zeros((200, 1)), "magic number"),
    ],
)
def test_a_wrong_file_is_named_with_what_is_wrong(
    project: Project, to_idx: ToIdx, damaged: str, content: bytes | NDArray[np.float64], complaint: str
) -> None:
    path = project.raw / damaged
    path.write_bytes(content if isinstance(content, bytes) else to_idx(content.astype(np.uint8)))
    with pytest.raises(UserError, match=complaint) as caught:
        read_part(project.raw, "train", MNIST)
    assert str(path) in str(caught.value)
    assert "mnist download" in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "content", "complaint"),
    [
        (IMAGES, np.zeros((200, 27, 28)), r"27x28 pixels .*, but data\.image_size in params\.yaml is \[28, 28\]"),
        (LABELS, np.arange(200) % 11, r"label 10, but data\.classes in params\.yaml names 10 classes, 0 to 9"),
        (LABELS, np.arange(200) % 8, r"no label of 8, 9: take that out of data\.classes"),
    ],
)
def test_files_that_are_not_as_the_parameters_say_are_named(
    project: Project, to_idx: ToIdx, wrong: str, content: NDArray[np.float64], complaint: str
) -> None:
    (project.raw / wrong).write_bytes(to_idx(content.astype(np.uint8)))
    with pytest.raises(UserError, match=f"{wrong} holds .*{complaint}"):
        read_part(project.raw, "train", MNIST)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"train-images.* is missing: run `mnist download`"):
        read_part(tmp_path, "train", MNIST)
