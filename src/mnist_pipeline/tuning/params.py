"""What `params.yaml` says about the search for better parameters, checked against the model that it varies.

A search space maps dotted paths below the model's entry to ranges. Nothing here knows Optuna.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Generic, Literal, Self, TypeVar

from pydantic import Field, ValidationError, field_validator, model_validator

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.params import ModelName, Section, check_params
from mnist_pipeline.training.params import ModelParams, Params

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
Space = Mapping[str, ParameterRange]
Values = Mapping[str, Any]
"""One value for each path of a space."""


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
    """Return the section `tune`, empty if the file has none; a UserError says for each key which rule it breaks."""
    return check_params("params.yaml", {"tune": params.tune} if params.tune else {}, _File).tune


def space_of(params: Params, name: str) -> Space:
    """Return the checked search space of a model; a UserError says if it has none, or what `check_space` refuses."""
    model, spaces = params.model(name), tune_params(params).space
    if name not in spaces:
        tuned = ", ".join(known for known in spaces if known in params.models) or "those that have one (none yet)"
        raise UserError(f"params.yaml has no search space tune.space.{name}: add one, or tune one of {tuned}.")
    check_space(spaces[name], model, name, params.data.image_size if params.data else None)
    return spaces[name]


def check_space(space: Space, model: ModelParams, name: str, image_size: tuple[int, int] | None = None) -> None:
    """Check a space against the model that it varies and, if it is known, the size of the images.

    Raises:
        UserError: a path is not among the model's parameters, lies inside another one, reaches to values that the model
            refuses, or its range leaves out the current value.
    """
    nodes = parameters_of(model)
    for path, values in space.items():
        where = f"params.yaml: tune.space.{name}.{path}"
        if path not in nodes:
            close = difflib.get_close_matches(path, nodes, n=1, cutoff=0.5)
            hint = f"the nearest is {close[0]}" if close else f"it has {', '.join(nodes)}"
            raise UserError(f"{where} is not a parameter of models.{name}; {hint}.")
        for other in space:
            if path.startswith(f"{other}."):
                raise UserError(f"{where} is a part of {other}, which varies too: keep one of the two.")
        # If the model takes the ends of a range, it takes what lies between.
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            try:
                _replaced(model, {path: value}, image_size)
            except ValueError as error:  # pydantic's is one
                raise UserError(f"{where} reaches {value!r}, which models.{name} refuses: {_reason(error)}.") from error
        if not _contains(values, nodes[path]):
            raise UserError(
                f"{where} leaves out the current value {nodes[path]!r}, with which every study starts: include it."
            )


def apply(model: ModelParams, values: Values) -> ModelParams:
    """Return the model with the value at each path replaced; a UserError says if it refuses this combination."""
    try:
        return _replaced(model, values)
    except ValidationError as error:
        chosen = ", ".join(f"{path} {value}" for path, value in values.items())
        raise UserError(f"The model refuses {chosen}: {_reason(error)}.") from error


def fixed_values(space: Space, model: ModelParams) -> dict[str, Any]:
    """Return the model's other parameters: single values, by their dotted path."""
    return {
        path: value
        for path, value in parameters_of(model).items()
        if not isinstance(value, dict | list) and not any(f"{path}.".startswith(f"{varied}.") for varied in space)
    }


def parameters_of(model: ModelParams) -> dict[str, Any]:
    """Return every dotted path of the model with what stands there, sections and lists as well as single values."""
    return dict(_walk(model.model_dump(mode="json")))


def _walk(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        yield f"{prefix}{key}", value
        if isinstance(value, dict | list):
            yield from _walk(value, f"{prefix}{key}.")


def place_of(tree: Any, path: str) -> tuple[Any, Any]:
    """Return the section or list in which a dotted path ends, and the key or index there."""
    *above, last = path.split(".")
    for key in above:
        tree = tree[int(key)] if isinstance(tree, list) else tree[key]
    return tree, int(last) if isinstance(tree, list) else last


def _replaced(model: ModelParams, values: Values, image_size: tuple[int, int] | None = None) -> ModelParams:
    tree = model.model_dump(mode="json")
    for path, value in values.items():
        node, key = place_of(tree, path)
        node[key] = value
    replaced = ModelParams.model_validate(tree)
    if image_size:
        replaced.architecture.check_size(image_size)
    return replaced


def _reason(error: ValueError) -> str:
    message = error.errors()[0]["msg"] if isinstance(error, ValidationError) else str(error)
    message = message.removeprefix("Value error, ")
    return message.replace("Input should be", "it must be")


def _contains(values: FloatRange | IntRange | Choice, value: Any) -> bool:
    if isinstance(values, Choice):
        return value in values.values
    if isinstance(value, bool) or not isinstance(value, int | float) or not values.low <= value <= values.high:
        return False
    steps = (value - values.low) / values.step if values.step else 0
    return abs(steps - round(steps)) < 1e-8
