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
    seconds: float
    """Wall time from building the network to the last epoch, compilation included."""

    @property
    def best(self) -> Epoch:
        """The epoch whose weights were kept: best validation accuracy, ties by validation loss, the first of equals."""
        return best_epoch(self.history)


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
    keras.config.set_dtype_policy(device.precision)
    with device.distribution().scope():
        trained = TrainingModel(build_network(model.architecture), model, train_data, seed=seed, black=black)
        trained.compile(
            optimizer=build_optimizer(model.training, steps * epochs),
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=device.xla,  # pyright: ignore[reportArgumentType]
        )
    state = checkpoint.load() if checkpoint else None
    history = _restore(trained, state) if state else []
    earlier = state.seconds if state else 0.0
    best = BestWeights(history, model.training.early_stopping, state.best if state else ())
    if len(history) < epochs and not best.out_of_patience():
        trained.fit(
            batches(len(train_data), model.training.batch_size, epochs, seed, first_epoch=len(history)),
            initial_epoch=len(history),
            epochs=epochs,
            steps_per_epoch=steps,
            validation_data=(validation.images, one_hot(validation)),
            validation_batch_size=VALIDATION_BATCH,
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
    trained.network.set_weights(best.best)
    return TrainingResult(trained.network, tuple(history), earlier + time.perf_counter() - started)


def _restore(trained: "TrainingModel", state: State) -> list[Epoch]:
    """Put the model where the state left it; return the epochs that are done."""
    trained.optimizer.build(trained.trainable_variables)
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

    return tf.data.Dataset.range(first_epoch, epochs).flat_map(one_epoch).prefetch(2)


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
        self._images = tf.constant(train_data.images)
        self._targets = tf.constant(self._smooth(one_hot(train_data)))
        training = model.training
        per_epoch = len(train_data) // training.batch_size * training.batch_size
        self._augmented_until = (training.epochs - training.final_epochs_without_augmentation) * per_epoch

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the logits of normalized images."""
        return self.network(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Fetch the batch by its indices, distort it, and take Keras' own step."""
        indices, positions = data
        images, targets = tf.gather(self._images, indices), tf.gather(self._targets, indices)
        if not self._params.augmentation.is_off:
            images = self._augment(images, positions[0])
        return super().train_step((images, targets))

    # XLA fuses the gathers and the arithmetic of the warp: four times faster than op by op, on a CPU too.
    @tf.function(jit_compile=True)
    def _augment(self, images: tf.Tensor, position: tf.Tensor) -> tf.Tensor:
        seed = tf.stack([tf.constant(self._seed, tf.int64), position])
        strength = tf.cast(position < self._augmented_until, tf.float32)
        return augment(images, self._params.augmentation, seed, black=self._black, strength=strength)

    def _smooth(self, targets: Any) -> Any:
        smoothing = self._params.training.label_smoothing
        return targets * (1 - smoothing) + smoothing / CLASSES
