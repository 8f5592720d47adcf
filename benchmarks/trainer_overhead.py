"""What our trainer and our tracking cost on top of the bare arithmetic: see README.md.

In one process and turn by turn: an epoch of `training.trainer.train`, then the same epoch as a bare `tf.function` loop
over the same network, batches, compiled augmentation and optimizer, with a bare pass over the validation images.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import RESULTS, clone, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import quiet_native_logs, say
from mnist_pipeline.core.files import write_json
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.training.params import ModelParams, Params, load_params
from tables import Grid, Statistic, publish

if TYPE_CHECKING:
    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.devices import Device
    from mnist_pipeline.training.history import Epoch
    from mnist_pipeline.training.trainer import TrainingResult

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@dataclass
class Turns:
    """What each epoch took and came to, from the first."""

    trainer: list[float] = field(default_factory=list[float])
    """Seconds of the trainer: steps, metrics, validation, best weights, checkpoint."""
    bare: list[float] = field(default_factory=list[float])
    """Seconds of the bare loop: steps and validation."""
    trainer_loss: list[float] = field(default_factory=list[float])
    """Training loss of the trainer."""
    bare_loss: list[float] = field(default_factory=list[float])
    """Training loss of the bare loop."""


@app.command()
def main(
    model: Annotated[str, typer.Option(help="A model of params.yaml.")] = "cnn",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each that count, after a first that compiles.")] = 7,
    results: Annotated[Path, typer.Option(help="Markdown file.")] = RESULTS / "trainer_overhead.md",
) -> None:
    """Compare seconds per epoch: our trainer against a bare loop doing the same work; then measure the tracking.

    Run it inside the project, after `dvc repro`.
    """
    project = find_project()
    params = load_params(project.params)
    whole = params.model(model)
    short = whole.model_copy(update={"training": whole.training.model_copy(update={"epochs": epochs + 1})})
    with quiet_native_logs():
        from mnist_pipeline.training.data import TrainingData
        from mnist_pipeline.training.devices import choose_device

    data, device = TrainingData.load(project), choose_device(params.device, params.precision)
    turns, result = take_turns(short, data, params.seed, device)
    tracking = measure_tracking(project, params, ModelId(model), data, result)
    report(model, turns, tracking, whole.training.epochs, results)


def take_turns(
    params: ModelParams, data: "TrainingData", seed: int, device: "Device"
) -> "tuple[Turns, TrainingResult]":
    """Train with the trainer, and after each of its epochs do one with the bare loop."""
    from mnist_pipeline.training.checkpoint import Checkpoint
    from mnist_pipeline.training.trainer import train

    turns, bare_epoch = Turns(), bare_loop(params, data, seed, device)
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        started = time.perf_counter()

        def after_epoch(epoch: "Epoch") -> None:
            # `train` calls this last of all, so that from the end of one call to the next is all that an epoch costs.
            nonlocal started
            turns.trainer.append(time.perf_counter() - started)
            turns.trainer_loss.append(epoch.train_loss)
            bare_epoch(turns)
            say(f"epoch {epoch.epoch}: trainer {turns.trainer[-1]:.2f} s, bare loop {turns.bare[-1]:.2f} s")
            started = time.perf_counter()

        checkpoint = Checkpoint(Path(folder) / "checkpoint.npz", key="")
        result = train(params, data, seed=seed, device=device, on_epoch=after_epoch, checkpoint=checkpoint)
    return turns, result


def bare_loop(params: ModelParams, data: "TrainingData", seed: int, device: "Device") -> Callable[[Turns], None]:
    """Return a function that does one more epoch and notes how long it took."""
    import keras
    import tensorflow as tf

    from mnist_pipeline.models.model import build_model
    from mnist_pipeline.training.batches import VALIDATION_BATCH, steps_per_epoch, training_batches
    from mnist_pipeline.training.training_model import prepare

    steps = steps_per_epoch(params.training, len(data.train))
    keras.utils.set_random_seed(seed)
    network = prepare(
        build_model(params.architecture, params.normalization, data.statistics, data.about),
        params, seed=seed, steps=steps, device=device,
    )  # fmt: skip
    feed = iter(training_batches(data.train, len(data.about.classes), params.training, seed))

    @tf.function(jit_compile=device.xla)
    def step(pixels: Any, targets: Any) -> Any:
        images = network.distort(pixels)
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        network.optimizer.apply(tape.gradient(loss, network.trainable_variables), network.trainable_variables)
        return loss

    @tf.function
    def logits_of(pixels: Any) -> Any:
        return network(pixels, training=False)

    def one_epoch(turns: Turns) -> None:
        started, total = time.perf_counter(), tf.zeros(())
        for _ in range(steps):
            total += step(*next(feed))
        turns.bare_loss.append(float(total) / steps)  # waits for the last step
        for start in range(0, len(data.validation), VALIDATION_BATCH):
            logits_of(tf.constant(data.validation.images[start : start + VALIDATION_BATCH])).numpy()
        turns.bare.append(time.perf_counter() - started)

    return one_epoch


def measure_tracking(
    project: Project, params: Params, model: ModelId, data: "TrainingData", result: "TrainingResult"
) -> float:
    """Return the seconds that tracking a training of full length takes, by the functions of the stage itself.

    Loading MLflow and creating the store, once per project, are not in it.
    """
    from mnist_pipeline.models.model import save_model
    from mnist_pipeline.stages.train import find_checkpoint, summarize
    from mnist_pipeline.tracking.augmentation_sheet import contact_sheet
    from mnist_pipeline.tracking.runs import training_run
    from mnist_pipeline.tracking.store import open_store
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.history import write_history

    ours, device = params.model(model.entry), choose_device(params.device, params.precision)
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        copy = throw_away(project, Path(folder))
        open_store(copy)
        find_checkpoint(copy, params, model, device)  # as in the stage, which needs the hashes of the data anyway
        save_model(result.model, copy.model_file(model))
        write_history(copy.history(model), result.history)
        write_json(copy.training_summary(model), asdict(summary := summarize(result)))
        started = time.perf_counter()
        with training_run(copy, params, model, tags=device.tags()) as run:
            if not ours.augmentation.is_off:
                sheet = contact_sheet(str(model), ours, data.about, data.train, seed=params.seed)
                run.log_figure(sheet, "augmentation.png")
            for number in range(1, ours.training.epochs + 1):
                run.log_epochs(replace(result.history[0], epoch=number))
            run.log_result(summary, result.seconds)
        return time.perf_counter() - started


def throw_away(project: Project, folder: Path) -> Project:
    """Return a clone of the project with its data and DVC's cache, but a store and models of its own."""
    copy = clone(project, folder / "copy")
    for path in (project.raw, project.split, project.normalization):
        target = copy.root / path.relative_to(project.root)
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(path)
    (copy.root / ".dvc" / "cache").symlink_to(project.home / ".dvc" / "cache")
    return copy


