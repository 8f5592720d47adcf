"""What trains the trials of a study, in a process on any machine. It knows neither Optuna nor Ray nor MLflow."""

import hashlib
import platform
import socket
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, Literal, TypeVar

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams
from mnist_pipeline.tuning.space import Values, apply

if TYPE_CHECKING:
    from mnist_pipeline.training.devices import Device
    from mnist_pipeline.training.trainer import TrainingResult

T = TypeVar("T")


@dataclass(frozen=True)
class Terms:
    """What all trials of a study share."""

    model: ModelParams
    """The model's parameters, of which a trial changes some."""
    seed: int
    """Of every training."""
    device: Literal["auto", "gpu", "cpu"]
    """What to train on."""
    max_weights: int | None
    """The most weights that a network may have; None is no limit."""
    threads: int
    """How many threads an operation of TensorFlow may use."""
    gpu_share: float
    """Share of each GPU's memory that a worker may take; 0 or 1 is no limit."""
    data_md5: str
    """Digest of the data, by which a worker knows that it has what the study is about."""
    code: Mapping[str, str]
    """Versions of Python and the libraries, and the digest of our code, as `code_here` returns them."""


@dataclass(frozen=True)
class Result:
    """What a trial came to."""

    weights: int
    """Number of weights of the network."""
    best: Epoch | None = None
    """The best epoch; None if the network has too many weights, so that it was not trained."""
    epochs: int = 0
    """How many were trained."""
    seconds: float = 0
    """Wall time of the training."""


class Worker:
    """Trains one trial after the other, an epoch at a time."""

    def __init__(self, terms: Terms, data: TrainingData) -> None:
        """Keep what all trials share; nothing heavy is imported yet."""
        self._terms, self._data = terms, data
        self._trial: Generator[Epoch | Result, bool]

    def prepare(self) -> dict[str, str]:
        """Get ready to train; return what is logged with each trial of this worker.

        Raises:
            UserError: code, libraries or data are not the driver's, or the device is not there.
        """
        _refuse_other_code(self._terms.code)
        if self._data.digest() != self._terms.data_md5:
            raise UserError(f"The data that arrived on {socket.gethostname()} are not those that were sent.")
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(self._terms.threads)
        return {**self._device.tags(), "host": socket.gethostname()}

    def start(self, values: Values) -> Epoch | Result:
        """Start a trial with these values, by dotted path; return its first epoch, or what it came to at once."""
        self._trial = self._run(values)
        return next(self._trial)

    def go_on(self, stop: bool) -> Epoch | Result:
        """Go on with the trial, or stop it after the epoch that was reported last; return what comes next."""
        return self._trial.send(stop)

    def _run(self, values: Values) -> Generator[Epoch | Result, bool]:
        from mnist_pipeline.models.model import build_model
        from mnist_pipeline.training.trainer import train

        terms, data = self._terms, self._data
        model = apply(terms.model, values)
        if terms.max_weights is not None:
            weights = build_model(model.architecture, model.normalization, data.statistics).count_params()
            if weights > terms.max_weights:
                yield Result(weights)
                return
        result: TrainingResult = yield from epochs_of(
            lambda on_epoch: train(model, data, seed=terms.seed, device=self._device, on_epoch=on_epoch)
        )
        yield Result(result.model.count_params(), result.best, len(result.history), result.seconds)

    @cached_property
    def _device(self) -> "Device":
        from mnist_pipeline.training.devices import choose_device

        return choose_device(self._terms.device, memory_share=self._terms.gpu_share or 1)


def epochs_of(train: Callable[[Callable[[Epoch], bool]], T]) -> Generator[Epoch, bool, T]:
    """Turn a training inside out: yield each epoch that it reports, take whether to stop, and return its result.

    It runs in a thread of its own, and waits while its epoch is looked at.
    """
    reports, answers = SimpleQueue[Epoch | None](), SimpleQueue[bool]()

    def report(epoch: Epoch) -> bool:
        reports.put(epoch)
        return answers.get()

    with ThreadPoolExecutor(1) as pool:
        training = pool.submit(train, report)
        training.add_done_callback(lambda _: reports.put(None))
        while (epoch := reports.get()) is not None:
            answers.put((yield epoch))
        return training.result()


def code_here() -> dict[str, str]:
    """Return what must be the same wherever trials of one study run: Python, libraries, and our own code."""
    package = Path(__file__).parents[1]
    code = hashlib.md5(usedforsecurity=False)
    for file in sorted(package.rglob("*.py")):
        code.update(file.read_bytes())
    libraries = {name: version(name) for name in ("tensorflow", "keras", "numpy", "ray")}
    return {"python": platform.python_version(), **libraries, "the code of mnist-pipeline": code.hexdigest()}


def _refuse_other_code(driver: Mapping[str, str]) -> None:
    here = code_here()
    different = [f"{name} is {here[name]}, not {value}" for name, value in driver.items() if here[name] != value]
    if different:
        raise UserError(
            f"The node {socket.gethostname()} cannot train trials of this study: {'; '.join(different)}. Install "
            "there the same commit and requirements.lock as here."
        )
