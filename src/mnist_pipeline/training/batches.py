"""Which images each step of a training sees: an order that depends on (seed, epoch) and nothing else."""

from typing import Any

import keras
import tensorflow as tf

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.errors import UserError
from mnist_pipeline.params import ModelParams

CLASSES = 10
VALIDATION_BATCH = 1_000
"""Images per validation step: large enough to keep two cores busy, small enough for any memory."""


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
