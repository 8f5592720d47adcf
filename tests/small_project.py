"""A small project that trains in a second, for tests that need a real one."""

import shutil
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from ruamel.yaml import YAML

from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.data.dataset import Subset, save_subset
from mnist_pipeline.data.idx import Part, images_name, labels_name
from mnist_pipeline.data.normalize import fit, save_statistics
from mnist_pipeline.data.params import Data, load_data
from mnist_pipeline.data.split import make_manifest
from mnist_pipeline.training.params import Params, load_params

ROOT = Path(__file__).parents[1]
"""The repository."""
MNIST: Data = load_data(find_project(ROOT))
"""What its params.yaml says of MNIST."""


def draw_digits(count: int, seed: int) -> Subset:
    """Return images that a small network can tell apart: a bright bar whose place is the label, and noise."""
    random = np.random.default_rng(seed)
    labels: NDArray[np.uint8] = (np.arange(count) % 10).astype(np.uint8)
    images = random.integers(0, 76, (count, 28, 28), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[4 + 2 * label : 6 + 2 * label, 4:24] += 128
    return Subset(images, labels)


def tiny_params(root: Path) -> Params:
    """Write the repository's params.yaml into `root`, shrunk to two models of a second each, and load it.

    Only the convolutional one augments its images: to compile that takes as long as all the rest of a training.
    """
    yaml = YAML()
    content = yaml.load(ROOT / "params.yaml")
    for name, model in content["models"].items():
        model["training"] |= {"epochs": 2, "batch_size": 50}
        model["training"]["optimizer"]["learning_rate"] = 0.01 if name == "mlp" else 0.003
    content["models"] = {name: content["models"][name] for name in content["train"]}
    content["models"]["mlp"]["architecture"]["hidden_units"] = [16, 16]
    content["models"]["mlp"]["augmentation"] |= dict.fromkeys(("rotation", "shift", "zoom", "shear"), 0)
    content["models"]["cnn"]["architecture"] |= {
        "blocks": [{"filters": 4, "kernel_size": 3, "convolutions": 1, "pooling": 4, "dropout": 0.0}],
        "dense_units": [],
    }
    yaml.dump(content, root / "params.yaml")
    return load_params(root / "params.yaml")


def make_project(folder: Path) -> Project:
    """Make a project, split but not trained: 500 train, 200 validation and 300 test images."""
    shutil.copy(ROOT / "dvc.yaml", folder)
    tiny_params(folder)
    project = find_project(folder)
    subsets = {
        name: draw_digits(count, seed)
        for seed, (name, count) in enumerate({"train": 500, "validation": 200, "test": 300}.items())
    }
    write_data(project, subsets)
    return project


def write_data(project: Project, subsets: dict[str, Subset]) -> None:
    """Write the subsets, their statistics, and the raw files that they could have come from."""
    for name, subset in subsets.items():
        save_subset(project.split / f"{name}.npz", subset)
    save_statistics(project.normalization, fit(subsets["train"].images))
    project.raw.mkdir(parents=True, exist_ok=True)
    parts: dict[Part, list[Subset]] = {"train": [subsets["train"], subsets["validation"]], "t10k": [subsets["test"]]}
    for part, members in parts.items():
        pixels = np.concatenate([subset.images for subset in members])
        labels = np.concatenate([subset.labels for subset in members])
        for name, array in ((images_name(part), pixels), (labels_name(part), labels)):
            header = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (project.raw / name).write_bytes(header + array.tobytes())
    whole = np.concatenate([subset.labels for subset in parts["train"]])
    validation = np.arange(len(subsets["train"]), len(whole))
    manifest = make_manifest(whole, validation, subsets["test"].labels)
    manifest.to_parquet(project.split / "manifest.parquet", index=False)
