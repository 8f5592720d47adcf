"""What our trainer and our tracking cost on top of the bare arithmetic: see README.md.

In one process and turn by turn: an epoch of `training.trainer.train`, then the same epoch as a bare `tf.function` loop
over the same network, batches, compiled augmentation and optimizer, with a bare pass over the validation images.
"""

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench import Grid, Statistic, describe, machine, versions
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import console, quiet_native_logs, say
from mnist_pipeline.files import atomic_path, write_json
from mnist_pipeline.params import ModelParams, Params, load_params
from mnist_pipeline.project import Project, find_project

if TYPE_CHECKING:
    from mnist_pipeline.data.dataset import Subset
    from mnist_pipeline.training.devices import Device
    from mnist_pipeline.training.history import Epoch
    from mnist_pipeline.training.trainer import TrainingResult

RESULTS = Path(__file__).parent / "results" / "trainer_overhead.json"
TRAINER_LIMIT, TRACKING_LIMIT = 1.10, 0.02
"""The issue's targets."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="A model of params.yaml.")] = "cnn",
    epochs: Annotated[int, typer.Option(min=1, help="Epochs of each that count, after a first that compiles.")] = 5,
    results: Annotated[Path, typer.Option(help="JSON file; an .md goes beside it.")] = RESULTS,
) -> None:
    """Compare seconds per epoch: our trainer against a bare loop doing the same work; then measure the tracking.

    Run it inside the project, after `dvc repro`.
    """
    project = find_project()
    params = load_params(project.params)
    bench = prepare(project, params, model)
    turns, result = take_turns(bench, epochs)
    tracking = measure_tracking(bench, result)
    report(bench, turns, tracking, results)


@dataclass(frozen=True)
class Bench:
    """What both contestants are given."""

    project: Project
    params: Params
    name: str
    train_data: "Subset"
    validation: "Subset"
    device: "Device"
    black: float

    @property
    def model(self) -> ModelParams:
        """The parameters of the model."""
        return self.params.model(self.name)


def prepare(project: Project, params: Params, name: str) -> Bench:
    """Read the data and choose the device.

    Raises:
        UserError: a file or the model is missing.
    """
    from mnist_pipeline.data.dataset import load_train, load_validation
    from mnist_pipeline.data.normalize import load_normalization
    from mnist_pipeline.training.devices import choose_device

    params.model(name)
    black = load_normalization(project.normalization).black
    train_data, validation = load_train(project.split), load_validation(project.split)
    with quiet_native_logs():
        import_module("tensorflow")
    return Bench(project, params, name, train_data, validation, choose_device(params.device), black)


@dataclass
class Turns:
    """Seconds and losses of each epoch, from the first."""

    trainer: list[float] = field(default_factory=list[float])
    """Everything: steps, validation, callbacks, checkpoint."""
    bare: list[float] = field(default_factory=list[float])
    """Steps and validation."""
    bare_steps: list[float] = field(default_factory=list[float])
    """Steps alone."""
    trainer_loss: list[float] = field(default_factory=list[float])
    bare_loss: list[float] = field(default_factory=list[float])


def take_turns(bench: Bench, epochs: int) -> tuple[Turns, "TrainingResult"]:
    """Train 1 + `epochs` epochs with the trainer, and after each of them one with the bare loop."""
    from contestants import shorten
    from mnist_pipeline.training.checkpoint import Checkpoint
    from mnist_pipeline.training.trainer import Trainer

    model = shorten(bench.model, epochs + 1)
    turns, bare_epoch = Turns(), bare_loop(bench, model)
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        started = time.perf_counter()

        def after_epoch(epoch: "Epoch") -> None:
            # `train` calls this last of all, so that from the end of one call to the next is all that an epoch costs.
            nonlocal started
            turns.trainer.append(time.perf_counter() - started)
            turns.trainer_loss.append(epoch.loss)
            bare_epoch(turns)
            times = f"trainer {turns.trainer[-1]:6.2f} s  bare {turns.bare[-1]:6.2f} s"
            say(f"epoch {epoch.epoch}/{epochs + 1}  {times}  loss {epoch.loss:.4f} and {turns.bare_loss[-1]:.4f}")
            started = time.perf_counter()

        checkpoint = Checkpoint(Path(folder) / "checkpoint.npz", key="")
        trainer = Trainer(bench.train_data, bench.validation, device=bench.device, black=bench.black)
        return turns, trainer.train(model, seed=bench.params.seed, on_epoch=after_epoch, checkpoint=checkpoint)


def bare_loop(bench: Bench, model: ModelParams) -> Callable[[Turns], None]:
    """Return a function that does one more epoch and writes down how long it took."""
    import tensorflow as tf

    from mnist_pipeline.training.batches import batches, steps_per_epoch

    count = len(bench.train_data)
    steps = steps_per_epoch(model, count)
    step, validate = bare_functions(bench, model, steps)
    feed = iter(batches(count, model.training.batch_size, model.training.epochs, bench.params.seed))

    def one_epoch(turns: Turns) -> None:
        started, total = time.perf_counter(), tf.zeros(())
        for _ in range(steps):
            total += step(*next(feed))
        turns.bare_loss.append(float(total) / steps)  # waits for the last step
        turns.bare_steps.append(time.perf_counter() - started)
        validate()
        turns.bare.append(time.perf_counter() - started)

    return one_epoch


def bare_functions(bench: Bench, model: ModelParams, steps: int) -> tuple[Callable[..., Any], Callable[[], None]]:
    """Return the compiled training step, (indices, positions) to the loss, and a pass over the validation images."""
    import keras
    import tensorflow as tf

    from mnist_pipeline.models.network import build_network
    from mnist_pipeline.training.schedule import build_optimizer

    keras.utils.set_random_seed(bench.params.seed)
    network = build_network(model.architecture)
    optimizer = build_optimizer(model.training, steps * model.training.epochs)
    optimizer.build(network.trainable_variables)
    fetch = bare_fetch(bench, model, steps)

    @tf.function(jit_compile=bench.device.xla)
    def step(indices: Any, positions: Any) -> Any:
        images, targets = fetch(indices, positions)
        with tf.GradientTape() as tape:
            logits = network(images, training=True)
            loss = tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))
        gradients = tape.gradient(loss, network.trainable_variables)
        optimizer.apply(gradients, network.trainable_variables)
        return loss

    return step, bare_validation(bench, network)


def bare_fetch(bench: Bench, model: ModelParams, steps: int) -> Callable[[Any, Any], tuple[Any, Any]]:
    """Return what gives a step its distorted images and its targets, by the same compiled augmentation as ours."""
    import tensorflow as tf

    from mnist_pipeline.models.augmentation import augment
    from mnist_pipeline.training.batches import CLASSES, one_hot

    smoothing = model.training.label_smoothing
    images = tf.constant(bench.train_data.images)
    targets = tf.constant(one_hot(bench.train_data) * (1 - smoothing) + smoothing / CLASSES)
    augmented_epochs = model.training.epochs - model.training.final_epochs_without_augmentation
    augmented_until = augmented_epochs * steps * model.training.batch_size

    @tf.function(jit_compile=True)
    def distort(batch: Any, position: Any) -> Any:
        seed = tf.stack([tf.constant(bench.params.seed, tf.int64), position])
        strength = tf.cast(position < augmented_until, tf.float32)
        return augment(batch, model.augmentation, seed, black=bench.black, strength=strength)

    def fetch(indices: Any, positions: Any) -> tuple[Any, Any]:
        batch = tf.gather(images, indices)
        augmented = batch if model.augmentation.is_off else distort(batch, positions[0])
        return augmented, tf.gather(targets, indices)

    return fetch


def bare_validation(bench: Bench, network: Any) -> Callable[[], None]:
    """Return a pass over the validation images that computes the logits and nothing more."""
    import tensorflow as tf

    from mnist_pipeline.training.batches import VALIDATION_BATCH

    @tf.function
    def logits_of(batch: Any) -> Any:
        return network(batch, training=False)

    def validate() -> None:
        for start in range(0, len(bench.validation), VALIDATION_BATCH):
            logits_of(tf.constant(bench.validation.images[start : start + VALIDATION_BATCH])).numpy()

    return validate


@dataclass(frozen=True)
class Elsewhere(Project):
    """The project with its data and its git, but with a store and models of its own, which are thrown away."""

    def model(self, name: str) -> Path:
        """Folder of the model, beside the temporary store."""
        return self.home / "models" / name


def measure_tracking(bench: Bench, result: "TrainingResult") -> dict[str, float]:
    """Return the seconds that tracking a training of full length takes, with the stage's own functions."""
    from mnist_pipeline.stages.train import _write, find_checkpoint, summarize

    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as folder:
        project = Elsewhere(root=bench.project.root, home=Path(folder))
        # As in the stage: DVC's cache lists the raw files, and the checkpoint's key has the digests of the splits.
        Path(folder, ".dvc").symlink_to(bench.project.home / ".dvc")
        find_checkpoint(project, bench.params, bench.name, bench.device)
        once = _open_new_store(project)
        metrics = summarize(result)
        _write(project.model(bench.name), _finished(bench, result), result, metrics)
        return {"once_per_store": once, **_track(bench, project, result, metrics)}


