"""One study, measured: `python one_study.py JOB` prints a JSON line. `tuning_throughput.py` calls it.

The clock starts with the first trial, for everyone: imports, reading the data and creating the stores come before it.
"""

import json
import math
import shutil
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

from mnist_pipeline.cli import run_command
from mnist_pipeline.console import console, quiet_native_logs
from mnist_pipeline.data.dataset import Subset, load_train, load_validation, save_subset, train_file
from mnist_pipeline.errors import UserError
from mnist_pipeline.params import IMAGE_SIDE, Choice, FloatRange, ModelParams, Params, load_params
from mnist_pipeline.project import Project

TRIALS = 50
"""More than there is time for, and few enough for one process."""
START, START_OF_WORKERS = 10, 25
"""Seconds that are added to a session of `mnist tune` for what comes before the first trial."""


@dataclass(frozen=True)
class Contestant:
    """A way to search."""

    does: str
    """In words."""
    tunes: bool = True
    """Whether it is `mnist tune`; otherwise the loop of Optuna's Keras example."""
    plain_keras: bool = False
    """Whether a trial is plain Keras; otherwise it goes through the project's trainer."""
    kept_steps: int = 8
    """Compiled steps that are kept for trials of the same shapes."""
    prunes: bool = True
    workers: int = 1


CONTESTANTS = {
    "example": Contestant("Optuna's Keras example", tunes=False, plain_keras=True),
    "trainer": Contestant("+ our trainer", tunes=False),
    "tune": Contestant("+ `mnist tune`", kept_steps=0, prunes=False),
    "kept": Contestant("+ compiled steps kept", prunes=False),
    "pruned": Contestant("+ pruning"),
    "workers": Contestant("+ two workers", workers=2),
}
"""Each but the first adds one measure to the one before."""


@dataclass(frozen=True)
class Job:
    """One study, in a process of its own."""

    contestant: str
    seed: int
    """Of the sampler, and of every training."""
    model: str
    epochs: int
    """Of each trial, at most."""
    seconds: int
    """For all of it."""
    images: int | None
    """Of the training split, the first so many; None takes all."""
    root: str
    """Path of the project's folder."""
    key: str
    """Digest of all that decides the result, but for contestant and seed."""

    def to_json(self) -> str:
        """Return it as the argument of a process."""
        return json.dumps(asdict(self))


@dataclass(frozen=True)
class TrialRecord:
    """How a trial ended."""

    seconds: float
    """Since the first trial began."""
    accuracy: float
    """Validation accuracy of its best epoch."""
    pruned: bool


def search(job: Job, project: Project, params: Params) -> list[TrialRecord]:
    """Do as `mnist tune MODEL --workers N --timeout ...` does."""
    from mnist_pipeline.training import trainer
    from mnist_pipeline.tuning.launch import tune
    from mnist_pipeline.tuning.plan import make_plan
    from mnist_pipeline.tuning.study import DONE, load_study

    contestant = CONTESTANTS[job.contestant]
    seconds = job.seconds + START + (START_OF_WORKERS if contestant.workers > 1 else 0)
    plan = make_plan(project, params, job.model, trials=TRIALS, timeout=f"{seconds}s", epochs=job.epochs)
    with patch.object(trainer, "KEPT", contestant.kept_steps):
        tune(plan, contestant.workers)
    trials = load_study(plan.file).get_trials(states=DONE)
    started = min(trial.datetime_start for trial in trials if trial.datetime_start)
    return [
        TrialRecord(
            (trial.datetime_complete - started).total_seconds(),
            trial.user_attrs["result.best_validation_accuracy"],
            trial.state.name == "PRUNED",
        )
        for trial in trials
        if trial.datetime_complete
    ]


def follow_example(job: Job, project: Project, params: Params) -> list[TrialRecord]:
    """Search the same space as Optuna's Keras example does (optuna-examples, keras/keras_simple.py).

    One process, one trial after the other, a fresh model for each, all epochs, no word from the trial before its end.
    """
    import keras
    import optuna

    from mnist_pipeline.data.normalize import load_normalization
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.trainer import Trainer
    from mnist_pipeline.tuning.plan import EPOCHS
    from mnist_pipeline.tuning.space import apply, space_of

    space, model = space_of(params, job.model), apply(params.model(job.model), {EPOCHS: job.epochs})
    device, black = choose_device(params.device), load_normalization(project.normalization).black
    data = load_train(project.split), load_validation(project.split)
    plain_keras = CONTESTANTS[job.contestant].plain_keras
    records = list[TrialRecord]()

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        chosen = apply(model, {path: suggest(trial, path, values) for path, values in space.items()})
        if plain_keras:
            accuracy = train_with_keras(chosen, *data, seed=params.seed, black=black)
        else:
            result = Trainer(*data, device=device, black=black).train(chosen, seed=params.seed)
            accuracy = result.best.validation_accuracy
        records.append(TrialRecord(time.time() - started, accuracy, pruned=False))
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=params.seed))
    started = time.time()
    study.optimize(objective, timeout=job.seconds)
    return records


