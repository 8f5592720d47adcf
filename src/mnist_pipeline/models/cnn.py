"""The convolutional network."""

from typing import TYPE_CHECKING

from mnist_pipeline.params import IMAGE_SIDE, CnnArchitecture, ConvolutionBlock

if TYPE_CHECKING:
    import keras


def build_cnn(architecture: CnnArchitecture) -> "keras.Model":
    """Build the untrained convolutional network: normalized images (n, 28, 28) in, float32 logits (n, 10) out."""
    import keras
    from keras import layers

    images = keras.Input((IMAGE_SIDE, IMAGE_SIDE), name="normalized_image")
    x = layers.Reshape((IMAGE_SIDE, IMAGE_SIDE, 1))(images)
    for block in architecture.blocks:
        x = _block(x, block, architecture)
    x = layers.Flatten()(x)
    first, *others = architecture.dropouts
    if first:
        x = layers.Dropout(first)(x)
    for units, dropout in zip(architecture.dense_units, others, strict=True):
        x = layers.Dense(units, use_bias=not architecture.batch_normalization)(x)
        x = _activate(x, architecture)
        if dropout:
            x = layers.Dropout(dropout)(x)
    return keras.Model(images, layers.Dense(10, dtype="float32", name="logits")(x), name="network")


def _block(x: "keras.KerasTensor", block: ConvolutionBlock, architecture: CnnArchitecture) -> "keras.KerasTensor":
    """Append the block's convolutions, its pooling and its dropout."""
    from keras import layers

    for index in range(block.convolutions):
        x = layers.Conv2D(
            block.filters,
            block.kernel_size,
            padding=architecture.padding,
            use_bias=not architecture.batch_normalization,
        )(x)
        # Pooling before the activation gives the same numbers for a monotone one (all of ours but gelu and silu are)
        # and leaves a quarter of the pixels to normalize and activate.
        if index == block.convolutions - 1 and block.pooling > 1:
            x = layers.MaxPooling2D(block.pooling)(x)
        x = _activate(x, architecture)
    return layers.Dropout(block.dropout)(x) if block.dropout else x


def _activate(x: "keras.KerasTensor", architecture: CnnArchitecture) -> "keras.KerasTensor":
    from keras import layers

    if architecture.batch_normalization:
        x = layers.BatchNormalization()(x)
    return layers.Activation(architecture.activation)(x)
