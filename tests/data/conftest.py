"""Small stand-ins for MNIST: all digits, random pixels, real IDX files."""

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mnist_pipeline.core.project import Project
from mnist_pipeline.data.idx import Part, images_name, labels_name
from small_project import ROOT

ToIdx = Callable[[NDArray[np.uint8]], bytes]
Digits = tuple[NDArray[np.uint8], NDArray[np.uint8]]


@pytest.fixture(scope="session")
def to_idx() -> ToIdx:
    """Write an array as the format's specification says, independently of how the project reads it."""

    def encode(array: NDArray[np.uint8]) -> bytes:
        return struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()

    return encode


@pytest.fixture(scope="session")
def digits() -> Digits:
    """300 random images, uint8 (300, 28, 28), with 30 labels of each class, uint8 (300,)."""
    random = np.random.default_rng(0)
    images = random.integers(0, 256, (300, 28, 28), dtype=np.uint8)
    images[:, :, :4] = 0  # columns without ink, as in MNIST
    return images, random.permutation(np.repeat(np.arange(10, dtype=np.uint8), 30))


@pytest.fixture
def project(tmp_path: Path, digits: Digits, to_idx: ToIdx) -> Project:
    """A project that has downloaded: 200 images to train on, 100 to test on."""
    project = Project(root=tmp_path, top=tmp_path, home=tmp_path)
    shutil.copy(ROOT / "params.yaml", project.params)
    project.raw.mkdir(parents=True)
    images, labels = digits
    halves: dict[Part, slice] = {"train": slice(0, 200), "t10k": slice(200, 300)}
    for part, some in halves.items():
        (project.raw / images_name(part)).write_bytes(to_idx(images[some]))
        (project.raw / labels_name(part)).write_bytes(to_idx(labels[some]))
    return project
