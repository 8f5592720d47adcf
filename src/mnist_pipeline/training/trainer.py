"""The only training loop: Keras' `fit`, on batches that depend on (seed, epoch, step) and nothing else.

The pipeline, the tuner and the benchmarks all train through `train`.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import tensorflow as tf

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.errors import UserError
from mnist_pipeline.models.augmentation import augment
from mnist_pipeline.models.network import build_network
from mnist_pipeline.params import ModelParams
from mnist_pipeline.training.callbacks import BestWeights, Checkpointer, EpochRecorder, EpochReporter, OnEpoch
from mnist_pipeline.training.checkpoint import Checkpoint, State
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch, best_epoch
from mnist_pipeline.training.schedule import build_optimizer

CLASSES = 10
VALIDATION_BATCH = 1_000
"""Images per validation step: large enough to keep two cores busy, small enough for any memory."""


@dataclass(frozen=True)
class TrainingResult:
    """A trained network and how it came to be."""

    network: keras.Model
    """Normalized images (n, 28, 28) to logits (n, 10), with the weights of the best epoch."""
    history: Sequence[Epoch]
    """Every epoch, in order."""
    best: Epoch
    """The one whose weights were kept: the best by `training.monitor`, the first of equals."""
    seconds: float
    """Wall time from building the network to the last epoch, compilation included."""


def train(
    model: ModelParams,
    train_data: Subset,
    validation: Subset,
    *,
    seed: int,
    device: Device,
    black: float,
    on_epoch: OnEpoch = lambda _: None,
    checkpoint: Checkpoint | None = None,
) -> TrainingResult:
    """Train one network, from scratch or from the last finished epoch in `checkpoint`.

    The same arguments on the same machine give the same weights, bit for bit, resumed or not.

    Args:
        model: what to train and how.
        train_data: normalized images and labels to learn from.
        validation: likewise, to choose the best epoch on.
        seed: of initial weights, order of images, dropout and augmentation.
        device: from `choose_device`.
        black: the normalized value of pixel 0, which augmentation puts outside the image.
        on_epoch: called after each epoch; returning True stops the training there.
        checkpoint: where to save each epoch; removing it when the result is safe is the caller's part.

    Raises:
        UserError: the batch is larger than the training set, or the loss is not finite.
    """
    started = time.perf_counter()
    epochs, steps = model.training.epochs, steps_per_epoch(model, len(train_data))
    keras.utils.set_random_seed(seed)
    with device.scope():
        trained = TrainingModel(build_network(model.architecture), model, train_data, seed=seed, black=black)
        trained.prepare(build_optimizer(model.training, steps * epochs), xla=device.xla)
    state = checkpoint.load() if checkpoint else None
    history = _restore(trained, state) if state else []
    trained.separate_replicas()
    earlier = state.seconds if state else 0.0
    best = BestWeights(history, model.training, state.best if state else ())
    if len(history) < epochs and not best.out_of_patience():
        trained.fit(
            batches(len(train_data), model.training.batch_size, epochs, seed, first_epoch=len(history)),
            initial_epoch=len(history),
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=validation_batches(validation),
            # Record, choose, save, tell: each needs what the one before it did.
            callbacks=[
                EpochRecorder(history),
                best,
                *([Checkpointer(checkpoint, history, best, earlier)] if checkpoint else []),
                EpochReporter(history, on_epoch),
            ],
            shuffle=False,  # `batches` shuffles
            verbose=0,  # pyright: ignore[reportArgumentType]
        )
    # A network of its own, of the usual precision and on no strategy, so that any machine can use and save it.
    network = build_network(model.architecture) if device.is_special else trained.network
    network.set_weights(best.best)
    kept = best_epoch(history, model.training.monitor)
    return TrainingResult(network, tuple(history), kept, earlier + time.perf_counter() - started)


def _restore(trained: "TrainingModel", state: State) -> list[Epoch]:
    """Put the model where the state left it; return the epochs that are done."""
    for variables, values in (
        (trained.network.variables, state.network),
        (trained.optimizer.variables, state.optimizer),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
    return [*state.history]


def steps_per_epoch(model: ModelParams, images: int) -> int:
    """Return the number of full batches in `images`; the remainder of each epoch's shuffle waits for another epoch.

    Raises:
        UserError: not even one.
    """
    if steps := images // model.training.batch_size:
        return steps
    raise UserError(
        f"params.yaml: training.batch_size is {model.training.batch_size}, more than the {images} training images: "
        "lower it, or lower split.validation_size."
    )


def batches(images: int, batch_size: int, epochs: int, seed: int, *, first_epoch: int = 0) -> tf.data.Dataset:
    """Yield (indices, positions) per step, int64 (batch,) each: which images, and where in the whole training.

    Each epoch is a new permutation that depends on (seed, epoch) alone. A position counts examples from the start of
    the training, so that augmentation can derive its draws from it wherever the training runs or resumes.
    """
    per_epoch = images // batch_size * batch_size

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(  # pyright: ignore[reportAttributeAccessIssue]
            tf.range(images, dtype=tf.int64),
            seed=tf.stack([tf.constant(seed, tf.int64), epoch]),
            alg="philox",
        )[:per_epoch]
        positions = epoch * per_epoch + tf.range(per_epoch, dtype=tf.int64)
        return tf.data.Dataset.from_tensor_slices((order, positions)).batch(batch_size, drop_remainder=True)

    return _untuned(tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).prefetch(2))


def validation_batches(validation: Subset) -> tf.data.Dataset:
    """Yield (images, targets), float32 (batch, 28, 28) and (batch, 10), in order."""
    slices = tf.data.Dataset.from_tensor_slices((tf.constant(validation.images), tf.constant(one_hot(validation))))
    return _untuned(slices.batch(VALIDATION_BATCH))


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Switch off tf.data's tuning of itself.

    There is nothing to tune, and its thread sleeps for up to a minute: `fit` was seen to wait for it at the end, for 3
    to 50 idle seconds, in every other training.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def one_hot(subset: Subset) -> Any:
    """Return the labels as targets, float32 (n, 10)."""
    return keras.utils.to_categorical(subset.labels, CLASSES)


class TrainingModel(keras.Model):
    """A network that is fed indices: images, labels and augmentation stay on the device."""

    def __init__(
        self, network: keras.Model, model: ModelParams, train_data: Subset, *, seed: int, black: float
    ) -> None:
        super().__init__()
        self.network = network
        self._params = model
        self._seed = seed
        self._black = black
        # Variables and not constants, because a strategy keeps a copy of a variable on each of its devices.
        self._images: Any = tf.Variable(tf.constant(train_data.images), trainable=False)
        self._targets: Any = tf.Variable(self._smooth(one_hot(train_data)), trainable=False)
        training = model.training
        per_epoch = len(train_data) // training.batch_size * training.batch_size
        self._augmented_until = (training.epochs - training.final_epochs_without_augmentation) * per_epoch

    def prepare(self, optimizer: keras.optimizers.Optimizer, *, xla: bool) -> None:
        """Compile, and create the optimizer's variables: to be called in the device's scope."""
        self.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=xla,  # pyright: ignore[reportArgumentType]
        )
        self.optimizer.build(self.trainable_variables)

    def separate_replicas(self) -> None:
        """Give the dropout of each replica random numbers of its own: Keras starts them all from the same seeds."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        weights = {id(variable) for variable in self.network.weights}
        for seed in (variable for variable in self.network.variables if id(variable) not in weights):
            copies = self.distribute_strategy.experimental_local_results(seed.value)
            for replica, copy in enumerate(copies if replicas > 1 else ()):
                copy.assign(copy + tf.constant([replica, 0], copy.dtype))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Let Keras create, under a strategy, its metrics from images.

        Keras would take a batch of what `fit` is given: indices, with which the network cannot be called. It would also
        average that batch over the replicas, which fails where their shares differ by an image.
        """
        if self.distribute_strategy.num_replicas_in_sync > 1:
            with self.distribute_strategy.scope():
                self._symbolic_build(data_batch=(self._images[:1], self._targets[:1]))

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the logits of normalized images."""
        return self.network(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Take Keras' own step on the images that the indices stand for."""
        return super().train_step(self.fetch(*data))

    def fetch(self, indices: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the images of one step, distorted, and their targets.

        Where replicas share a step, each has its part of the indices and positions, hence draws of its own.
        """
        images, targets = tf.gather(self._images, indices), tf.gather(self._targets, indices)
        if not self._params.augmentation.is_off:
            images = self._augment(images, positions[0])
        return images, targets

    # XLA fuses the gathers and the arithmetic of the warp: four times faster than op by op, on a CPU too.
    @tf.function(jit_compile=True)
    def _augment(self, images: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), position])
        strength = tf.cast(position < self._augmented_until, tf.float32)
        return augment(images, self._params.augmentation, seed, black=self._black, strength=strength)

    def _smooth(self, targets: Any) -> Any:
        smoothing = self._params.training.label_smoothing
        return targets * (1 - smoothing) + smoothing / CLASSES
