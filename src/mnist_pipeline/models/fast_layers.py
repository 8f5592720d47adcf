"""Layers of Keras, trained in less time on a CPU.

Each wraps a layer of the model that is saved and trains its weights; whatever is not training, the layer does itself.
"""

from functools import partial
from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers


def accelerate(model: keras.Model) -> keras.Model:
    """Return the same network on the same weights, with the layers of this module where they pay.

    What it computes in training differs from what `model` does by rounding only.
    """
    pooled: dict[Any, Any] = {
        first: second
        for first, second in pairwise(model.layers)
        if _is_convolution_of_one_channel(first) and _is_pooling_by_two(second)
    }

    def exchange(layer: Any) -> Any:
        if layer in pooled:
            return PooledConvolution(layer, pooled[layer])
        if layer in pooled.values():
            return layers.Identity()
        if isinstance(layer, layers.BatchNormalization) and len(_shape(layer)) == 4:
            return FusedBatchNormalization(layer)
        return layer

    return keras.models.clone_model(model, clone_function=exchange)


def _is_convolution_of_one_channel(layer: Any) -> bool:
    return isinstance(layer, layers.Conv2D) and _shape(layer)[-1] == 1


def _is_pooling_by_two(layer: Any) -> bool:
    return isinstance(layer, layers.MaxPooling2D) and layer.pool_size == (2, 2)


def _shape(layer: Any) -> tuple[int | None, ...]:
    """Return the shape of what the layer is given."""
    return layer.input.shape


class FusedBatchNormalization(layers.Wrapper):
    """Batch normalization of images by TensorFlow's one operation for it; Keras 3 takes several."""

    def call(self, inputs: Any, training: bool = False, mask: None = None) -> Any:
        """Normalize (n, rows, columns, channels) by the statistics of the batch, and average these."""
        plain: Any = self.layer
        if not training:
            return plain(inputs)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=plain.gamma,
            offset=plain.beta,
            mean=plain.moving_mean,
            variance=plain.moving_variance,
            epsilon=plain.epsilon,
            exponential_avg_factor=1 - plain.momentum,
        )
        plain.moving_mean.assign(mean)
        plain.moving_variance.assign(variance)
        return outputs


class PooledConvolution(layers.Wrapper):
    """A convolution of images of one channel and the max-pooling after it, as one matrix product.

    A convolution fills vectors from its channels, and one channel leaves them empty. Here each pooled pixel is a patch
    of the image, times the kernel at each of the places that are pooled, of which the largest is kept.

    Args:
        convolution: of stride 1.
        pooling: what follows it.
    """

    def __init__(self, convolution: layers.Layer, pooling: layers.MaxPooling2D) -> None:
        super().__init__(convolution)
        self.pooling = pooling

    def call(self, images: Any, training: bool = False) -> Any:
        """Return (n, pooled rows, pooled columns, filters) of (n, rows, columns, 1)."""
        plain: Any = self.layer
        if not training:
            return self.pooling(plain(images))
        pool, size, filters = self.pooling.pool_size[0], plain.kernel.shape[0], plain.filters
        blocks = -(-(size + pool - 1) // pool)  # along a side of a patch, each of pool x pool pixels
        if plain.padding == "same":
            before, after = (size - 1) // 2, size // 2
            images = tf.pad(images, ((0, 0), (before, after), (before, after), (0, 0)))
        rows, columns = ((side - size + 1) // pool for side in images.shape[1:3])
        products = tf.matmul(
            tf.reshape(_patches(images, blocks, pool, rows, columns), (-1, (blocks * pool) ** 2)),
            _at_each_place(plain.kernel, blocks, pool),
        )
        largest = _largest(tf.reshape(products, (-1, rows, columns, pool * pool, filters)))
        return largest + plain.bias if plain.use_bias else largest


@tf.function(jit_compile=True, autograph=False)
def _patches(images: Any, blocks: int, pool: int, rows: int, columns: int) -> Any:
    """Return the patch behind each pooled pixel, block by block: (n, rows, columns, blocks * blocks * pool * pool)."""
    height, width = ((count - 1 + blocks) * pool for count in (rows, columns))
    missing = [(0, max(0, side - there)) for side, there in zip((height, width), images.shape[1:3], strict=True)]
    images = tf.pad(images, ((0, 0), *missing, (0, 0)))[:, :height, :width]
    by_block = tf.nn.space_to_depth(images, pool)
    places = [(row, column) for row in range(blocks) for column in range(blocks)]
    return tf.concat([by_block[:, row : row + rows, column : column + columns] for row, column in places], axis=-1)


def _at_each_place(kernel: Any, blocks: int, pool: int) -> Any:
    """Return the kernel (size, size, 1, filters) at each place in a patch: (pixels of a patch, places * filters)."""
    left = blocks * pool - kernel.shape[0]
    places = [(row, column) for row in range(pool) for column in range(pool)]
    kernels = [tf.pad(kernel, ((row, left - row), (column, left - column), (0, 0), (0, 0))) for row, column in places]
    by_block = tf.reshape(tf.concat(kernels, axis=-1), (blocks, pool, blocks, pool, -1))
    return tf.reshape(tf.transpose(by_block, (0, 2, 1, 3, 4)), ((blocks * pool) ** 2, -1))


@tf.custom_gradient
def _largest(values: Any) -> Any:
    """Return the largest along the last axis but one; its gradient goes to the first of equals."""
    largest, place = _largest_and_place(values)
    return largest, partial(_to_place, place, values.shape[-2])


@tf.function(jit_compile=True, autograph=False)
def _largest_and_place(values: Any) -> tuple[Any, Any]:
    largest, *others = tf.unstack(values, axis=-2)
    place = tf.zeros_like(largest, tf.int8)
    for index, other in enumerate(others, start=1):
        place = tf.where(other > largest, tf.constant(index, tf.int8), place)
        largest = tf.maximum(largest, other)
    return largest, place


@tf.function(jit_compile=True, autograph=False)
def _to_place(place: Any, places: int, gradient: Any) -> Any:
    is_there = place[..., None, :] == np.arange(places, dtype=np.int8)[:, None]
    return tf.where(is_there, gradient[..., None, :], tf.zeros((), gradient.dtype))
