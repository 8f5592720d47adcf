"""The search space as data: which parameters of a model vary, and how a choice of them becomes a model again.

A space maps dotted paths below the model's entry in `params.yaml` to ranges. Nothing here knows Optuna.
"""

import difflib
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.training.params import ModelParams, Params
from mnist_pipeline.tuning.params import Choice, FloatRange, IntRange, tune_params

Space = Mapping[str, FloatRange | IntRange | Choice]
Values = Mapping[str, Any]
"""One value for each path of a space."""


def space_of(params: Params, name: str) -> Space:
    """Return the checked search space of a model.

    Raises:
        UserError: the model has none, or `check_space` refuses it.
    """
    model, spaces = params.model(name), tune_params(params).space
    if name not in spaces:
        tuned = ", ".join(known for known in spaces if known in params.models) or "those that have one (none yet)"
        raise UserError(f"params.yaml has no search space tune.space.{name}: add one, or tune one of {tuned}.")
    check_space(spaces[name], model, name)
    return spaces[name]


def check_space(space: Space, model: ModelParams, name: str) -> None:
    """Check a space against the model that it varies.

    Raises:
        UserError: a path is not among the model's parameters, lies inside another one, reaches to values that the model
            refuses, or its range leaves out the current value.
    """
    nodes = parameters_of(model)
    for path, values in space.items():
        where = f"params.yaml: tune.space.{name}.{path}"
        if path not in nodes:
            raise UserError(f"{where} is not a parameter of models.{name}{_nearest(path, nodes)}.")
        for other in space:
            if path.startswith(f"{other}."):
                raise UserError(f"{where} is a part of {other}, which varies too: keep one of the two.")
        # If the model takes the ends of a range, it takes what lies between.
        for value in values.values if isinstance(values, Choice) else (values.low, values.high):
            try:
                _replaced(model, {path: value})
            except ValidationError as error:
                raise UserError(f"{where} reaches {value!r}, which models.{name} refuses: {_reason(error)}.") from error
        if not _contains(values, nodes[path]):
            raise UserError(
                f"{where} leaves out the current value {nodes[path]!r}, with which every study starts: include it."
            )


def apply(model: ModelParams, values: Values) -> ModelParams:
    """Return the model with the value at each path replaced, checked like any entry of `params.yaml`.

    Raises:
        UserError: the model refuses this combination of values.
    """
    try:
        return _replaced(model, values)
    except ValidationError as error:
        chosen = ", ".join(f"{path} {value}" for path, value in values.items())
        raise UserError(f"The model refuses {chosen}: {_reason(error)}.") from error


def current_values(space: Space, model: ModelParams) -> dict[str, Any]:
    """Return what the model has now at each path of the space."""
    return {path: value for path, value in parameters_of(model).items() if path in space}


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


def _replaced(model: ModelParams, values: Values) -> ModelParams:
    tree = model.model_dump(mode="json")
    for path, value in values.items():
        *above, last = path.split(".")
        node: Any = tree
        for key in above:
            node = node[int(key)] if isinstance(node, list) else node[key]
        node[int(last) if isinstance(node, list) else last] = value
    return ModelParams.model_validate(tree)


def _reason(error: ValidationError) -> str:
    message = error.errors()[0]["msg"].removeprefix("Value error, ")
    return message.replace("Input should be", "it must be")


def _contains(values: FloatRange | IntRange | Choice, value: Any) -> bool:
    if isinstance(values, Choice):
        return value in values.values
    if isinstance(value, bool) or not isinstance(value, int | float) or not values.low <= value <= values.high:
        return False
    steps = (value - values.low) / values.step if values.step else 0
    return abs(steps - round(steps)) < 1e-8


def _nearest(path: str, paths: Mapping[str, Any]) -> str:
    """Return a hint at the path that was meant; a right name in the wrong section counts more than a likeness."""
    same_name = [known for known in paths if known.rpartition(".")[2] == path.rpartition(".")[2]]
    close = difflib.get_close_matches(path, same_name or list(paths), n=1, cutoff=0.0 if same_name else 0.5)
    if close:
        return f"; the nearest is {close[0]}"
    return f"; it has {', '.join(paths)}"
