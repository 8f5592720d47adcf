"""One training of a peer, measured: `PYTHON one_peer.py JOB` prints a JSON line. `peers.py` calls it.

PYTHON is the peer's own and need not know this project: a peer imports NumPy, its library and `recipes.py` alone.
Imports and preparing the pixels are not timed, for anyone; building, compiling, training and validating are. The test
images are read when the training and the clock have ended.
"""

# pyright: reportMissingImports=false
# PyTorch is in no environment of ours.

import json
import math
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

Array = Any
"""NumPy arrays and tensors."""
Predict = Callable[[Array], Array]
"""From pixels, uint8 (n, 28, 28), to labels (n,)."""
Precision = Literal["float32", "bfloat16"]
MEAN, DEVIATION = 0.1307, 0.3081
"""Of the pixels, in PyTorch's example."""


class Clock:
    """When each epoch ended, its validation included, and what it came to."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.accuracies: list[float] = []
        self._started = time.perf_counter()

    def end_epoch(self, accuracy: float) -> None:
        """Note the end of an epoch, and the accuracy on validation."""
        self.seconds.append(round(time.perf_counter() - self._started, 3))
        self.accuracies.append(float(accuracy))


class Task:
    """What a peer is given."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.seed, self.root = job, job["seed"], Path(job["root"])
        self.images, self.labels = self.subset("train")
        self.validation, self.validation_labels = self.subset("validation")

    def subset(self, name: str) -> tuple[Array, Array]:
        """Read a subset of the pipeline's split: pixels, uint8 (n, 28, 28), and labels, uint8 (n,)."""
        with np.load(self.root / "data" / "split" / f"{name}.npz") as arrays:
            return arrays["images"][: self.job["images"]], arrays["labels"][: self.job["images"]]

    def epochs(self, published: int) -> int:
        """Return how many to train: as published, or fewer by `--epochs`."""
        return min(published, self.job["epochs"] or published)

    def accuracy(self, labels: Array) -> float:
        """Return the share of validation images that are read right."""
        return float((labels == self.validation_labels).mean())


def cnn(task: Task, precision: Precision = "float32") -> tuple[Clock, Predict]:
    """Train `cnn` of params.yaml by the pipeline's trainer, with its checkpoint."""
    from mnist_pipeline.core.project import find_project
    from mnist_pipeline.data.dataset import Subset
    from mnist_pipeline.data.normalize import load_statistics
    from mnist_pipeline.data.params import load_data
    from mnist_pipeline.training.checkpoint import Checkpoint
    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.params import load_params
    from mnist_pipeline.training.trainer import train

    project = find_project(task.root)
    params = load_params(project.params).model("cnn")
    training = params.training.model_copy(update={"epochs": task.epochs(params.training.epochs)})
    subsets = Subset(task.images, task.labels), Subset(task.validation, task.validation_labels)
    data = TrainingData(*subsets, load_statistics(project.normalization), load_data(project))
    device = choose_device("cpu", precision)
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        clock = Clock()
        model: Any = train(
            params.model_copy(update={"training": training}),
            data,
            seed=task.seed,
            device=device,
            on_epoch=lambda epoch: clock.end_epoch(epoch.val_accuracy),
            checkpoint=Checkpoint(Path(folder) / "checkpoint.npz", key=""),
        ).model
    return clock, lambda images: np.asarray(model.predict_on_batch(images)).argmax(axis=1)