def report(model: str, turns: Turns, tracking: float, epochs: int, results: Path) -> None:
    """Print and write what the trainer and the tracking cost."""
    later = list(zip(turns.trainer, turns.bare, strict=True))[1:]
    trainer = Statistic.of([ours for ours, _ in later])
    training = turns.trainer[0] + trainer.mean * (epochs - 1)
    rows = [
        ["trainer, seconds per epoch", trainer.text(".2f")],
        ["bare loop, seconds per epoch", Statistic.of([bare for _, bare in later]).text(".2f")],
        ["trainer / bare loop", Statistic.of([ours / bare for ours, bare in later]).text(".3f")],
        [f"tracking of a training of {epochs} epochs, seconds", f"{tracking:.2f}"],
        ["tracking / (training + tracking)", f"{tracking / (training + tracking):.2%}"],
    ]
    notes = (
        machine(),
        f"Both do the same: the training loss of the last epoch is {turns.trainer_loss[-1]:.5f} (trainer) and "
        f"{turns.bare_loss[-1]:.5f} (bare loop).",
        "A trainer's epoch is everything from one to the next: steps, metrics, validation with averaged weights, best "
        "weights, checkpoint. The ratio is taken epoch by epoch, so that both of a pair meet the same machine.",
    )
    publish(results, Grid(f"Cost of the trainer and of tracking: {model}, {trainer.n} epochs", ("", ""), rows), notes)


if __name__ == "__main__":
    run_command(app)
