"""One study, measured: `python one_study.py JOB` prints a JSON line. `tuning_throughput.py` calls it.

The clock starts with the process, for everyone: imports, reading the data, Ray and the stores are counted in.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from bench import Job
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import console, quiet_native_logs
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.data.dataset import Subset, load_train, load_validation, save_subset, train_file, validation_file
from mnist_pipeline.training.params import ModelParams, load_params
from mnist_pipeline.tuning.params import Choice, FloatRange, apply, space_of

IMAGE_SIDE, CLASSES = 28, 10
EXAMPLE, OURS = "Optuna's example", "mnist tune"
TRIALS = 200
"""More than there is time for."""


@dataclass(frozen=True)
class StudyJob(Job):
    """One study. Its seed is that of the sampler and of every training."""

    model: str
    """Name in params.yaml, with a search space there."""
    epochs: int
    """Of each trial, at most."""
    seconds: int
    """For the whole study, from the start of its process."""
    images: int
    """Of the train split, the first so many; 0 takes all."""
    workers: int
    """Processes of `mnist tune`."""


@dataclass(frozen=True)
class Trial:
    """How a trial ended."""

    number: int
    """From 0; that of `mnist tune` with number 0 tries the current parameters."""
    seconds: float
    """From the start of the process to the end of the trial."""
    accuracy: float
    """Validation accuracy of its best epoch."""
    pruned: bool


def run_mnist_tune(job: StudyJob, project: Project) -> list[Trial]:
    """Run `mnist tune`, as a user would; read its trials from Optuna's journal."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    limits = ("--trials", str(TRIALS), "--timeout", f"{job.seconds}s", "--epochs", str(job.epochs))
    command = (str(Path(sys.executable).with_name("mnist")), "tune", job.model, *limits, "--workers", str(job.workers))
    started = datetime.now()  # in Optuna's own time, which knows no zone
    subprocess.run(command, cwd=project.root, stdout=subprocess.DEVNULL, check=True)
    storage = JournalStorage(JournalFileBackend(str(project.studies / f"{job.model}.log")))
    ended = (optuna.trial.TrialState.COMPLETE, optuna.trial.TrialState.PRUNED)
    trials = optuna.load_study(study_name=None, storage=storage).get_trials(states=ended)
    return [
        Trial(
            trial.number,
            (trial.datetime_complete - started).total_seconds(),
            max(trial.intermediate_values.values()),
            trial.state is optuna.trial.TrialState.PRUNED,
        )
        for trial in trials
        if trial.datetime_complete and trial.intermediate_values
    ]


def follow_example(job: StudyJob, project: Project) -> list[Trial]:
    """Search the same space as Optuna's Keras example does (optuna-examples, keras/keras_simple.py).

    One process, one trial after the other, a fresh model for each, all epochs, no word from the trial before its end.
    """
    import keras
    import optuna

    params = load_params(project.params)
    space = space_of(params, job.model)
    model = apply(params.model(job.model), {"training.epochs": job.epochs})
    data = load_train(project.split), load_validation(project.split)
    trials: list[Trial] = []
    started = psutil.Process().create_time()

    def objective(trial: optuna.Trial) -> float:
        keras.backend.clear_session()
        chosen = apply(model, {path: suggest(trial, path, values) for path, values in space.items()})
        accuracy = train_with_keras(chosen, *data, seed=job.seed)
        trials.append(Trial(trial.number, time.time() - started, accuracy, pruned=False))
        return accuracy

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=job.seed))
    study.optimize(objective, timeout=job.seconds - (time.time() - started))
    return trials


def suggest(trial: Any, path: str, values: Any) -> Any:
    """Ask the trial for one parameter, as the example does."""
    if isinstance(values, Choice):
        return json.loads(trial.suggest_categorical(path, [json.dumps(value) for value in values.values]))
    if isinstance(values, FloatRange):
        return trial.suggest_float(path, values.low, values.high, step=values.step, log=values.log)
    return trial.suggest_int(path, values.low, values.high, step=values.step or 1, log=values.log)


