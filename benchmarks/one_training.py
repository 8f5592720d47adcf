"""One training, measured: `python one_training.py JOB` prints a JSON line. `time_to_accuracy.py` calls it.

Imports and reading the data are not timed, for anyone; building, compiling, training and validating are. The test
images are read when the training and the clock have ended.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import machine, versions
from contestants import EXAMPLES, Job, our_model, shorten
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import console, quiet_native_logs
from mnist_pipeline.data.dataset import load_test, load_train, load_validation
from mnist_pipeline.data.idx import read_part
from mnist_pipeline.data.normalize import load_normalization
from mnist_pipeline.params import load_params
from mnist_pipeline.project import Project
from mnist_pipeline.training.checkpoint import Checkpoint, State

if TYPE_CHECKING:
    import keras

Weights = Sequence[Any]


class Trace:
    """The clock of one training, and its weights after each epoch; taking the weights stops the clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Wall time from the start to the end of each epoch."""
        self.weights: list[Weights] = []
        self._started, self._started_cpu = time.perf_counter(), time.process_time()
        self._paused = self._paused_cpu = 0.0

    def elapsed(self) -> tuple[float, float]:
        """Return wall and CPU seconds (of all threads) since the start, without the pauses."""
        wall, cpu = time.perf_counter() - self._started, time.process_time() - self._started_cpu
        return wall - self._paused, cpu - self._paused_cpu

    def add(self, take: Callable[[], Weights]) -> None:
        """Note the end of an epoch; `take` returns the weights that the training would hand over if it ended here."""
        self.seconds.append(self.elapsed()[0])
        with self._pause():
            self.weights.append(take())

    @contextmanager
    def _pause(self) -> Generator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self._paused += time.perf_counter() - wall
        self._paused_cpu += time.process_time() - cpu


@dataclass(frozen=True)
class RecordingCheckpoint(Checkpoint):
    """The pipeline's checkpoint, whose cost counts as it does there, that also keeps each epoch's weights."""

    trace: Trace = field(kw_only=True)

    def save(self, state: State) -> None:
        """Save as the pipeline does, then keep the best weights so far: those the trainer would hand over."""
        super().save(state)
        self.trace.add(lambda: state.best)


@dataclass(frozen=True)
class Trained:
    """What a contestant leaves behind."""

    model: "keras.Model"
    """Takes what `test` returns; gives one score per class."""
    trace: Trace
    elapsed: tuple[float, float]
    """Wall and CPU seconds of the whole fit."""
    peak_memory: float
    """Bytes, most ever resident, when the fit ended."""
    images: int
    """Trained on in each epoch."""
    validation_accuracy: float | None
    """Of the final weights, on the contestant's own validation images; None if it has none."""
    test: Callable[[], tuple[Any, Any]]
    """Reads the test inputs and labels."""


def train_ours(job: Job, project: Project) -> Trained:
    """Train with the pipeline's trainer, on the pipeline's splits."""
    from mnist_pipeline.training.batches import steps_per_epoch
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.trainer import Trainer

    params = load_params(Path(job.params))
    model = shorten(our_model(params, job.contestant), job.epochs)
    black = load_normalization(project.normalization).black
    data, validation = load_train(project.split), load_validation(project.split)
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        trace = Trace()
        checkpoint = RecordingCheckpoint(Path(folder) / "checkpoint.npz", key="", trace=trace)
        trainer = Trainer(data, validation, device=choose_device(params.device), black=black)
        result = trainer.train(model, seed=job.seed, checkpoint=checkpoint)
        elapsed, peak = trace.elapsed(), _peak_memory()

    def test() -> tuple[Any, Any]:
        subset = load_test(project.split)
        return subset.images, subset.labels

    images = steps_per_epoch(model, len(data)) * model.training.batch_size
    return Trained(result.network, trace, elapsed, peak, images, result.best.validation_accuracy, test)


def train_example(job: Job, project: Project) -> Trained:
    """Train a copied recipe, on the full training file."""
    import keras

    from recipes import RECIPES

    recipe = RECIPES[job.contestant]
    images, labels = read_part(project.raw, "train")
    x_train, y_train = recipe.inputs(images), recipe.targets(labels)
    keras.utils.set_random_seed(job.seed)
    trace = Trace()

    class TakeWeights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            trace.add(self.model.get_weights)

    model, history = recipe.train(x_train, y_train, job.epochs or EXAMPLES[job.contestant], [TakeWeights()])
    elapsed, peak = trace.elapsed(), _peak_memory()

    def test() -> tuple[Any, Any]:
        test_images, test_labels = read_part(project.raw, "t10k")
        return recipe.inputs(test_images), test_labels

    validation = history.history.get("val_accuracy", [None])[-1]
    count = round(len(images) * (1 - recipe.validation_split))
    return Trained(model, trace, elapsed, peak, count, validation, test)


def measure(job: Job) -> dict[str, Any]:
    """Train and test one contestant; return the record of it."""
    project = Project(root=Path(job.root), home=Path(job.root))
    with quiet_native_logs():
        import_module("keras")  # and with it TensorFlow, before the clock starts
        import_module("tensorflow").config.list_physical_devices("GPU")  # complains once where there is none
    trained = (train_example if job.contestant in EXAMPLES else train_ours)(job, project)
    accuracies = _test_accuracies(trained)
    return {
        "contestant": job.contestant,
        "seed": job.seed,
        "key": job.key,
        "shortened": job.epochs is not None,
        "epochs": len(accuracies),
        "images_per_epoch": trained.images,
        "parameters": trained.model.count_params(),
        "fit_seconds": round(trained.elapsed[0], 3),
        "cpu_seconds": round(trained.elapsed[1], 3),
        "peak_memory_bytes": trained.peak_memory,
        "validation_accuracy": trained.validation_accuracy,
        "seconds_after_epoch": [round(seconds, 3) for seconds in trained.trace.seconds],
        "test_accuracy_after_epoch": accuracies,
        "machine": machine(),
        "versions": versions(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _test_accuracies(trained: Trained) -> list[float]:
    """Return the share of test images read right after each epoch."""
    inputs, labels = trained.test()
    accuracies: list[float] = []
    before: Weights | None = None
    for weights in trained.trace.weights:
        if weights is before:  # our trainer keeps the best: not every epoch has new weights to hand over
            accuracies.append(accuracies[-1])
            continue
        before = weights
        trained.model.set_weights(weights)
        scores: Any = trained.model.predict(inputs, batch_size=1_000, verbose=0)  # pyright: ignore[reportArgumentType]
        accuracies.append(round(float((scores.argmax(axis=1) == labels).mean()), 6))
    return accuracies


def _peak_memory() -> float:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def main() -> None:
    """Measure the job given as JSON."""
    record = measure(Job(**json.loads(sys.argv[1])))
    console().print(json.dumps(record, allow_nan=False), markup=False)


if __name__ == "__main__":
    run_command(main)
