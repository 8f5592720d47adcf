"""The convolutional network."""

from typing import TYPE_CHECKING

from mnist_pipeline.models.params import CnnArchitecture, ConvolutionBlock

if TYPE_CHECKING:
    import keras


def connect(x: "keras.KerasTensor", architecture: CnnArchitecture) -> "keras.KerasTensor":
    """Append blocks and dense layers to normalized images (n, height, width); return the last one's (n, units)."""
    from keras import layers

    x = layers.Reshape((*x.shape[1:], 1), name="channel")(x)
    for index, block in enumerate(architecture.blocks, start=1):
        x = _block(x, block, architecture, f"block_{index}")
    x = layers.Flatten(name="flatten")(x)
    first, *others = architecture.dropouts
    if first:
        x = layers.Dropout(first, name="dropout")(x)
    for index, (units, dropout) in enumerate(zip(architecture.dense_units, others, strict=True), start=1):
        name = f"dense_{index}"
        x = layers.Dense(units, use_bias=not architecture.batch_normalization, name=name)(x)
        x = _activate(x, architecture, name)
        if dropout:
            x = layers.Dropout(dropout, name=f"{name}_dropout")(x)
    return x


def _block(
    x: "keras.KerasTensor", block: ConvolutionBlock, architecture: CnnArchitecture, name: str
) -> "keras.KerasTensor":
    """Append the block's convolutions, its pooling and its dropout."""
    from keras import layers

    for index in range(1, block.convolutions + 1):
        x = layers.Conv2D(
            block.filters,
            block.kernel_size,
            padding=architecture.padding,
            use_bias=not architecture.batch_normalization,
            name=f"{name}_convolution_{index}",
        )(x)
        # Pooling before the activation gives the same numbers for a monotone one (all of ours but gelu and silu are)
        # and leaves a quarter of the pixels to normalize and activate.
        if index == block.convolutions and block.pooling > 1:
            x = layers.MaxPooling2D(block.pooling, name=f"{name}_pooling")(x)
        x = _activate(x, architecture, f"{name}_{index}")
    return layers.Dropout(block.dropout, name=f"{name}_dropout")(x) if block.dropout else x


def _activate(x: "keras.KerasTensor", architecture: CnnArchitecture, name: str) -> "keras.KerasTensor":
    from keras import layers

    if architecture.batch_normalization:
        x = layers.BatchNormalization(name=f"{name}_batch_normalization")(x)
    return layers.Activation(architecture.activation, name=f"{name}_activation")(x)