def train_with_keras(params: ModelParams, train_data: Subset, validation: Subset, *, seed: int) -> float:
    """Train as one does with Keras alone: its layers for augmentation, `compile`, `fit`; return the best accuracy."""
    import keras

    from mnist_pipeline.training.schedule import build_optimizer

    training = params.training
    keras.utils.set_random_seed(seed)
    model = build_with_keras(params)
    model.compile(
        optimizer=build_optimizer(training, training.epochs * math.ceil(len(train_data) / training.batch_size)),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    quiet: Any = 0
    history = model.fit(
        train_data.images[..., None],
        train_data.labels,
        batch_size=training.batch_size,
        epochs=training.epochs,
        validation_data=(validation.images[..., None], validation.labels),
        callbacks=[keras.callbacks.SwapEMAWeights(swap_on_epoch=True)] if training.weight_average else [],
        verbose=quiet,
    )
    return max(history.history["val_accuracy"])


def build_with_keras(params: ModelParams) -> Any:
    """Build the same network behind Keras' own layers for augmentation.

    Raises:
        UserError: the model has what these do not: elastic distortion, label smoothing, another scale than `unit`.
    """
    import keras
    from keras import layers

    augmentation = params.augmentation
    if augmentation.elastic or params.training.label_smoothing or params.normalization != "unit":
        raise UserError(
            "The example has no elastic distortion and no label smoothing, and its normalization is `unit`: set "
            "augmentation.elastic and training.label_smoothing to 0."
        )
    fill: Any = {"fill_mode": "constant", "fill_value": 0.0}
    shift, shear = augmentation.shift / IMAGE_SIDE, math.tan(math.radians(augmentation.shear))
    pixels: Any = keras.Input((IMAGE_SIDE, IMAGE_SIDE, 1))
    x = layers.RandomRotation(augmentation.rotation / 360, **fill)(pixels)
    x = layers.RandomShear(shear, shear, **fill)(x)
    x = layers.RandomZoom(augmentation.zoom, augmentation.zoom, **fill)(x)
    x = layers.RandomTranslation(shift, shift, **fill)(x)
    x = layers.Rescaling(1 / 255)(layers.Reshape((IMAGE_SIDE, IMAGE_SIDE))(x))
    x = import_module(f"mnist_pipeline.models.{params.architecture.kind}").connect(x, params.architecture)
    return keras.Model(pixels, layers.Dense(CLASSES)(x))


def measure(job: StudyJob) -> dict[str, Any]:
    """Run the study in a throw-away project with the real data; return its trials, the first to end first."""
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        project = throw_away(job, find_project(Path(job.root)), Path(folder))
        with quiet_native_logs():
            trials = (run_mnist_tune if job.contestant == OURS else follow_example)(job, project)
    in_time = [vars(trial) for trial in trials if trial.seconds <= job.seconds]
    return {"trials": sorted(in_time, key=lambda trial: trial["seconds"])}


def throw_away(job: StudyJob, source: Project, folder: Path) -> Project:
    """Return a project with the parameters and the data of `source`, but for the seed and the number of images."""
    yaml = YAML()
    params = yaml.load(source.params)
    params["seed"] = job.seed
    yaml.dump(params, folder / "params.yaml")
    project = find_project(folder)
    project.split.mkdir(parents=True)
    project.normalization.symlink_to(source.normalization)
    validation_file(project.split).symlink_to(validation_file(source.split))
    data, count = load_train(source.split), job.images or None
    save_subset(train_file(project.split), Subset(data.images[:count], data.labels[:count]))
    return project


def main() -> None:
    """Measure the job given as JSON."""
    record = measure(StudyJob(**json.loads(sys.argv[1])))
    console().print(json.dumps(record, allow_nan=False), markup=False)


if __name__ == "__main__":
    run_command(main)