def train_with_keras(model: ModelParams, train_data: Subset, validation: Subset, *, seed: int, black: float) -> float:
    """Train as one does with Keras alone: its layers for augmentation, `compile`, `fit`; return the best accuracy.

    Raises:
        UserError: the model has what these layers and this loss do not: elastic distortion or label smoothing.
    """
    import keras
    import numpy as np
    from keras import layers

    from mnist_pipeline.models.network import build_network
    from mnist_pipeline.training.schedule import build_optimizer

    training, augmentation = model.training, model.augmentation
    if augmentation.elastic or training.label_smoothing:
        raise UserError("The example has neither augmentation.elastic nor training.label_smoothing: set both to 0.")
    keras.utils.set_random_seed(seed)
    fill: Any = {"fill_mode": "constant", "fill_value": black}
    shift, shear = augmentation.shift / IMAGE_SIDE, math.tan(math.radians(augmentation.shear))
    network = keras.Sequential(
        [
            keras.Input((IMAGE_SIDE, IMAGE_SIDE, 1)),
            layers.RandomRotation(augmentation.rotation / 360, **fill),
            layers.RandomShear(shear, shear, **fill),
            layers.RandomZoom(augmentation.zoom, augmentation.zoom, **fill),
            layers.RandomTranslation(shift, shift, **fill),
            layers.Reshape((IMAGE_SIDE, IMAGE_SIDE)),
            build_network(model.architecture),
        ]
    )
    network.compile(
        optimizer=build_optimizer(training, training.epochs * math.ceil(len(train_data) / training.batch_size)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    history = network.fit(
        train_data.images[..., np.newaxis],
        train_data.labels,
        batch_size=training.batch_size,
        epochs=training.epochs,
        validation_data=(validation.images[..., np.newaxis], validation.labels),
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if training.weight_average else [],
        verbose=0,  # pyright: ignore[reportArgumentType]
    )
    return max(history.history["val_accuracy"])


def suggest(trial: Any, path: str, values: Any) -> Any:
    """Ask the trial for one parameter, as the example does."""
    if isinstance(values, Choice):
        return json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in values.values]))
    if isinstance(values, FloatRange):
        return trial.suggest_float(path, values.low, values.high, step=values.step, log=values.log)
    return trial.suggest_int(path, values.low, values.high, step=values.step or 1, log=values.log)


def measure(job: Job) -> dict[str, Any]:
    """Run the study in a throw-away project with the real data; return the record of it."""
    contestant = CONTESTANTS[job.contestant]
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        project = Project(root=Path(folder), home=Path(folder))
        shutil.copy(Path(job.root) / "params.yaml", project.params)
        take_data(Project(root=Path(job.root), home=Path(job.root)), project, job.images)
        params = load_params(project.params)
        tuning = params.tune.model_copy(update={"pruner": params.tune.pruner if contestant.prunes else "none"})
        params = params.model_copy(update={"seed": job.seed, "tune": tuning})
        with quiet_native_logs():
            trials = (search if contestant.tunes else follow_example)(job, project, params)
    in_time = [asdict(trial) for trial in trials if trial.seconds <= job.seconds]
    return {**asdict(job), "trials": sorted(in_time, key=lambda trial: trial["seconds"])}


def take_data(source: Project, target: Project, images: int | None) -> None:
    """Give the throw-away project the data; with fewer training images, if so many are asked for."""
    target.split.mkdir(parents=True)
    target.normalized.symlink_to(source.normalized)
    target.split.joinpath("validation.npz").symlink_to(source.split / "validation.npz")
    data = load_train(source.split)
    save_subset(train_file(target.split), Subset(data.images[:images], data.labels[:images]))


def main() -> None:
    """Measure the job given as JSON."""
    record = measure(Job(**json.loads(sys.argv[1])))
    console().print(json.dumps(record, allow_nan=False), markup=False)


if __name__ == "__main__":
    run_command(main)
