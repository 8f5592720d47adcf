"""What `params.yaml` says about the search for better parameters."""

from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, field_validator, model_validator

from mnist_pipeline.core.params import ModelName, Section, check_params
from mnist_pipeline.training.params import Params

Kind = TypeVar("Kind", bound=str)
Number = TypeVar("Number", int, float)


class _Range(Section, Generic[Kind, Number]):
    type: Kind
    """Chooses this kind of range."""
    low: Number
    """The least value."""
    high: Number
    """The greatest value."""
    log: bool = False
    """Draw the logarithm uniformly: for what acts by its order of magnitude, such as a learning rate."""
    step: Annotated[Number, Field(gt=0)] | None = None
    """Only low, low + step, low + 2 step and so on; absent, any number."""

    @model_validator(mode="after")
    def _is_a_range(self) -> Self:
        low, high, step = self.low, self.high, self.step
        if low >= high:
            raise ValueError(f"low is {low:g} and high {high:g}: low must be less than high")
        if self.log and low <= 0:
            raise ValueError(f"log: true needs low above 0, found {low:g}")
        if self.log and step is not None:
            raise ValueError("log: true and step exclude each other: remove one")
        if step is not None and abs((high - low) / step - round((high - low) / step)) > 1e-8:
            raise ValueError(f"high - low must be a whole number of steps of {step:g}")
        return self


class FloatRange(_Range[Literal["float"], float]):
    """A real number between two bounds, both included."""


class IntRange(_Range[Literal["int"], int]):
    """A whole number between two bounds, both included."""


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


class _File(Section):
    tune: Tune = Tune(pruner="percentile", space={})


def tune_params(params: Params) -> Tune:
    """Return the section `tune`; a file without it searches nothing.

    Raises:
        UserError: it breaks a rule: a sentence for each key, as for the rest of `params.yaml`.
    """
    return check_params("params.yaml", {"tune": params.tune} if params.tune else {}, _File).tune