def _track(bench: Bench, project: Project, result: "TrainingResult", metrics: dict[str, float]) -> dict[str, float]:
    """Log what `stages.train` logs; the epochs just trained over again, until there are as many as the model has."""
    from mnist_pipeline.tracking.preview import contact_sheet
    from mnist_pipeline.tracking.runs import training_run

    ours = bench.model
    started = time.perf_counter()
    with training_run(project, bench.params, bench.name, tags=bench.device.tags()) as run:
        if not ours.augmentation.is_off:
            sheet = contact_sheet(bench.name, ours, bench.train_data, seed=bench.params.seed, black=bench.black)
            run.log_figure(sheet, "augmentation.png")
        opened = time.perf_counter()
        for number in range(1, ours.training.epochs + 1):
            run.log_epochs(_numbered(result, number))
        logged = time.perf_counter()
        run.log_result(metrics)
    ended = time.perf_counter()
    return {
        "start_of_run": opened - started,
        "epochs": logged - opened,
        "model_and_end": ended - logged,
        "total": ended - started,
    }


def _open_new_store(project: Project) -> float:
    """Return the seconds to load MLflow and create an empty store, which happens once per process and per project."""
    from mnist_pipeline.tracking.store import open_store

    started = time.perf_counter()
    open_store(project)
    return time.perf_counter() - started