def keras_convnet(task: Task) -> tuple[Clock, Predict]:
    """Train Keras' own example on the backend that `KERAS_BACKEND` names."""
    import keras

    from recipes import RECIPES

    recipe, quiet = RECIPES["keras_convnet"], {"verbose": 0}
    keras.utils.set_random_seed(task.seed)
    x, y = recipe.inputs(task.images), recipe.targets(task.labels)
    validation = recipe.inputs(task.validation), recipe.targets(task.validation_labels)
    clock = Clock()

    class EpochEnd(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            clock.end_epoch((logs or {})["val_accuracy"])

    model: Any = recipe.build()
    how = {"batch_size": recipe.fit["batch_size"], "epochs": task.epochs(15), "callbacks": [EpochEnd()], **quiet}
    model.fit(x, y, validation_data=validation, **how)
    return clock, lambda images: model.predict(recipe.inputs(images), **quiet).argmax(axis=1)


def torch_cnn(task: Task, precision: Precision = "float32") -> tuple[Clock, Predict]:
    """Train `cnn` with the recipe of params.yaml, as a user of PyTorch would write it: eager, in channels last."""
    import torch
    from torch import nn, optim
    from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

    torch.manual_seed(task.seed)
    images, validation, batch, epochs = _pixels(task.images), _pixels(task.validation), 256, task.epochs(12)
    labels = torch.from_numpy(task.labels).long()
    clock, best = Clock(), dict[str, Any]()
    features = nn.Conv2d(1, 24, 5), nn.MaxPool2d(2), nn.ReLU(), nn.Conv2d(24, 32, 3), nn.MaxPool2d(2), nn.ReLU()
    classes = nn.Flatten(), nn.Dropout(0.3), nn.Linear(800, 256), nn.ReLU(), nn.Dropout(0.3), nn.Linear(256, 10)
    net = nn.Sequential(*features, *classes).to(memory_format=torch.channels_last)
    mixed = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")
    average = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.995))
    optimizer = optim.AdamW(net.parameters(), 0.004, betas=(0.7, 0.99), eps=1e-7, weight_decay=0.05, fused=True)
    steps = epochs * (len(labels) // batch)
    schedule = optim.lr_scheduler.OneCycleLR(optimizer, 0.004, steps, pct_start=0.3, cycle_momentum=False)

    def read(pixels: Array) -> Array:
        with mixed:
            return _read(average, pixels)

    for _ in range(epochs):
        for x, y in _batches(images, labels, batch):
            optimizer.zero_grad()
            distorted = _distort(x)
            with mixed:
                loss = nn.functional.cross_entropy(net(distorted), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            average.update_parameters(net)
        accuracy = task.accuracy(read(validation))
        if accuracy > max(clock.accuracies, default=-1.0):
            best = {name: tensor.clone() for name, tensor in average.state_dict().items()}
        clock.end_epoch(accuracy)
    average.load_state_dict(best)
    return clock, lambda images: read(_pixels(images))


def torch_example(task: Task) -> tuple[Clock, Predict]:
    """Train the network and recipe of PyTorch's own example (pytorch/examples, mnist/main.py, its defaults).

    Two liberties, both in its favour: the pixels are prepared once, and the batches shuffled, as there on a GPU.
    """
    import torch
    from torch import nn, optim

    torch.manual_seed(task.seed)
    images, validation = ((_pixels(one) - MEAN) / DEVIATION for one in (task.images, task.validation))
    labels = torch.from_numpy(task.labels).long()
    clock = Clock()
    features = nn.Conv2d(1, 32, 3), nn.ReLU(), nn.Conv2d(32, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout(0.25)
    classes = nn.Flatten(), nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(dim=1)
    net = nn.Sequential(*features, *classes)
    optimizer = optim.Adadelta(net.parameters(), lr=1.0)
    schedule = optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.7)
    for _ in range(task.epochs(14)):
        for x, y in _batches(images, labels, 64):
            optimizer.zero_grad()
            nn.functional.nll_loss(net(x), y).backward()
            optimizer.step()
        schedule.step()
        clock.end_epoch(task.accuracy(_read(net, validation)))
    return clock, lambda images: _read(net, (_pixels(images) - MEAN) / DEVIATION)


def _pixels(images: Array) -> Array:
    import torch

    return torch.from_numpy(images)[:, None] / 255


def _batches(images: Array, labels: Array, size: int) -> Iterator[tuple[Array, Array]]:
    import torch

    for chosen in torch.randperm(len(labels)).split(size):
        if len(chosen) == size:
            yield images[chosen], labels[chosen]


def _distort(images: Array) -> Array:
    """Rotate, zoom, shear and shift each image by a draw of its own, as `augmentation` of `cnn` says."""
    import torch
    from torch.nn import functional

    draws = torch.rand(6, len(images)) * 2 - 1
    limits = torch.tensor([math.radians(10), math.radians(5), 0.1, 0.1, 2.5 / 14, 2.5 / 14])
    turn, shear, wide, high, right, down = draws * limits[:, None]
    along = torch.stack([turn.sin() / (1 + high), turn.cos() / (1 + high), down])
    across = torch.stack([turn.cos() / (1 + wide), -turn.sin() / (1 + wide), right])
    maps = torch.stack([across - shear.tan() * along, along]).permute(2, 0, 1)
    grid = functional.affine_grid(maps, list(images.shape), align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


def _read(net: Any, images: Array) -> Array:
    import torch

    net.eval()
    with torch.inference_mode():
        labels = torch.cat([net(batch).argmax(dim=1) for batch in images.split(1_000)])
    net.train()
    return labels.numpy()


def svc(task: Task) -> tuple[Clock, Predict]:
    """Fit scikit-learn's support-vector classifier on raw pixels; its values were chosen on validation."""
    from sklearn.svm import SVC

    def inputs(images: Array) -> Array:
        return images.reshape(len(images), -1).astype("float32") / 255

    x, validation, clock = inputs(task.images), inputs(task.validation), Clock()
    untyped = cast("Any", SVC)  # its annotations know of no number as gamma
    classifier = untyped(C=10, gamma=0.02, cache_size=2_000).fit(x, task.labels)
    clock.end_epoch(task.accuracy(classifier.predict(validation)))
    return clock, lambda images: classifier.predict(inputs(images))


PEERS: dict[str, tuple[Callable[[Task], tuple[Clock, Predict]], str]] = {
    "cnn": (cnn, "tensorflow"),
    "cnn_bfloat16": (partial(cnn, precision="bfloat16"), "tensorflow"),
    "keras_convnet": (keras_convnet, "tensorflow"),
    "torch_cnn": (torch_cnn, "torch"),
    "torch_cnn_bfloat16": (partial(torch_cnn, precision="bfloat16"), "torch"),
    "torch_example": (torch_example, "torch"),
    "keras_convnet_jax": (keras_convnet, "jax"),
    "svc": (svc, "scikit-learn"),
}
"""What trains each peer, and the package that computes; in the order of a round."""


def main() -> None:
    """Measure the job given as JSON."""
    task = Task(json.loads(sys.argv[1]))
    train, package = PEERS[task.job["contestant"]]
    clock, predict = train(task)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    images, labels = task.subset("test")
    record = {
        "seconds": clock.seconds,
        "validation": clock.accuracies,
        "validation_accuracy": task.accuracy(predict(task.validation)),
        "test_accuracy": float((predict(images) == labels).mean()),
        "peak_memory_bytes": peak,
        "version": f"{package} {version(package)}",
    }
    sys.stdout.write(json.dumps(record))


if __name__ == "__main__":
    main()
