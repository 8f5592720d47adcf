"""`params.yaml` is refused, in one sentence, before any stage starts work."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.params import check_params
from mnist_pipeline.core.project import ModelId
from mnist_pipeline.training.params import Params, load_params
from mnist_pipeline.tuning.params import tune_params
from small_project import ROOT

SHIPPED = (ROOT / "params.yaml").read_text(encoding="utf-8")
ARCHITECTURE = "models.mlp.architecture"


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
        ("kernel_size: 5", "kernel_size: 28", ["train: models.cnn.architecture", "28x28", "blocks.0", "padding: same"]),
        ("filters: 24", "filters: 0", ["models.cnn.architecture.blocks.0.filters", "0", "greater than or equal to 1"]),
        ("[512, 256] #", "[100000000000] #", ["models.mlp.architecture.hidden_units.0", "100000000000", "8192"]),
        ("normalization: unit", "normalization: uint", ["models.mlp.normalization", "'uint'", "'unit'"]),
        ("beta_1: 0.9", "nesterov: true", ["models.mlp.training.optimizer.nesterov", "beta_1"]),
        ("  mlp: #", "  1: #", ["models", "1", "quotes"]),
        ("  mlp: #", "  my model: #", ["models", "my model"]),
        ("validation_size: 5000", "validation_size: 0", ["split.validation_size", "0", "greater than or equal to 2"]),
        ("image_size: [28, 28]", "image_size: [28]", ["data.image_size"]),
        ("image_size: [28, 28]", "image_size: [28, 4]", ["data.image_size.1", "4", "greater than or equal to 8"]),
        ("image_size: [28, 28]", "image_size: [6000, 28]", ["data.image_size.0", "6000", "512"]),
        ("['0', '1',", "['0', '0',", ["data.classes", "'0'", "twice"]),
        ("['0', '1',", "['0', 1,", ["data.classes.1", "1", "text"]),
        ("name: mnist #", "name: My data #", ["data.name", "My data"]),
        ("format: idx #", "format: zip #", ["data.source.format", "'zip'", "'idx', 'folder'"]),
        ("format: idx #", "# none", ["data.source.format", "missing"]),
        ("size: 60008", "size: 60 kB", ["data.source.files.1.size", "60 kB", "integer"]),
        ("sha256: 65a50cbb", "sha256: 65A50CBB", ["data.source.files.1.sha256", "65A50CBB"]),
        ("    mirrors: #", "    mirors: #", ["data.source.mirors", "`mirrors`"]),
        ("train: [mlp, cnn]", "train: [mlp, cmn]", ["train", "cmn", "mlp, cnn"]),
        ("rotation: 10", "rotation: ten", ["models.mlp.augmentation.rotation", "'ten'", "number"]),
        ("final_epochs_without_augmentation: 0", "final_epochs_without_augmentation: 99", ["99", "15 epochs"]),
        ("seed: 0", "seed: 0\nseed: 1", ["params.yaml", "duplicate key"]),
        ("seed: 0", "seed: 2024-13-45", ["params.yaml", "month", "git checkout"]),
        ("seed: 0", f"seed: {'[' * 5_000}", ["params.yaml", "nested too deeply"]),
        ("seed: 0", f"seed: 0 # {'x' * 100_000}", ["params.yaml", "bytes", "100,000"]),
        ("seed: 0", "seed: [", ["params.yaml", "flow sequence", "line"]),
    ],
)
def test_a_mistake_is_one_sentence_that_names_key_value_and_way_out(
    tmp_path: Path, old: str, new: str, said: list[str]
) -> None:
    message = refuse(tmp_path, old, new)
    assert "\n" not in message
    for part in said:
        assert part in message


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("train", "mlp", "train (found 'mlp'): must be a list."),
        ("train", [], "train: must have 1 or more entries."),
        ("split", 5000, "split (found 5000): must be a section with the keys validation_size, seed."),
        ("models", ["mlp"], "models: must be a section of keys and values."),
        (ARCHITECTURE, 5, f"{ARCHITECTURE} (found 5): must be a section of keys and values."),
        (f"{ARCHITECTURE}.kind", "rnn", f"{ARCHITECTURE}.kind (found 'rnn'): must be one of 'mlp', 'cnn'."),
        (f"{ARCHITECTURE}.hidden_units", [8] * 11, f"{ARCHITECTURE}.hidden_units: must have at most 10 entries."),
        (
            f"{ARCHITECTURE}.batch_normalization",
            2,
            f"{ARCHITECTURE}.batch_normalization (found 2): must be true or false.",
        ),
    ],
)
def test_a_wrong_shape_is_told_in_the_words_of_the_file(key: str, value: Any, sentence: str) -> None:
    content = YAML(typ="safe").load(SHIPPED)
    section = content
    *above, last = key.split(".")
    for name in above:
        section = section[name]
    section[last] = value
    with pytest.raises(UserError) as refusal:
        check_params("params.yaml", content, Params)
    assert str(refusal.value) == f"params.yaml: {sentence}"


def test_a_missing_file_says_how_to_get_it_back(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="git checkout"):
        load_params(tmp_path / "params.yaml")


def test_several_mistakes_get_a_sentence_each(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(
        SHIPPED.replace("epochs: 15", "epochs: 0").replace("normalization: unit", "normalization: no", 1),
        encoding="utf-8",
    )
    with pytest.raises(UserError) as refusal:
        load_params(path)
    assert len(str(refusal.value).splitlines()) == 2


def test_a_mistake_copied_from_model_to_model_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.replace("batch_size:", "batch_sise:").replace("blocks:", "block:"), encoding="utf-8")
    with pytest.raises(UserError) as refusal:
        load_params(path)
    sentences = str(refusal.value).splitlines()
    assert len(sentences) == 2
    assert "models.mlp.training.batch_sise" in sentences[0]
    assert sentences[0].endswith("And 2 more like it.")


def test_an_unknown_model_lists_the_known_ones() -> None:
    params: Params = load_params(ROOT / "params.yaml")
    with pytest.raises(UserError, match=r"`cmm`.*mlp, cnn"):
        params.model("cmm")


def test_another_seed_changes_nothing_else_and_names_folders_of_its_own() -> None:
    params = load_params(ROOT / "params.yaml")
    assert params.with_seed(7).seed == 7
    assert params.with_seed(7).models == params.models
    assert params.with_seed(None) == params
    assert (str(ModelId("mlp")), str(ModelId("mlp", 7))) == ("mlp", "mlp_seed7")
    assert ModelId("mlp", 7).arguments == ("mlp", "--seed", "7")


def test_a_mistake_in_the_search_is_refused_by_the_same_words(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(SHIPPED.replace("pruner: percentile", "prunner: percentile"), encoding="utf-8")
    with pytest.raises(UserError, match=r"params\.yaml: tune\.prunner .*did you mean `pruner`"):
        tune_params(load_params(path))
    assert set(tune_params(load_params(ROOT / "params.yaml")).space) == {"mlp", "cnn"}