def _finished(bench: Bench, result: "TrainingResult") -> Any:
    from mnist_pipeline.data.normalize import load_normalization
    from mnist_pipeline.models.preprocessing import with_preprocessing

    return with_preprocessing(result.network, load_normalization(bench.project.normalization))


def _numbered(result: "TrainingResult", number: int) -> "Epoch":
    from dataclasses import replace

    return replace(result.history[(number - 1) % len(result.history)], epoch=number)


def report(bench: Bench, turns: Turns, tracking: dict[str, float], results: Path) -> None:
    """Print what was found and write it as JSON and Markdown."""
    rest = slice(1, None)  # the first epoch compiles
    pairs = zip(turns.trainer[rest], turns.bare[rest], strict=True)
    statistics = {
        "trainer": Statistic.of(turns.trainer[rest]),
        "bare_loop": Statistic.of(turns.bare[rest]),
        "bare_loop_steps_alone": Statistic.of(turns.bare_steps[rest]),
        "ratio": Statistic.of([ours / bare for ours, bare in pairs]),
    }
    whole = turns.trainer[0] + (bench.model.training.epochs - 1) * (statistics["trainer"].mean or 0.0)
    share = tracking["total"] / (whole + tracking["total"])
    grids = [_epochs_grid(statistics), _tracking_grid(tracking, share)]
    notes = _notes(bench, turns, whole)
    for grid in grids:
        grid.show()
    for note in notes:
        console().print(f"- {note}", markup=False, soft_wrap=False)
    text = "\n".join([*(grid.markdown() for grid in grids), *(f"- {note}" for note in notes)])
    with atomic_path(results.with_suffix(".md")) as temporary:
        temporary.write_text(f"# Cost of the trainer and of tracking\n\n{text}\n", encoding="utf-8")
    content = {key: value.as_json() for key, value in statistics.items()} | {"epochs": vars(turns)}
    more = {"tracking_seconds": tracking, "tracking_share": share, "machine": machine(), "versions": versions()}
    write_json(results, content | more)
    say(f"Written: {results} and {results.with_suffix('.md')}")


def _notes(bench: Bench, turns: Turns, whole: float) -> list[str]:
    return [
        describe(machine(), versions()),
        f"Model {bench.name}. Both do the same: training loss of the last epoch {turns.trainer_loss[-1]:.5f} "
        f"(trainer) and {turns.bare_loss[-1]:.5f} (bare).",
        "A trainer's epoch is everything from one to the next: steps, metrics, validation with averaged weights, best "
        "weights, checkpoint. The ratio is taken epoch by epoch, so that both of a pair meet the same machine.",
        f"Share of tracking: of a training of {bench.model.training.epochs} epochs, reckoned from its first epoch and "
        f"the mean of the others ({whole:.0f} s), plus the tracking. Loading MLflow and creating the store are not in "
        "it.",
    ]


def _epochs_grid(statistics: dict[str, Statistic]) -> Grid:
    ratio = statistics["ratio"]
    met = "yes" if (ratio.mean or 0.0) <= TRAINER_LIMIT else "NO"
    rows = [
        ["trainer, seconds per epoch", statistics["trainer"].text(".2f"), ""],
        ["bare loop, seconds per epoch", statistics["bare_loop"].text(".2f"), ""],
        ["bare loop without validation", statistics["bare_loop_steps_alone"].text(".2f"), ""],
        ["trainer / bare loop", ratio.text(".3f"), f"at most {TRAINER_LIMIT:.2f}: {met}"],
    ]
    return Grid(f"Trainer ({ratio.n} epochs each, after the first)", ("", "measured", "target"), rows)


def _tracking_grid(tracking: dict[str, float], share: float) -> Grid:
    met = "yes" if share <= TRACKING_LIMIT else "NO"
    rows = [
        ["start: parameters, data, lineage, preview", f"{tracking['start_of_run']:.2f}", ""],
        ["all epochs", f"{tracking['epochs']:.2f}", ""],
        ["model, files, end of the run", f"{tracking['model_and_end']:.2f}", ""],
        ["share of a default training", f"{share:.2%}", f"at most {TRACKING_LIMIT:.0%}: {met}"],
        ["(once: load MLflow, create the store)", f"{tracking['once_per_store']:.2f}", ""],
    ]
    return Grid("Tracking, seconds", ("", "measured", "target"), rows)


if __name__ == "__main__":
    run_command(app)
