"""What it costs that a training repeats to the bit: see README.md.

Repeatable are the order of the images and every draw of the augmentation: both depend on (seed, epoch, step) alone.
Here they take turns with what one would write otherwise, tf.data's shuffle buffer and TensorFlow's stateful random
numbers, over whole epochs without the training itself.
"""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any
from unittest.mock import patch

import typer

from bench import Grid, Statistic, describe, machine, versions
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import console, quiet_native_logs, say
from mnist_pipeline.files import atomic_path
from mnist_pipeline.params import ModelParams, load_params
from mnist_pipeline.project import find_project

RESULTS = Path(__file__).parent / "results" / "determinism_cost.md"

Feed = Callable[[], Any]
"""Makes the batches of one epoch: (indices, positions)."""

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    model: Annotated[str, typer.Option(help="An augmented model of params.yaml.")] = "cnn",
    epochs: Annotated[int, typer.Option(min=2, help="Epochs of each that count, after one that compiles.")] = 10,
    results: Annotated[Path, typer.Option(help="Markdown file.")] = RESULTS,
) -> None:
    """Compare seconds per epoch of shuffling and augmenting, repeatable against not. Run it after `dvc repro`."""
    from mnist_pipeline.data.dataset import load_train
    from mnist_pipeline.training.devices import choose_device

    project = find_project()
    params = load_params(project.params)
    images = load_train(project.split).images
    with quiet_native_logs():
        import_module("tensorflow")
    choose_device(params.device)
    ours, theirs = contestants(params.model(model), images)
    turns = [(timed(ours), timed(theirs)) for _ in range(epochs + 1)][1:]
    report(turns, model, results)


def contestants(model: ModelParams, images: Any) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return two functions that shuffle and augment one epoch: the trainer's way, and without repeating."""
    import tensorflow as tf

    from mnist_pipeline.models import augmentation
    from mnist_pipeline.training.batches import batches

    count, size = len(images), model.training.batch_size

    def stateful_uniform(shape: Any, _seed: Any, _stream: int) -> Any:
        return tf.random.uniform(shape, -1.0, 1.0)

    def twice(indices: Any) -> tuple[Any, Any]:
        return indices, indices

    def shuffled() -> Any:
        order = tf.data.Dataset.range(count).shuffle(count).batch(size, drop_remainder=True)
        return order.map(twice).prefetch(2)

    def ordered() -> Any:
        return batches(count, size, 1, seed=0)

    ours = one_epoch(model, images, ordered)
    theirs = one_epoch(model, images, shuffled)
    with patch.object(augmentation, "_uniform", stateful_uniform):
        theirs()  # compiles with these draws
    return ours, theirs


def one_epoch(model: ModelParams, images: Any, feed: Feed) -> Callable[[], None]:
    """Return a function that fetches and distorts the images of every batch of one epoch."""
    import tensorflow as tf

    from mnist_pipeline.models.augmentation import augment

    data = tf.constant(images)

    @tf.function(jit_compile=True)
    def distort(batch: Any, position: Any) -> Any:
        return tf.reduce_sum(augment(batch, model.augmentation, tf.stack([position, position]), black=0.0))

    @tf.function
    def step(indices: Any, positions: Any) -> Any:
        return distort(tf.gather(data, indices), positions[0])

    def run() -> None:
        total = tf.zeros(())
        for indices, positions in feed():
            total += step(indices, positions)
        float(total)  # waits for the last step

    return run


def timed(run: Callable[[], None]) -> float:
    """Return the wall seconds that `run` takes."""
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def report(turns: list[tuple[float, float]], model: str, results: Path) -> None:
    """Print the seconds per epoch of both and write them as Markdown."""
    ours, theirs = Statistic.of([first for first, _ in turns]), Statistic.of([second for _, second in turns])
    difference = Statistic.of([first - second for first, second in turns])
    grid = Grid(
        f"Shuffling and augmenting one epoch of {model} (n = {len(turns)})",
        ("", "seconds"),
        [
            ["repeatable (the trainer's)", ours.text(".3f")],
            ["not repeatable (shuffle buffer, stateful draws)", theirs.text(".3f")],
            ["difference, turn by turn", difference.text(".3f")],
        ],
    )
    grid.show()
    place = describe(machine(), versions())
    console().print(f"- {place}", markup=False, soft_wrap=False)
    with atomic_path(results) as temporary:
        temporary.write_text(f"# Cost of determinism\n\n{grid.markdown()}\n- {place}\n", encoding="utf-8")
    say(f"Written: {results}")


if __name__ == "__main__":
    run_command(app)
