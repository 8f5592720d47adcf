"""Random distortions of a batch of images, inside the compiled graph and on the training device.

Rotation, zoom, shear and shift are composed into one affine map per image, an elastic displacement is added to it, and
the image is sampled once, bilinearly, with black outside. (Keras' random layers sample once each and switch XLA off.)
The elastic part follows Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", 2003.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_pipeline.data.params import IMAGE_SIDE
from mnist_pipeline.models.params import Augmentation

if TYPE_CHECKING:
    import tensorflow as tf


def augment(images: "tf.Tensor", augmentation: Augmentation, seed: "tf.Tensor", *, strength: Any = 1.0) -> "tf.Tensor":
    """Distort each image by a draw of its own.

    Args:
        images: raw pixels, uint8 (n, 28, 28).
        augmentation: the strengths, in degrees, pixels and fractions.
        seed: int32 or int64 (2,). The same seed gives the same draws, on every device and with or without XLA.
        strength: scales every draw; 0 returns the images as they are.

    Returns:
        Raw pixels, uint8 (n, 28, 28), rounded.
    """
    import tensorflow as tf

    count = tf.shape(images)[0]
    zoom, shift = augmentation.zoom, augmentation.shift
    turn, shear = math.radians(augmentation.rotation), math.radians(augmentation.shear)
    limits = [strength * limit for limit in (turn, shear, zoom, zoom, shift, shift)]
    rows, columns = _affine_grid([limit * _uniform((count,), seed, index) for index, limit in enumerate(limits)])
    if augmentation.elastic:
        fields = strength * augmentation.elastic * _displacement(augmentation.elastic_smoothing, count, seed)
        rows, columns = rows + fields[0], columns + fields[1]
    return tf.cast(tf.round(sample_bilinear(tf.cast(images, tf.float32), rows, columns)), tf.uint8)


def _uniform(shape: Any, seed: "tf.Tensor", stream: int) -> Any:
    """Draw from [-1, 1); each `stream` of a seed is independent of the others."""
    import tensorflow as tf

    # The algorithm is named because "auto" means another one under XLA, and the draws would depend on the device.
    folded: Any = tf.random.fold_in(seed, stream, alg="philox")
    return tf.random.stateless_uniform(shape, folded, minval=-1.0, maxval=1.0, alg="philox")


def _affine_grid(draws: "Sequence[tf.Tensor]") -> tuple["tf.Tensor", "tf.Tensor"]:
    """Return where each output pixel comes from: row and column coordinates, float32 (n, 28, 28) each.

    The image is sheared, zoomed, rotated counter-clockwise about its centre and shifted down and right; this is the
    inverse of that map, because sampling asks where a pixel comes from.

    Args:
        draws: rotation, shear, zoom along rows and columns, shift along both; float32 (n,) each.
    """
    import tensorflow as tf

    centre = (IMAGE_SIDE - 1) / 2
    axis = tf.range(IMAGE_SIDE, dtype=tf.float32) - centre
    rotation, shear, zoom_rows, zoom_columns, shift_rows, shift_columns = (draw[:, None, None] for draw in draws)
    down = axis[None, :, None] - shift_rows
    right = axis[None, None, :] - shift_columns
    cosine, sine = tf.cos(rotation), tf.sin(rotation)
    # Rows grow downwards: counter-clockwise on the screen takes (right, down) to (right cos + down sin, ...).
    unrotated_right = cosine * right - sine * down
    unrotated_down = sine * right + cosine * down
    source_down = unrotated_down / (1 + zoom_rows)
    source_right = unrotated_right / (1 + zoom_columns) - tf.tan(shear) * source_down
    return source_down + centre, source_right + centre


def _displacement(smoothing: float, count: "tf.Tensor", seed: "tf.Tensor") -> "tf.Tensor":
    """Draw smooth displacement fields, down and right, of standard deviation 1; float32 (2, n, 28, 28).

    White noise is smoothed by a Gaussian. (Simard's alpha multiplies the same field, but not brought to deviation 1.)
    """
    import tensorflow as tf

    radius = min(math.ceil(3 * smoothing), IMAGE_SIDE)
    size = IMAGE_SIDE + 2 * radius
    offsets = np.arange(size) - radius - np.arange(IMAGE_SIDE)[:, None]
    weights = np.exp(-0.5 * (offsets / smoothing) ** 2) * (abs(offsets) <= radius)
    weights /= np.sqrt((weights**2).sum(axis=1, keepdims=True))
    # Two matrix products, because XLA's depthwise convolution takes a hundred times as long on a CPU.
    smooth = tf.constant(weights, tf.float32)
    deviation = 1 / math.sqrt(3)  # of a uniform draw from [-1, 1)
    noise = _uniform((2, count, size, size), seed, 6) / deviation
    return smooth @ noise @ tf.transpose(smooth)


def sample_bilinear(images: "tf.Tensor", rows: "tf.Tensor", columns: "tf.Tensor") -> "tf.Tensor":
    """Read each image at real-valued coordinates by bilinear interpolation, with 0, which is paper, outside.

    Args:
        images: float32 (n, 28, 28).
        rows: float32 (n, 28, 28); 0 is the centre of the top row, 27 of the bottom row.
        columns: likewise, left to right.

    Returns:
        float32 (n, 28, 28).
    """
    import tensorflow as tf

    # A frame of zeros, and coordinates clipped into it, stand for everything outside.
    side = IMAGE_SIDE + 2
    framed = tf.pad(images, ((0, 0), (1, 1), (1, 1)))
    last = side - 1 - 1e-4  # just inside, so that the neighbour to the right exists
    rows, columns = tf.clip_by_value(rows + 1, 0.0, last), tf.clip_by_value(columns + 1, 0.0, last)
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = rows - top, columns - left
    pixels = tf.reshape(framed, (-1,))
    image = tf.range(tf.shape(images)[0])[:, None, None] * side * side
    corner = image + tf.cast(top, tf.int32) * side + tf.cast(left, tf.int32)

    def along_columns(offset: int) -> Any:
        start, end = tf.gather(pixels, corner + offset), tf.gather(pixels, corner + offset + 1)
        return start + right * (end - start)

    upper, lower = along_columns(0), along_columns(side)
    return upper + down * (lower - upper)
