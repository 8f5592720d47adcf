"""A search space is checked against its model before anything starts, and applying it gives a checked model."""

from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.training.params import ModelParams, Params, load_params
from mnist_pipeline.tuning.params import (
    SearchSpace,
    Space,
    apply,
    check_space,
    fixed_values,
    parameters_of,
    space_of,
    tune_params,
)
from small_project import ROOT

SHIPPED = load_params(ROOT / "params.yaml")
CNN = SHIPPED.models["cnn"]


def space(**ranges: Any) -> Space:
    return TypeAdapter(SearchSpace).validate_python(
        {path.replace("__", "."): values for path, values in ranges.items()}
    )


@pytest.mark.parametrize("name", SHIPPED.train)
def test_every_trained_model_has_a_space_that_fits_it(name: str) -> None:
    assert len(space_of(SHIPPED, name)) >= 8


@pytest.mark.parametrize("name", SHIPPED.train)
def test_the_current_values_change_nothing(name: str) -> None:
    model = SHIPPED.models[name]
    known = parameters_of(model)
    assert apply(model, {path: known[path] for path in tune_params(SHIPPED).space[name]}) == model


def test_values_reach_nested_lists_and_whole_lists() -> None:
    model = apply(CNN, {"architecture.blocks.1.filters": 48, "architecture.dense_units": [64, 32]})
    changed = model.model_dump(mode="json")["architecture"]
    assert changed["blocks"][1]["filters"] == 48
    assert changed["dense_units"] == [64, 32]
    assert model.training == CNN.training


def test_the_normalization_can_vary() -> None:
    varied = space(normalization={"type": "choice", "values": ["unit", "standard", "symmetric", "l2"]})
    check_space(varied, CNN, "cnn")
    assert apply(CNN, {"normalization": "standard"}).normalization == "standard"
    assert "normalization" not in fixed_values(varied, CNN)
    with pytest.raises(UserError, match=r"reaches 'zscore', which models\.cnn refuses: it must be 'unit'"):
        check_space(space(normalization={"type": "choice", "values": ["unit", "zscore"]}), CNN, "cnn")


def test_fixed_values_are_the_single_values_that_no_path_reaches() -> None:
    fixed = fixed_values(space(architecture__blocks={"type": "choice", "values": [[], [1]]}), CNN)
    assert fixed["training.batch_size"] == CNN.training.batch_size
    assert not [path for path in fixed if path.startswith("architecture.blocks")]


@pytest.mark.parametrize(
    ("path", "nearest"),
    [
        ("architecture.drpout", "architecture.dropout"),
        ("learning_rate", "training.optimizer.learning_rate"),
        ("training.learning_rate", "training.optimizer.learning_rate"),
        ("architecture.blocks.2.filters", "architecture.blocks.1.filters"),
    ],
)
def test_a_path_that_is_not_there_is_refused_with_the_nearest(path: str, nearest: str) -> None:
    wrong = space(**{path: {"type": "float", "low": 0.0, "high": 0.5}})
    with pytest.raises(UserError) as error:
        check_space(wrong, CNN, "cnn")
    assert str(error.value) == (
        f"params.yaml: tune.space.cnn.{path} is not a parameter of models.cnn; the nearest is {nearest}."
    )


@pytest.mark.parametrize(
    ("ranges", "message"),
    [
        (
            {"architecture.dropout": {"type": "float", "low": 0.0, "high": 1.0}},
            r"dropout reaches 1\.0, which models\.cnn",
        ),
        ({"training.batch_size": {"type": "float", "low": 1.5, "high": 300.0}}, r"batch_size reaches 1\.5"),
        (
            {"architecture.blocks.0.kernel_size": {"type": "int", "low": 1, "high": 28}},
            r"reaches 28, which models\.cnn refuses: leaves no pixel",
        ),
        ({"architecture.activation": {"type": "choice", "values": ["relu", "rleu"]}}, "reaches 'rleu'"),
        ({"augmentation.rotation": {"type": "float", "low": 20, "high": 30}}, r"leaves out the current value 10\.0"),
        ({"augmentation.rotation": {"type": "float", "low": 1, "high": 31, "step": 2}}, "leaves out the current value"),
        ({"training.batch_size": {"type": "choice", "values": [32, 64]}}, "leaves out the current value 256"),
        (
            {
                "architecture.dense_units": {"type": "choice", "values": [[256], [128]]},
                "architecture.dense_units.0": {"type": "int", "low": 1, "high": 512},
            },
            r"dense_units\.0 is a part of architecture\.dense_units",
        ),
    ],
)
def test_values_that_cannot_work_are_refused(ranges: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_space(space(**ranges), CNN, "cnn", (28, 28))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"type": "float", "low": 1, "high": 1}, "low must be less than high"),
        ({"type": "float", "low": 0, "high": 1, "log": True}, "log: true needs low above 0"),
        ({"type": "int", "low": 1, "high": 9, "log": True, "step": 2}, "log: true and step exclude each other"),
        ({"type": "int", "low": 1, "high": 9, "step": 3}, "a whole number of steps"),
        ({"type": "int", "low": 1, "high": 2.5}, "valid integer"),
        ({"type": "choice", "values": [1]}, "at least 2"),
        ({"type": "choice", "values": [[1], [2], [1]]}, "is there twice"),
        ({"type": "float", "low": 0, "hihg": 1}, "did you mean `high`"),
    ],
)
def test_a_range_that_makes_no_sense_is_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        space(path=values)


def test_a_combination_that_the_model_refuses_says_so() -> None:
    uneven: dict[str, Any] = {"architecture.dense_units": [64, 32], "architecture.dropout": [0.1, 0.2]}
    with pytest.raises(UserError, match=r"dense_units \[64, 32\], .*dropout has 2 values, but needs 3"):
        apply(CNN, uneven)


def test_a_model_without_a_space_is_refused(params: Params) -> None:
    tiny: ModelParams = params.models["tiny"]
    more = params.model_copy(update={"models": {"tiny": tiny, "other": tiny}})
    with pytest.raises(UserError, match=r"no search space tune\.space\.other: add one, or tune one of tiny\."):
        space_of(more, "other")
