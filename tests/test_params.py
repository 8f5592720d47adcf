"""`params.yaml` is refused, in one sentence, before any stage starts work."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mnist_pipeline.errors import UserError
from mnist_pipeline.params import Params, load_params
from small_project import ROOT

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")


def refuse(tmp_path: Path, old: str, new: str) -> str:
    """Return what is said about the shipped file with one edit."""
    assert old in SHIPPED
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        load_params(path)
    return str(refusal.value)


def test_the_shipped_parameters_are_valid_and_frozen() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.train == ("mlp", "cnn")
    with pytest.raises(ValidationError):
        params.seed = 1  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("batch_size: 256", "batch_sise: 256", ["models.mlp.training.batch_sise", "256", "`batch_size`"]),
        ("models:", "modles:", ["modles", "`models`"]),
        ("dropout: 0.2", "dropout: 1.2", ["models.mlp.architecture.dropout", "1.2", "less than 1"]),
        ("dropout: 0.2", "dropout: [0.2]", ["models.mlp.architecture", "1 value", "needs 2"]),
        ("name: adamw", "name: adamx", ["models.mlp.training.optimizer.name", "'adamx'", "'adamw'"]),
        ("epochs: 15", "epochs: '15'", ["models.mlp.training.epochs", "'15'", "integer"]),
        ("epochs: 15", "epochs: true", ["models.mlp.training.epochs", "True", "integer"]),
        ("epochs: 15", "# none", ["models.mlp.training.epochs", "missing"]),
        ("learning_rate: 0.002", "learning_rate: .nan", ["optimizer.learning_rate", "nan", "finite"]),
        ("kernel_size: 5", "kernel_size: 28", ["models.cnn.architecture", "blocks.0", "padding: same"]),
        ("filters: 24", "filters: 0", ["models.cnn.architecture.blocks.0.filters", "0", "greater than 0"]),
        ("scheme: unit", "scheme: uint", ["normalize.scheme", "'uint'", "'unit'"]),
        ("beta_1: 0.9", "nesterov: true", ["models.mlp.training.optimizer.nesterov", "beta_1"]),
        ("  mlp: #", "  1: #", ["models", "1", "quotes"]),
        ("  mlp: #", "  my model: #", ["models", "my model"]),
        ("validation_size: 5000", "validation_size: 60000", ["split.validation_size", "60000", "59990"]),
        ("train: [mlp, cnn]", "train: [mlp, cmn]", ["train", "cmn", "mlp, cnn"]),
        ("rotation: 10", "rotation: ten", ["models.mlp.augmentation.rotation", "'ten'", "number"]),
        ("final_epochs_without_augmentation: 0", "final_epochs_without_augmentation: 99", ["99", "15 epochs"]),
        ("seed: 0", "seed: 0\nseed: 1", ["params.yaml", "duplicate key"]),
        ("seed: 0", "seed: [", ["params.yaml", "not valid YAML"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_key_value_and_way_out(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    message = refuse(tmp_path, old, new)
    assert "\n" not in message
    for part in said:
        assert part in message


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="git checkout"):
        load_params(tmp_path / "params.yaml")


def test_several_mistakes_get_a_sentence_each(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.replace("epochs: 15", "epochs: 0").replace("scheme: unit", "scheme: no"), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        load_params(path)
    assert len(str(refusal.value).splitlines()) == 2


def test_an_unknown_model_lists_the_known_ones() -> None:
    params: Params = load_params(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"`cmm`.*mlp, cnn"):
        params.model("cmm")


def test_another_seed_makes_a_sibling_of_the_model_and_leaves_the_rest() -> None:
    params = load_params(ROOT / "params.yaml")
    seeded, name = params.with_seed("mlp", 7)
    assert (name, seeded.seed, [*seeded.models]) == ("mlp_seed7", 7, ["mlp_seed7"])
    assert seeded.model(name) == params.model("mlp")
    assert params.with_seed("mlp", None) == (params, "mlp")
    with pytest.raises(UserError, match="no model `mpl`"):
        params.with_seed("mpl", 7)
