"""What trains the trials of a study, in a process on any machine. It knows neither Optuna nor Ray nor MLflow."""

import platform
import socket
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning.params import Values, apply
from mnist_pipeline.tuning.plan import Plan

if TYPE_CHECKING:
    from mnist_pipeline.training.devices import Device


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

    @property
    def metrics(self) -> dict[str, float]:
        """Its numbers by name, for the study and MLflow alike."""
        best = self.best and {
            "best_epoch": self.best.epoch,
            "best_val_accuracy": self.best.val_accuracy,
            "best_val_loss": self.best.val_loss,
            "epochs": self.epochs,
            "training_seconds": round(self.seconds, 1),
        }
        return {"parameters": self.weights, **(best or {})}


@dataclass(repr=False)  # Ray would print it, half-made and with all the data
class Worker:
    """Trains one trial after the other, an epoch at a time. Nothing heavy is imported before it gets ready."""

    plan: Plan
    """The study's."""
    data: TrainingData
    """To train with."""
    code: Mapping[str, str]
    """What `code_here` returned where the study is."""
    data_md5: str
    """Digest of the data that were sent."""
    threads: int
    """How many an operation of TensorFlow may use."""
    gpu_share: float
    """Share of each GPU's memory that this worker may take; 0 or 1 is no limit."""
    _device: "Device" = field(init=False)
    _reports: "SimpleQueue[Epoch | Future[Result]]" = field(default_factory=SimpleQueue)
    _answers: SimpleQueue[bool] = field(default_factory=SimpleQueue[bool])

    def prepare(self) -> dict[str, str]:
        """Get ready to train; return what is logged with each trial of this worker.

        Raises:
            UserError: code, libraries or data are not the driver's, or the device is not there.
        """
        node, here = socket.gethostname(), code_here()
        different = [f"{name} is {here[name]}, not {code}" for name, code in self.code.items() if here[name] != code]
        if different:
            raise UserError(
                f"The node {node} cannot train trials of this study: {'; '.join(different)}. Install there the same "
                "commit and requirements.lock as here."
            )
        if self.data.digest() != self.data_md5:
            raise UserError(f"The data that arrived on {node} are not those that were sent.")
        import tensorflow as tf

        from mnist_pipeline.training.devices import choose_device

        params = self.plan.params
        tf.config.threading.set_intra_op_parallelism_threads(self.threads)
        self._device = choose_device(params.device, params.precision, memory_share=self.gpu_share or 1)
        return {**self._device.tags(), "host": node}

    def start(self, values: Values) -> Epoch | Result:
        """Start a trial with these values, by dotted path; return its first epoch, or what it came to at once."""
        # In a thread of its own, which waits while its epoch is looked at.
        thread = ThreadPoolExecutor(1)
        thread.submit(self._train, values).add_done_callback(self._reports.put)
        thread.shutdown(wait=False)
        return self._next()

    def go_on(self, stop: bool) -> Epoch | Result:
        """Go on with the trial, or stop it after the epoch that was reported last; return what comes next."""
        self._answers.put(stop)
        return self._next()

    def _next(self) -> Epoch | Result:
        found = self._reports.get()
        return found if isinstance(found, Epoch) else found.result()

    def _report(self, epoch: Epoch) -> bool:
        self._reports.put(epoch)
        return self._answers.get()

    def _train(self, values: Values) -> Result:
        from mnist_pipeline.models.model import build_model
        from mnist_pipeline.training.trainer import train

        plan, model = self.plan, apply(self.plan.model, values)
        if plan.max_parameters is not None:
            data = self.data
            weights = build_model(model.architecture, model.normalization, data.statistics, data.about).count_params()
            if weights > plan.max_parameters:
                return Result(weights)
        result = train(model, self.data, seed=plan.params.seed, device=self._device, on_epoch=self._report)
        return Result(result.model.count_params(), result.best, len(result.history), result.seconds)


def code_here() -> dict[str, str]:
    """Return what must be the same wherever trials of one study run: Python, libraries, and our own code."""
    code = content_digest(b"".join(file.read_bytes() for file in sorted(Path(__file__).parents[1].rglob("*.py"))))
    libraries = {name: version(name) for name in ("tensorflow", "keras", "numpy", "ray")}
    return {"python": platform.python_version(), **libraries, "the code of mnist-pipeline": code}
