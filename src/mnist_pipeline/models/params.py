"""What `params.yaml` says about a network: its normalization, its architecture and the distortion of its images."""

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from mnist_pipeline.core.params import Fraction, Section
from mnist_pipeline.data.params import LARGEST_SIDE

Dropout = Annotated[
    Annotated[Fraction, Tag("one")] | Annotated[tuple[Fraction, ...], Field(strict=False), Tag("many")],
    # Told apart by their shape, so that a wrong number is not also called a bad list.
    Discriminator(lambda value: "many" if isinstance(value, list | tuple) else "one"),
]


Scheme = Literal["unit", "standard", "symmetric", "l2"]
"""How a network's first layer turns pixels 0-255 into the numbers that the next one sees.

`unit`: x/255, in [0, 1]. `standard`: mean 0, standard deviation 1 over the train split. `symmetric`: [-1, 1].
`l2`: Keras' `normalize(axis=1)`, which gives each *column* of pixels unit length."""


Units = Annotated[int, Field(ge=1, le=8_192)]
"""Width of a layer; more would not fit into the memory of most machines."""


class MlpArchitecture(Section):
    """A multi-layer perceptron on the pixels."""

    kind: Literal["mlp"]
    """Chooses this architecture."""
    hidden_units: Annotated[tuple[Units, ...], Field(min_length=1, max_length=10, strict=False)]
    """Units of each hidden layer, first to last."""
    dropout: Dropout
    """Share of units dropped after each hidden layer, in [0, 1): one value for all, or one per layer."""
    activation: Literal["relu", "gelu", "silu", "tanh", "elu"]
    """Non-linearity of the hidden layers."""
    batch_normalization: bool
    """Normalize each hidden layer before its activation. Off ships: Keras 3 computes it unfused, slowly on a CPU."""

    @property
    def dropouts(self) -> tuple[float, ...]:
        """The dropout after each hidden layer."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * len(self.hidden_units)

    @model_validator(mode="after")
    def _one_dropout_per_layer(self) -> Self:
        _check_length("dropout", self.dropouts, len(self.hidden_units), "one per entry of hidden_units")
        return self

    def check_size(self, image_size: tuple[int, int]) -> None:
        """Do nothing: images of every size will do."""


class ConvolutionBlock(Section):
    """One or more equal convolutions, then pooling."""

    filters: Annotated[int, Field(ge=1, le=2_048)]
    """Channels out of each convolution."""
    kernel_size: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    """Side of the square kernel, in pixels."""
    convolutions: Annotated[int, Field(ge=1, le=10)]
    """How many in a row."""
    pooling: Annotated[int, Field(ge=1, le=LARGEST_SIDE)]
    """Side of the max-pooling window and its stride, in pixels; 1 switches pooling off."""
    dropout: Fraction
    """Share of activations dropped after the block."""


class CnnArchitecture(Section):
    """Convolution blocks, then dense layers."""

    kind: Literal["cnn"]
    """Chooses this architecture."""
    blocks: Annotated[tuple[ConvolutionBlock, ...], Field(min_length=1, max_length=8, strict=False)]
    """The convolution blocks, first to last."""
    padding: Literal["valid", "same"]
    """`valid` shrinks the image by kernel_size - 1 at each convolution and is faster; `same` keeps its size."""
    dense_units: Annotated[tuple[Units, ...], Field(max_length=10, strict=False)]
    """Units of each dense layer between the convolutions and the outputs; may be empty."""
    dropout: Dropout
    """Share of units dropped after flattening and after each dense layer: one value, or 1 + len(dense_units)."""
    activation: Literal["relu", "gelu", "silu", "tanh", "elu"]
    """Non-linearity after every convolution and dense layer."""
    batch_normalization: bool
    """Normalize before each activation. Off ships: a net of this size trains faster, and as well, without."""

    @property
    def dropouts(self) -> tuple[float, ...]:
        """The dropout after flattening and after each dense layer."""
        return self.dropout if isinstance(self.dropout, tuple) else (self.dropout,) * (1 + len(self.dense_units))

    @model_validator(mode="after")
    def _one_dropout_per_layer(self) -> Self:
        _check_length("dropout", self.dropouts, 1 + len(self.dense_units), "one after flattening, one per dense layer")
        return self

    def check_size(self, image_size: tuple[int, int]) -> None:
        """Make sure that something is left of images of this height and width, in pixels.

        Raises:
            ValueError: a block leaves no pixel.
        """
        side = min(image_size)
        for index, block in enumerate(self.blocks):
            shrink = block.convolutions * (block.kernel_size - 1) if self.padding == "valid" else 0
            side = (side - shrink) // block.pooling
            if side < 1:
                raise ValueError(
                    f"leaves no pixel of {image_size[0]}x{image_size[1]} after blocks.{index}: use fewer or smaller "
                    "convolutions, less pooling or `padding: same`"
                )


Architecture = Annotated[MlpArchitecture | CnnArchitecture, Field(discriminator="kind")]


class Augmentation(Section):
    """Random distortions of the training images, drawn anew for every image and epoch; 0 switches each off."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    """Degrees, uniform in [-rotation, rotation]."""
    shift: Annotated[float, Field(ge=0, le=LARGEST_SIDE)]
    """Pixels, along each axis, uniform in [-shift, shift]."""
    zoom: Fraction
    """Fraction, along each axis, uniform in [1 - zoom, 1 + zoom]."""
    shear: Annotated[float, Field(ge=0, lt=90)]
    """Degrees, uniform in [-shear, shear]."""
    elastic: Annotated[float, Field(ge=0, le=20)]
    """Pixels: standard deviation of the smoothed random displacement (Simard 2003)."""
    elastic_smoothing: Annotated[float, Field(gt=0, le=LARGEST_SIDE)]
    """Pixels: standard deviation of the Gaussian that smooths the displacement; 4 is Simard's."""
    flip: bool
    """Whether every second image, by chance, is mirrored left to right. Not for digits; good for shoes."""

    @property
    def is_off(self) -> bool:
        """Whether every strength is 0, and nothing is mirrored."""
        return not any((self.rotation, self.shift, self.zoom, self.shear, self.elastic, self.flip))


def _check_length(key: str, values: tuple[float, ...], expected: int, why: str) -> None:
    if len(values) != expected:
        raise ValueError(f"{key} has {len(values)} values, but needs {expected}: {why}, or a single value for all")
