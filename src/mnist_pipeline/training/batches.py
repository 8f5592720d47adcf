"""Which images each step of a training sees: an order that depends on (seed, epoch) and nothing else."""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.training.params import Training

VALIDATION_BATCH = 1_000
"""Images per validation step: large enough to keep two cores busy, small enough for any memory."""


def steps_per_epoch(training: Training, images: int, replicas: int = 1) -> int:
    """Return the number of full batches in `images`; the remainder of each epoch's shuffle waits for another epoch.

    Raises:
        UserError: not even one, or the devices cannot share a batch evenly, as Keras needs it.
    """
    if training.batch_size % replicas:
        raise UserError(
            f"params.yaml: training.batch_size is {training.batch_size}, which {replicas} devices cannot share evenly: "
            f"make it a multiple of {replicas}, or hide devices with CUDA_VISIBLE_DEVICES."
        )
    if steps := images // training.batch_size:
        return steps
    raise UserError(
        f"params.yaml: training.batch_size is {training.batch_size}, more than the {images} training images: "
        "lower it, or lower split.validation_size."
    )


def training_batches(
    data: Subset, classes: int, training: Training, seed: int, *, first_epoch: int = 0
) -> tf.data.Dataset:
    """Yield (pixels, targets) per step, uint8 (batch, height, width) and float32 (batch, classes).

    They go from `first_epoch` to the last. Each is a new permutation that depends on (seed, epoch) alone, wherever the
    training runs or resumes. Labels are smoothed here and not in the loss, so that the validation loss is that of the
    labels as they are.
    """
    smoothing = training.label_smoothing
    pixels = tf.constant(data.images)
    targets = tf.constant(_one_hot(data, classes) * (1 - smoothing) + smoothing / classes)
    kept = steps_per_epoch(training, len(data)) * training.batch_size

    def one_epoch(epoch: tf.Tensor) -> tf.data.Dataset:
        order = tf.random.experimental.stateless_shuffle(  # pyright: ignore[reportAttributeAccessIssue]
            tf.range(len(data), dtype=tf.int64), seed=tf.stack([tf.constant(seed, tf.int64), epoch]), alg="philox"
        )
        return tf.data.Dataset.from_tensor_slices(tf.reshape(order[:kept], (-1, training.batch_size)))

    def fetch(indices: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(pixels, indices), tf.gather(targets, indices)

    epochs = tf.data.Dataset.range(first_epoch, training.epochs)
    return _untuned(epochs.flat_map(one_epoch).map(fetch).prefetch(2))


def validation_batches(validation: Subset, classes: int, replicas: int = 1) -> tf.data.Dataset:
    """Yield (pixels, targets), uint8 (batch, height, width) and float32 (batch, classes), in order.

    All but the last can be shared evenly by `replicas`: Keras averages the first over them to learn its shape.
    """
    slices = tf.data.Dataset.from_tensor_slices((validation.images, _one_hot(validation, classes)))
    even = min(VALIDATION_BATCH, len(validation)) // replicas * replicas
    return _untuned(slices.batch(max(even, 1)))


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Switch off tf.data's tuning of itself.

    There is nothing to tune, and its thread sleeps for up to a minute: `fit` was seen to wait for it at the end, for 3
    to 50 idle seconds, in every other training.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def _one_hot(subset: Subset, classes: int) -> NDArray[np.float32]:
    """Return the labels as targets, float32 (n, classes)."""
    return np.eye(classes, dtype=np.float32)[subset.labels]
