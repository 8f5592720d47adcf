"""Random distortions of a batch of images, inside the compiled graph and on the training device.

Rotation, zoom, shear and shift are composed into one affine map per image, an elastic displacement is added to it, and
the image is sampled once, bilinearly, with 0 outside, the background. (Keras' random layers sample once each and switch
XLA off.)
The elastic part follows Simard, Steinkraus and Platt, "Best practices for convolutional neural networks", 2003.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.models.params import Augmentation

if TYPE_CHECKING:
    import tensorflow as tf


def augment(images: "tf.Tensor", augmentation: Augmentation, seed: "tf.Tensor", *, strength: Any = 1.0) -> "tf.Tensor":
    """Distort each image by a draw of its own.

    Args:
        images: raw pixels, uint8 (n, height, width).
        augmentation: the strengths, in degrees, pixels and fractions.
        seed: int32 or int64 (2,). The same seed gives the same draws, on every device and with or without XLA.
        strength: scales every draw; 0 returns the images as they are.

    Returns:
        Raw pixels, uint8 (n, height, width), rounded.
    """
    import tensorflow as tf

    count, (_, height, width) = tf.shape(images)[0], cast(tuple[None, int, int], images.shape)
    zoom, shift = augmentation.zoom, augmentation.shift
    turn, shear = math.radians(augmentation.rotation), math.radians(augmentation.shear)
    limits = [strength * limit for limit in (turn, shear, zoom, zoom, shift, shift)]
    draws = [limit * _uniform((count,), seed, index) for index, limit in enumerate(limits)]
    rows, columns = _affine_grid(draws, height, width)
    if augmentation.elastic:
        fields = _displacement(augmentation.elastic_smoothing, (count, height, width), seed)
        fields = strength * augmentation.elastic * fields
        rows, columns = rows + fields[0], columns + fields[1]
    if augmentation.flip:
        is_mirrored = _uniform((count, 1, 1), seed, 7) < strength - 1.0  # half of them, or none at strength 0
        columns = tf.where(is_mirrored, width - 1.0 - columns, columns)
    return tf.cast(tf.round(sample_bilinear(tf.cast(images, tf.float32), rows, columns)), tf.uint8)


def _uniform(shape: Any, seed: "tf.Tensor", stream: int) -> Any:
    """Draw from [-1, 1); each `stream` of a seed is independent of the others."""
    import tensorflow as tf

    # The algorithm is named because "auto" means another one under XLA, and the draws would depend on the device.
    folded: Any = tf.random.fold_in(seed, stream, alg="philox")
    return tf.random.stateless_uniform(shape, folded, minval=-1.0, maxval=1.0, alg="philox")


def _affine_grid(draws: "Sequence[tf.Tensor]", height: int, width: int) -> tuple["tf.Tensor", "tf.Tensor"]:
    """Return where each output pixel comes from: row and column coordinates, float32 (n, height, width) each.

    The image is sheared, zoomed, rotated counter-clockwise about its centre and shifted down and right; this is the
    inverse of that map, because sampling asks where a pixel comes from.

    Args:
        draws: rotation, shear, zoom along rows and columns, shift along both; float32 (n,) each.
        height: of the images, in pixels.
        width: likewise.
    """
    import tensorflow as tf

    middle, centre = (height - 1) / 2, (width - 1) / 2
    rotation, shear, zoom_rows, zoom_columns, shift_rows, shift_columns = (draw[:, None, None] for draw in draws)
    down = (tf.range(height, dtype=tf.float32) - middle)[None, :, None] - shift_rows
    right = (tf.range(width, dtype=tf.float32) - centre)[None, None, :] - shift_columns
    cosine, sine = tf.cos(rotation), tf.sin(rotation)
    # Rows grow downwards: counter-clockwise on the screen takes (right, down) to (right cos + down sin, ...).
    unrotated_right = cosine * right - sine * down
    unrotated_down = sine * right + cosine * down
    source_down = unrotated_down / (1 + zoom_rows)
    source_right = unrotated_right / (1 + zoom_columns) - tf.tan(shear) * source_down
    return source_down + middle, source_right + centre


def _displacement(smoothing: float, shape: Any, seed: "tf.Tensor") -> "tf.Tensor":
    """Draw smooth displacement fields, down and right, of standard deviation 1; float32 (2, *shape).

    White noise is smoothed by a Gaussian. (Simard's alpha multiplies the same field, but not brought to deviation 1.)

    Args:
        smoothing: standard deviation of the Gaussian, in pixels.
        shape: number, height and width of the images.
        seed: as for `augment`.
    """
    import tensorflow as tf

    count, height, width = shape
    # Two matrix products, because XLA's depthwise convolution takes a hundred times as long on a CPU.
    down, right = (tf.constant(_smoothing_weights(smoothing, side), tf.float32) for side in (height, width))
    deviation = 1 / math.sqrt(3)  # of a uniform draw from [-1, 1)
    noise = _uniform((2, count, down.shape[1], right.shape[1]), seed, 6) / deviation
    return down @ noise @ tf.transpose(right)


def _smoothing_weights(smoothing: float, side: int) -> NDArray[np.float64]:
    """Return what smooths noise along an axis to `side` pixels, from more on both sides of it: (side, more)."""
    radius = min(math.ceil(3 * smoothing), side)
    offsets = np.arange(side + 2 * radius) - radius - np.arange(side)[:, None]
    weights = np.exp(-0.5 * (offsets / smoothing) ** 2) * (abs(offsets) <= radius)
    return weights / np.sqrt((weights**2).sum(axis=1, keepdims=True))


def sample_bilinear(images: "tf.Tensor", rows: "tf.Tensor", columns: "tf.Tensor") -> "tf.Tensor":
    """Read each image at real-valued coordinates by bilinear interpolation, with 0, which is background, outside.

    Args:
        images: float32 (n, height, width).
        rows: float32 (n, height, width); 0 is the centre of the top row, height - 1 of the bottom row.
        columns: likewise, left to right.

    Returns:
        float32 (n, height, width).
    """
    import tensorflow as tf

    # A frame of zeros, and coordinates clipped into it, stand for everything outside.
    framed = tf.pad(images, ((0, 0), (1, 1), (1, 1)))
    _, height, width = cast(tuple[None, int, int], framed.shape)
    # Just inside, so that the neighbours to the right and below exist.
    rows, columns = (
        tf.clip_by_value(places + 1, 0.0, side - 1 - 1e-4) for places, side in ((rows, height), (columns, width))
    )
    top, left = tf.floor(rows), tf.floor(columns)
    down, right = rows - top, columns - left
    pixels = tf.reshape(framed, (-1,))
    image = tf.range(tf.shape(images)[0])[:, None, None] * height * width
    corner = image + tf.cast(top, tf.int32) * width + tf.cast(left, tf.int32)

    def along_columns(offset: int) -> Any:
        start, end = tf.gather(pixels, corner + offset), tf.gather(pixels, corner + offset + 1)
        return start + right * (end - start)

    upper, lower = along_columns(0), along_columns(width)
    return upper + down * (lower - upper)
