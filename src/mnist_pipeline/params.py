"""`params.yaml` as frozen, typed models: what each knob means, and the refusal of everything else.

There are no silent defaults for what changes a result: a knob is in `params.yaml` or it is an error. The docstring
under each field gives its unit, range and the reason for the value that ships.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails, PydanticCustomError

from mnist_pipeline.errors import UserError

IMAGE_SIDE = 28
"""Height and width of an MNIST image, in pixels."""

Fraction = Annotated[float, Field(ge=0, lt=1)]
PositiveInt = Annotated[int, Field(gt=0)]
ModelName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=40)]


Dropout = Annotated[
    Annotated[Fraction, Tag("one")] | Annotated[tuple[Fraction, ...], Field(strict=False), Tag("many")],
    # Told apart by their shape, so that a wrong number is not also called a bad list.
    Discriminator(lambda value: "many" if isinstance(value, list | tuple) else "one"),
]


class Section(BaseModel):
    """A block of `params.yaml`: immutable, strictly typed, closed to unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    @model_validator(mode="before")
    @classmethod
    def _suggest_a_name(cls, data: Any) -> Any:
        """Refuse an unknown key here, where the valid names are known, so that the error can suggest one."""
        if not isinstance(data, Mapping):
            return data
        for key in data:
            if key not in cls.model_fields:
                close = difflib.get_close_matches(str(key), cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean `{close[0]}`? " if close else ""
                raise PydanticCustomError(
                    "unknown_key",
                    "is not a known key; {hint}allowed here: {allowed}",
                    {"key": key, "hint": hint, "allowed": ", ".join(cls.model_fields)},
                )
        return data


class Normalize(Section):
    """How pixels 0-255 become the numbers a network sees."""

    scheme: Literal["unit", "standard", "symmetric", "l2"]
    """`unit`: x/255, in [0, 1]. `standard`: mean 0, standard deviation 1 over the training file. `symmetric`: [-1, 1].
    `l2`: Keras' `normalize(axis=1)`, which gives each *column* of pixels unit length. `unit` ships: the simplest."""


class Split(Section):
    """Which of the 60,000 training images are kept for validation."""

    validation_size: Annotated[int, Field(ge=10, le=59_990)]
    """Images, 10 to 59,990. 5,000 ships: its standard error at 99.4 % is 0.11 points, and 55,000 stay to train on."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Its own seed, so that a change of the training seed leaves the data alone."""


class MlpArchitecture(Section):
    """A multi-layer perceptron on the 784 pixels."""

    kind: Literal["mlp"]
    """Chooses this architecture."""
    hidden_units: Annotated[tuple[PositiveInt, ...], Field(min_length=1, max_length=10, strict=False)]
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


class ConvolutionBlock(Section):
    """One or more equal convolutions, then pooling."""

    filters: PositiveInt
    """Channels out of each convolution."""
    kernel_size: Annotated[int, Field(ge=1, le=IMAGE_SIDE)]
    """Side of the square kernel, in pixels."""
    convolutions: Annotated[int, Field(ge=1, le=10)]
    """How many in a row."""
    pooling: Annotated[int, Field(ge=1, le=IMAGE_SIDE)]
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
    dense_units: Annotated[tuple[PositiveInt, ...], Field(max_length=10, strict=False)]
    """Units of each dense layer between the convolutions and the ten outputs; may be empty."""
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

    @model_validator(mode="after")
    def _the_image_is_large_enough(self) -> Self:
        side = IMAGE_SIDE
        for index, block in enumerate(self.blocks):
            shrink = block.convolutions * (block.kernel_size - 1) if self.padding == "valid" else 0
            side = (side - shrink) // block.pooling
            if side < 1:
                raise ValueError(
                    f"leaves no pixel after blocks.{index}: use fewer or smaller convolutions, less pooling or "
                    "`padding: same`"
                )
        return self


Architecture = Annotated[MlpArchitecture | CnnArchitecture, Field(discriminator="kind")]


class _Optimizer(Section):
    learning_rate: Annotated[float, Field(gt=0, le=10)]
    """Step size at the schedule's peak."""


class Adam(_Optimizer):
    """Kingma and Ba 2015."""

    name: Literal["adam"]
    """Chooses this optimizer."""
    beta_1: Fraction
    """Decay of the mean of the gradients."""
    beta_2: Fraction
    """Decay of the mean of their squares."""


class AdamW(_Optimizer):
    """Adam with decoupled weight decay, Loshchilov and Hutter 2019."""

    name: Literal["adamw"]
    """Chooses this optimizer."""
    beta_1: Fraction
    """Decay of the mean of the gradients. 0.7 ships with one-cycle: high rates want less momentum."""
    beta_2: Fraction
    """Decay of the mean of their squares. 0.99 ships: short runs cannot afford 0.999's memory of 1,000 steps."""
    weight_decay: Annotated[float, Field(ge=0, le=1)]
    """Per step and unit of learning rate, on every weight."""


class RmsProp(_Optimizer):
    """Tieleman and Hinton 2012."""

    name: Literal["rmsprop"]
    """Chooses this optimizer."""
    rho: Fraction
    """Decay of the mean of the squared gradients."""
    momentum: Fraction
    """Share of the last step that is taken again."""


class Sgd(_Optimizer):
    """Stochastic gradient descent."""

    name: Literal["sgd"]
    """Chooses this optimizer."""
    momentum: Fraction
    """Share of the last step that is taken again."""
    nesterov: bool
    """Look ahead along the momentum; needs momentum above 0."""

    @model_validator(mode="after")
    def _nesterov_needs_momentum(self) -> Self:
        if self.nesterov and self.momentum == 0:
            raise ValueError("nesterov: true needs momentum above 0, found 0: raise momentum or set nesterov: false")
        return self


Optimizer = Annotated[Adam | AdamW | RmsProp | Sgd, Field(discriminator="name")]


class Constant(Section):
    """The same learning rate throughout."""

    name: Literal["constant"]
    """Chooses this schedule."""


class Cosine(Section):
    """Linear warm-up from 0, then half a cosine down to 0 (Loshchilov and Hutter 2017)."""

    name: Literal["cosine"]
    """Chooses this schedule."""
    warmup: Fraction
    """Share of all steps spent rising."""


class OneCycle(Section):
    """Half a cosine up from 1/25 of the peak, half a cosine down to 1/10,000 of that (Smith and Topin 2018)."""

    name: Literal["one_cycle"]
    """Chooses this schedule."""
    warmup: Annotated[float, Field(gt=0, lt=1)]
    """Share of all steps spent rising."""


Schedule = Annotated[Constant | Cosine | OneCycle, Field(discriminator="name")]


class Training(Section):
    """How the weights are found."""

    epochs: Annotated[int, Field(ge=1, le=1_000)]
    """Passes over the training images, at most."""
    batch_size: Annotated[int, Field(ge=1, le=8_192)]
    """Images per step."""
    optimizer: Optimizer
    """The update rule."""
    schedule: Schedule
    """The learning rate over time, per step."""
    label_smoothing: Fraction
    """Share of the target spread evenly over the ten classes; 0 switches it off."""
    weight_average: Fraction
    """Decay per step of the exponential moving average of the weights that is validated and kept; 0 switches it off."""
    monitor: Literal["accuracy", "loss"]
    """Which of the two on the validation split tells the best epoch, whose weights are kept; the other breaks ties.
    `accuracy` ships: it is what models are compared by."""
    early_stopping: Annotated[int, Field(ge=0, le=1_000)]
    """Stop after so many epochs without a better one; 0 never stops. The best epoch is kept always."""
    final_epochs_without_augmentation: Annotated[int, Field(ge=0, le=1_000)]
    """The last epochs see the images as they are."""

    @model_validator(mode="after")
    def _final_epochs_fit(self) -> Self:
        if self.final_epochs_without_augmentation > self.epochs:
            raise ValueError(
                f"final_epochs_without_augmentation is {self.final_epochs_without_augmentation}, more than the "
                f"{self.epochs} epochs there are"
            )
        return self


class Augmentation(Section):
    """Random distortions of the training images, drawn anew for every image and epoch; 0 switches each off."""

    rotation: Annotated[float, Field(ge=0, le=180)]
    """Degrees, uniform in [-rotation, rotation]."""
    shift: Annotated[float, Field(ge=0, le=IMAGE_SIDE)]
    """Pixels, along each axis, uniform in [-shift, shift]."""
    zoom: Fraction
    """Fraction, along each axis, uniform in [1 - zoom, 1 + zoom]."""
    shear: Annotated[float, Field(ge=0, lt=90)]
    """Degrees, uniform in [-shear, shear]."""
    elastic: Annotated[float, Field(ge=0, le=20)]
    """Pixels: standard deviation of the smoothed random displacement (Simard 2003)."""
    elastic_smoothing: Annotated[float, Field(gt=0, le=IMAGE_SIDE)]
    """Pixels: standard deviation of the Gaussian that smooths the displacement; 4 is Simard's."""

    @property
    def is_off(self) -> bool:
        """Whether every strength is 0."""
        return not any((self.rotation, self.shift, self.zoom, self.shear, self.elastic))


class ModelParams(Section):
    """One model to train."""

    architecture: Architecture
    """What the network is."""
    training: Training
    """How it is trained."""
    augmentation: Augmentation
    """What it is trained on."""


class FloatRange(Section):
    """A real number between two bounds, both included."""

    type: Literal["float"]
    """Chooses this kind of range."""
    low: float
    """The least value."""
    high: float
    """The greatest value."""
    log: bool = False
    """Draw the logarithm uniformly: for what acts by its order of magnitude, such as a learning rate."""
    step: Annotated[float, Field(gt=0)] | None = None
    """Only low, low + step, low + 2 step and so on; absent, any number."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.step, log=self.log)
        return self


class IntRange(Section):
    """A whole number between two bounds, both included."""

    type: Literal["int"]
    """Chooses this kind of range."""
    low: int
    """The least value."""
    high: int
    """The greatest value."""
    log: bool = False
    """Draw the logarithm uniformly."""
    step: PositiveInt | None = None
    """Only low, low + step, low + 2 step and so on; absent, every number."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        _check_range(self.low, self.high, self.step, log=self.log)
        return self


class Choice(Section):
    """One of some values, which have no order."""

    type: Literal["choice"]
    """Chooses this kind of range."""
    values: Annotated[tuple[Any, ...], Field(min_length=2, strict=False)]
    """What to choose from: numbers, names, or whole lists such as the sizes of all layers."""

    @field_validator("values")
    @classmethod
    def _are_different(cls, values: tuple[Any, ...]) -> tuple[Any, ...]:
        if repeated := [value for index, value in enumerate(values) if value in values[:index]]:
            raise ValueError(f"{repeated[0]} is there twice: remove one")
        return values


ParameterRange = Annotated[FloatRange | IntRange | Choice, Field(discriminator="type")]
SearchSpace = Annotated[dict[str, ParameterRange], Field(min_length=1)]


class Tune(Section):
    """What `mnist tune` searches. No stage of the pipeline depends on it."""

    pruner: Literal["percentile", "hyperband", "none"]
    """Which trials stop early: `percentile` those below the median of the others at their epoch (from the sixth trial
    on, and after the first fifth of the epochs), `hyperband` all but the best third at each of a few epochs, `none` not
    one. `percentile` ships, Optuna's own default: it needs no more epochs than a trial has anyway."""
    space: dict[ModelName, SearchSpace]
    """Per model, the parameters to vary: the dotted path below `models.<model>` (`training.optimizer.learning_rate`,
    `architecture.blocks.0.filters`) and what values it may take. The current value must be one of them."""


class Params(Section):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Of initial weights, order of images, dropout and augmentation."""
    device: Literal["auto", "gpu", "cpu"]
    """`auto` takes every visible GPU, otherwise the CPU; `gpu` without one is an error."""
    normalize: Normalize
    """The pixels."""
    split: Split
    """The subsets."""
    models: Annotated[dict[ModelName, ModelParams], Field(min_length=1)]
    """What each model is and how it is trained, by name."""
    train: Annotated[tuple[ModelName, ...], Field(min_length=1, strict=False)]
    """The models that the pipeline trains and compares; other entries of `models` wait until they are named here."""
    tune: Tune = Tune(pruner="percentile", space={})
    """The search for better parameters; a pipeline that is not searched need not have it."""

    @field_validator("models", mode="before")
    @classmethod
    def _names_are_strings(cls, models: Any) -> Any:
        # YAML reads `yes:` or `1:` as a boolean or a number; DVC would then name the stage after that.
        for name in models if isinstance(models, Mapping) else ():
            if not isinstance(name, str):
                raise ValueError(f"the name {name!r} is not text: put it in quotes")
        return models

    @field_validator("train")
    @classmethod
    def _are_there(cls, train: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = info.data.get("models", train)
        for name in train:
            if name not in known:
                raise ValueError(f"{name} is not under models: choose from {', '.join(known)}")
            if train.count(name) > 1:
                raise ValueError(f"{name} is there twice: remove one")
        return train

    def with_seed(self, name: str, seed: int | None) -> "tuple[Params, str]":
        """Return the parameters for one model with another seed, and the name that tells it from its siblings.

        Args:
            name: of the model.
            seed: to use instead; None changes nothing.

        Raises:
            UserError: there is no such model.
        """
        model = self.model(name)
        if seed is None:
            return self, name
        sibling = f"{name}_seed{seed}"
        return self.model_copy(update={"seed": seed, "train": (sibling,), "models": {sibling: model}}), sibling

    def model(self, name: str) -> ModelParams:
        """Return the entry `name` of `models`.

        Raises:
            UserError: there is none.
        """
        if name not in self.models:
            raise UserError(f"params.yaml has no model `{name}` under models: choose one of {', '.join(self.models)}.")
        return self.models[name]


def load_params(path: Path) -> Params:
    """Read and check a `params.yaml`.

    Raises:
        UserError: it is missing, is not YAML, or breaks a rule: a sentence for each key, with its full path, its value,
            what is allowed and, for a misspelt key, the nearest valid name.
    """
    data = _read_yaml(path)
    try:
        return Params.model_validate(data)
    except ValidationError as error:
        raise UserError("\n".join(_sentence(path.name, data, detail) for detail in error.errors())) from error


def _read_yaml(path: Path) -> Any:
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing: restore it with `git checkout params.yaml`.") from error
    except (YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}.") from error


def _sentence(file: str, data: Any, detail: ErrorDetails) -> str:
    """Say one validation error as one sentence: file, key, value, what is allowed."""
    context, loc, message = detail.get("ctx", {}), [*detail["loc"]], detail["msg"]
    match detail["type"]:
        case "unknown_key":
            loc.append(context["key"])
        case "union_tag_invalid":
            loc.append(context["discriminator"].strip("'"))
            message = f"must be one of {context['expected_tags']}"
        case "union_tag_not_found":
            loc.append(context["discriminator"].strip("'"))
            message = "is missing"
        case _:
            message = message.removeprefix("Value error, ").replace("Input should", "must")
            message = message.replace("Field required", "is missing").replace("String should", "must")
    absent = message == "is missing"
    keys, value = _locate(data, loc, missing=absent)
    found = "" if absent or isinstance(value, Mapping | list) else f" (found {value!r})"
    return f"{file}: {'.'.join(keys) or 'the file'}{found}: {message}."


def _locate(data: Any, loc: list[Any], *, missing: bool) -> tuple[list[str], Any]:
    """Follow pydantic's location through the data, leaving out the union tags that it puts between the keys."""
    keys: list[str] = []
    for position, part in enumerate(loc):
        last = position == len(loc) - 1
        if (isinstance(data, Mapping) and part in data) or (isinstance(data, list) and part in range(len(data))):
            data = data[part]
        elif not (missing and last):
            continue
        keys.append(str(part))
    return keys, data


def _check_range(low: float, high: float, step: float | None, *, log: bool) -> None:
    if low >= high:
        raise ValueError(f"low is {low:g} and high {high:g}: low must be less than high")
    if log and low <= 0:
        raise ValueError(f"log: true needs low above 0, found {low:g}")
    if log and step is not None:
        raise ValueError("log: true and step exclude each other: remove one")
    if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-8:
        raise ValueError(f"high - low must be a whole number of steps of {step:g}")


def _check_length(key: str, values: tuple[float, ...], expected: int, why: str) -> None:
    if len(values) != expected:
        raise ValueError(f"{key} has {len(values)} values, but needs {expected}: {why}, or a single value for all")
