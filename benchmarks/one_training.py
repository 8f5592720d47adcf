"""One training, measured: `python one_training.py JOB` prints a JSON line. `time_to_accuracy.py` calls it.

Imports and reading the data are not timed, for anyone; building, compiling, training and validating are. The test
images are read when the training and the clock have ended.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import Job
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import console, quiet_native_logs
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.data.dataset import load_test
from mnist_pipeline.data.idx import read_part
from mnist_pipeline.data.params import load_data
from mnist_pipeline.training.checkpoint import Checkpoint, State
from mnist_pipeline.training.params import ModelParams

if TYPE_CHECKING:
    import keras

EXAMPLES = {"keras_convnet": 15, "keras_mlp": 20, "tf_mlp": 3}
"""The copied recipes (`recipes.py`) and their epochs."""

Weights = Sequence[Any]


@dataclass(frozen=True)
class TrainingJob(Job):
    """One training of a copied recipe or of one of our models."""

    epochs: int
    """Passes over the training images."""
    device: str
    """`device` of params.yaml."""
    precision: str
    """`precision` of params.yaml."""
    model: dict[str, Any]
    """Parameters of our model; empty for a copied recipe."""


class Clock:
    """The time of one training, and its weights after each epoch; taking the weights stops the clock."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        """Wall time from the start to the end of each epoch."""
        self.weights: list[Weights] = []
        """Those that the training would hand over if it ended after each epoch."""
        self._started = time.perf_counter()

    def elapsed(self) -> float:
        """Return the wall seconds since the start, without the stops."""
        return time.perf_counter() - self._started

    def end_epoch(self, take: Callable[[], Weights]) -> None:
        """Note the end of an epoch, and the weights that `take` returns."""
        self.seconds.append(self.elapsed())
        self.weights.append(take())
        self._started = time.perf_counter() - self.seconds[-1]


@dataclass(frozen=True)
class RecordingCheckpoint(Checkpoint):
    """The pipeline's checkpoint, whose cost counts as it does there, that also keeps each epoch's weights."""

    clock: Clock = field(kw_only=True)

    def save(self, state: State) -> None:
        """Save as the pipeline does, then keep the best weights so far: those the trainer would hand over."""
        super().save(state)
        self.clock.end_epoch(lambda: state.best)


@dataclass(frozen=True)
class Trained:
    """What a contestant leaves behind."""

    model: "keras.Model"
    """Takes what `test` returns; gives one score per class."""
    clock: Clock
    seconds: float
    """Wall time of the training."""
    peak_memory: int
    """Bytes, most ever resident, when the training ended."""
    validation_accuracy: float | None
    """Of the final weights, on the contestant's own validation images; None if it has none."""
    test: Callable[[], tuple[Any, Any]]
    """Reads the test inputs and labels."""


def train_ours(job: TrainingJob, project: Project) -> Trained:
    """Train with the pipeline's trainer, on the pipeline's splits."""
    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.trainer import train

    params = ModelParams.model_validate(job.model)
    data = TrainingData.load(project)
    wanted: Any = job.device, job.precision
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        clock = Clock()
        checkpoint = RecordingCheckpoint(Path(folder) / "checkpoint.npz", key="", clock=clock)
        result = train(params, data, seed=job.seed, device=choose_device(*wanted), checkpoint=checkpoint)
        seconds, peak = clock.elapsed(), _peak_memory()

    def test() -> tuple[Any, Any]:
        subset = load_test(project.split)
        return subset.images, subset.labels

    return Trained(result.model, clock, seconds, peak, result.best.val_accuracy, test)


def train_example(job: TrainingJob, project: Project) -> Trained:
    """Train a copied recipe, on the full training file."""
    import keras

    from recipes import RECIPES

    recipe = RECIPES[job.contestant]
    images, labels = read_part(project.raw, "train", load_data(project))
    x_train, y_train = recipe.inputs(images), recipe.targets(labels)
    keras.utils.set_random_seed(job.seed)
    clock = Clock()

    class TakeWeights(keras.callbacks.Callback):
        def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
            clock.end_epoch(self.model.get_weights)

    model = recipe.build()
    quiet: Any = 0
    history = model.fit(
        x_train, y_train, epochs=job.epochs, callbacks=[TakeWeights()], verbose=quiet, **recipe.fit
    ).history

    def test() -> tuple[Any, Any]:
        test_images, test_labels = read_part(project.raw, "t10k", load_data(project))
        return recipe.inputs(test_images), test_labels

    # The end of the last epoch and not that of `fit`: tf.data's tuning thread can keep it waiting, idly, for seconds.
    return Trained(model, clock, clock.seconds[-1], _peak_memory(), history.get("val_accuracy", [None])[-1], test)


def measure(job: TrainingJob) -> dict[str, Any]:
    """Train and test one contestant; return what was measured."""
    project = find_project(Path(job.root))
    with quiet_native_logs():
        import_module("keras")  # and with it TensorFlow, before the clock starts
        import_module("tensorflow").config.list_physical_devices("GPU")  # complains once where there is none
    trained = (train_ours if job.model else train_example)(job, project)
    return {
        "seconds": round(trained.seconds, 3),
        "peak_memory_bytes": trained.peak_memory,
        "validation_accuracy": trained.validation_accuracy,
        "seconds_after_epoch": [round(seconds, 3) for seconds in trained.clock.seconds],
        "test_accuracy_after_epoch": _test_accuracies(trained),
    }


def _test_accuracies(trained: Trained) -> list[float]:
    """Return the share of test images read right after each epoch."""
    inputs, labels = trained.test()
    accuracies: list[float] = []
    before: Weights | None = None
    quiet: Any = 0
    for weights in trained.clock.weights:
        if weights is before:  # our trainer keeps the best: not every epoch has new weights to hand over
            accuracies.append(accuracies[-1])
            continue
        before = weights
        trained.model.set_weights(weights)
        scores = trained.model.predict(inputs, batch_size=1_000, verbose=quiet)
        accuracies.append(round(float((scores.argmax(axis=1) == labels).mean()), 6))
    return accuracies


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure the job given as JSON."""
    record = measure(TrainingJob(**json.loads(sys.argv[1])))
    console().print(json.dumps(record, allow_nan=False), markup=False)


if __name__ == "__main__":
    run_command(main)
