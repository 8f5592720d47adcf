"""What `params.yaml` says about training, and the whole of the file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.params import Fraction, ModelName, Section, read_params
from mnist_pipeline.data.params import Data, Split
from mnist_pipeline.models.params import Architecture, Augmentation, Scheme

Precision = Literal["auto", "float32", "bfloat16", "float16"]


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
    """Share of the target spread evenly over all classes; 0 switches it off."""
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


class ModelParams(Section):
    """One model to train."""

    normalization: Scheme
    """What its first layer does to pixels 0-255. `unit` ships: the simplest."""
    architecture: Architecture
    """What the network is."""
    training: Training
    """How it is trained."""
    augmentation: Augmentation
    """What it is trained on."""


class Params(Section):
    """All of `params.yaml`."""

    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Seed of initial weights, order of images, dropout and augmentation."""
    device: Literal["auto", "gpu", "cpu"]
    """`auto` takes every visible GPU, otherwise the CPU; `gpu` without one is an error."""
    precision: Precision
    """What is computed in; weights, softmax and loss are float32 in each. `auto` ships: 16 bits on GPUs that are faster
    so, and float32 on a CPU, whose bits have repeated on two kinds of processor."""
    data: Data | None = None
    """The images; absent where another project's are used, as in `baselines/`."""
    split: Split | None = None
    """The subsets; absent where another project's are used, as in `baselines/`."""
    models: Annotated[dict[ModelName, ModelParams], Field(min_length=1)]
    """What each model is and how it is trained, by name."""
    train: Annotated[tuple[ModelName, ...], Field(min_length=1, strict=False)]
    """The models that the pipeline trains and compares; other entries of `models` wait until they are named here."""
    tune: dict[str, Any] = Field(default={})
    """The search for better parameters, which `tuning/params.py` knows; no stage of the pipeline depends on it."""

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

    @field_validator("train")
    @classmethod
    def _suit_the_images(cls, train: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        data, models = info.data.get("data"), info.data.get("models", {})
        for name in train if data and models else ():
            try:
                models[name].architecture.check_size(data.image_size)
            except ValueError as error:
                raise ValueError(f"models.{name}.architecture {error}") from error
        return train

    def with_seed(self, seed: int | None) -> "Params":
        """Return the parameters with another seed; None changes nothing."""
        return self if seed is None else self.model_copy(update={"seed": seed})

    def model(self, name: str) -> ModelParams:
        """Return the entry `name` of `models`.

        Raises:
            UserError: there is none.
        """
        if name not in self.models:
            raise UserError(f"params.yaml has no model `{name}` under models: choose one of {', '.join(self.models)}.")
        return self.models[name]


def load_params(path: Path) -> Params:
    """Read and check a `params.yaml`; see `read_params`."""
    return read_params(path, Params)
