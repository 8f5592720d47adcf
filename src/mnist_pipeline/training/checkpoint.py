"""What a killed training needs to go on as if nothing had happened."""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import warn
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.training.history import Epoch

Arrays = Sequence[NDArray[Any]]


@dataclass(frozen=True)
class State:
    """A training between two epochs."""

    network: Arrays
    """Weights, statistics and dropout's random state."""
    optimizer: Arrays
    """Moments, averages of weights, and the step, which is the position in the schedule."""
    best: Arrays
    """The weights of the best epoch so far."""
    history: Sequence[Epoch]
    """All epochs so far."""
    seconds: float
    """Wall time so far."""


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the last finished epoch of one training, or nothing.

    It belongs to the training with exactly these inputs: `key` is their digest, and the state of another is ignored. It
    lies outside DVC's outs, because DVC deletes those before it starts a stage again.
    """

    path: Path
    key: str
    run_id: str = ""
    """Id of the MLflow run that the training reports to, so that it can be continued."""

    @property
    def ended(self) -> Self:
        """Return where the checkpoint is put when the training has ended, for as long as its results are not safe."""
        return replace(self, path=self.path.with_suffix(".ended.npz"))

    def save(self, state: State) -> None:
        """Replace the checkpoint by `state`, atomically."""
        groups = {"network": state.network, "optimizer": state.optimizer, "best": state.best}
        arrays = {f"{name}_{index}": array for name, group in groups.items() for index, array in enumerate(group)}
        about = {
            "key": self.key,
            "run_id": self.run_id,
            "history": [asdict(epoch) for epoch in state.history],
            "seconds": state.seconds,
            **{name: len(group) for name, group in groups.items()},
        }
        with atomic_path(self.path) as temporary:
            np.savez(temporary, about=np.array(json.dumps(about)), **arrays)  # pyright: ignore[reportArgumentType]

    def load(self, shapes: Sequence[Sequence[int]] | None = None) -> State | None:
        """Return the state to resume from; None if there is none, it is damaged, or belongs to other inputs.

        Args:
            shapes: of the variables of the network, which the saved ones must have; None does not check.
        """
        about, arrays = self._read()
        if about.get("key") != self.key:
            return None
        found = [arrays[f"network_{index}"].shape for index in range(about["network"])]
        if shapes is not None and found != [tuple(shape) for shape in shapes]:
            self._put_aside("it holds another network")
            return None
        groups = {
            name: [arrays[f"{name}_{index}"] for index in range(about[name])]
            for name in ("network", "optimizer", "best")
        }
        history = [Epoch(**epoch) for epoch in about["history"]]
        return State(**groups, history=history, seconds=about["seconds"])

    def previous_run(self) -> tuple[str, list[Epoch]]:
        """Return the id of the run that the saved training reported to, and its epochs; empty if there are none."""
        about, _ = self._read(only_about=True)
        if about.get("key") != self.key:
            return "", []
        return about["run_id"], [Epoch(**epoch) for epoch in about["history"]]

    def remove(self) -> None:
        """Forget the training: it is finished, or not worth going on with."""
        self.path.unlink(missing_ok=True)

    def _read(self, *, only_about: bool = False) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
        if not self.path.exists():
            return {}, {}
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = {name: file[name] for name in (("about",) if only_about else file.files)}
            return json.loads(str(arrays.pop("about"))), arrays
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            if not only_about:  # or it would be said twice
                self._put_aside(str(error))
            return {}, {}

    def _put_aside(self, reason: str) -> None:
        aside = self.path.with_suffix(".damaged")
        shutil.rmtree(aside, ignore_errors=True)
        self.path.replace(aside)
        warn(f"{self.path} is damaged ({reason}) and was moved to {aside}: the training starts from the beginning.")


def training_key(inputs: Mapping[str, str]) -> str:
    """Return the digest of everything that decides a training's result.

    Args:
        inputs: parameters, data hashes, device and the like, by name. The code of the packages `models` and `training`
            and the versions of TensorFlow and Keras are added here.
    """
    package = Path(__file__).parents[1]
    code = {
        f"{name}/{file.name}": hashlib.sha256(file.read_bytes()).hexdigest()
        for name in ("models", "training")
        for file in sorted((package / name).glob("*.py"))
    }
    versions = {library: version(library) for library in ("tensorflow", "keras")}
    return hashlib.sha256(json.dumps({**inputs, **code, **versions}, sort_keys=True).encode()).hexdigest()
