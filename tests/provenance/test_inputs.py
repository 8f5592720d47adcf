"""What DVC knows of a stage, by our own reading of its files."""

import json
import shutil
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.provenance.inputs import (
    Lineage,
    StageInputs,
    present_inputs,
    produced,
    recorded_inputs,
    trace_lineage,
    tree_digest,
)
from mnist_pipeline.provenance.pipeline import read_lock, stage_of
from repository import dvc

DVC_YAML = {
    "stages": {
        "download": {"cmd": "true", "outs": ["data/raw"]},
        "split": {"cmd": "true", "deps": ["data/raw"], "params": ["split"], "outs": ["data/split/train.npz"]},
        "train": {
            "matrix": {"model": "${train}"},
            "cmd": "true ${item.model}",
            "deps": ["data/split/train.npz", "src/code"],
            "params": ["seed", "models.${item.model}"],
            "outs": ["models/${item.model}/model.keras"],
        },
    }
}
BASELINES = {
    "stages": {
        "train": {
            "matrix": {"model": "${train}", "seed": [0, 1]},
            "cmd": "true ${item.model} --seed ${item.seed}",
            "deps": ["../data/split/train.npz", "../src/code"],
            "params": ["models.${item.model}"],
            "outs": ["models/${item.model}_seed${item.seed}/model.keras"],
        },
    }
}


def write(path: Path, content: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content) if isinstance(content, str) else YAML().dump(content, path)


@pytest.fixture(scope="module")
def top(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pipelines, of which the second has its data from the first, as DVC has written them down."""
    top = tmp_path_factory.mktemp("pipelines")
    models = {"mlp": {"units": 3, "rate": 1e-3}, "cnn": {"units": 4}, "extra": {"units": 5}}
    write(top / "params.yaml", {"seed": 5, "split": {"size": 2}, "train": ["mlp", "cnn"], "models": models})
    write(top / "baselines" / "params.yaml", {"train": ["tf_mlp"], "models": {"tf_mlp": {"units": 1}}})
    write(top / "dvc.yaml", DVC_YAML)
    write(top / "baselines" / "dvc.yaml", BASELINES)
    for name in ("src/code/b.py", "src/code/a/c.py", "data/raw/images", "data/split/train.npz"):
        write(top / name, name)
    for name in ("models/mlp", "models/cnn", "baselines/models/tf_mlp_seed0", "baselines/models/tf_mlp_seed1"):
        write(top / name / "model.keras", name)
    dvc(top, "init --no-scm")
    write(top / ".dvcignore", "__pycache__/\n*.pyc\n")
    dvc(top, "commit --force dvc.yaml", "commit --force baselines/dvc.yaml")
    return top


def inputs_of(project: Project, model: ModelId) -> tuple[StageInputs, StageInputs]:
    """Return the inputs of a training as DVC recorded them and as they are."""
    recorded = recorded_inputs(read_lock(project), stage_of(project, "train", model))
    present = present_inputs(project, "train", model)
    assert recorded is not None
    assert present is not None
    return recorded, present


@pytest.mark.parametrize("folder", ["", "baselines"])
def test_what_we_read_is_what_dvc_recorded(top: Path, folder: str) -> None:
    project = find_project(top / folder)
    recorded, present = inputs_of(project, ModelId("tf_mlp", 1) if folder else ModelId("mlp"))
    assert present == recorded
    assert present.key == recorded.key
    assert set(present.code) == {"src/code"}
    assert set(present.data) == {"data/split/train.npz"}
    assert present.stage == ("train@tf_mlp-1" if folder else "train@mlp")
    assert present.command == ("true tf_mlp --seed 1" if folder else "true mlp")


def test_the_hash_of_a_folder_is_that_of_dvc_after_its_code_has_run(top: Path) -> None:
    before = tree_digest(top / "src" / "code")
    write(top / "src/code/__pycache__/b.cpython-311.pyc", "compiled")
    write(top / "src/code/a/d.pyc", "compiled")
    assert tree_digest(top / "src" / "code") == before
    assert before == read_lock(find_project(top))["train@mlp"]["deps"]["src/code"]
    assert tree_digest(top / "nothing") == "missing"


def test_a_training_by_hand_has_inputs_too(top: Path) -> None:
    project = find_project(top)
    seeded, extra = (present_inputs(project, "train", model) for model in (ModelId("cnn", 7), ModelId("extra")))
    assert seeded is not None
    assert (seeded.stage, seeded.command) == ("train@cnn", "true cnn --seed 7")
    assert seeded.parameters == {"seed": 7, "models.cnn": {"units": 4}}
    assert extra is not None
    assert (extra.stage, extra.parameters["models.extra"]) == ("train@extra", {"units": 5})
    assert present_inputs(project, "no_such_stage", ModelId("cnn")) is None
    assert present_inputs(find_project(top / "baselines"), "train", ModelId("tf_mlp")) is None


@pytest.mark.parametrize("folder", ["", "baselines"])
def test_data_are_followed_to_the_raw_files_also_from_another_pipeline(top: Path, folder: str, tmp_path: Path) -> None:
    project = find_project(top / folder)
    lock = read_lock(project)
    recorded, _ = inputs_of(project, ModelId("tf_mlp", 0) if folder else ModelId("mlp"))
    lineage = trace_lineage(project, lock, recorded)
    assert set(lineage.data) == {"data/raw", "data/split/train.npz"}
    assert lineage.data["data/raw"] == tree_digest(top / "data/raw")
    assert lineage.raw_files == {"images": tree_digest(top / "data/raw/images")}
    assert lineage.parameters["split"] == {"size": 2}
    assert lineage.folder == folder
    (tmp_path / "lineage.json").write_text(lineage.to_json())
    assert read_json(tmp_path / "lineage.json", Lineage, "") == lineage


def test_raw_files_that_are_not_checked_out_are_listed_by_the_cache(top: Path) -> None:
    project = find_project(top)
    recorded, _ = inputs_of(project, ModelId("mlp"))
    digest = tree_digest(top / "data/raw/images")
    shutil.move(top / "data/raw", top / "elsewhere")
    try:
        assert trace_lineage(project, read_lock(project), recorded).raw_files == {"images": digest}
    finally:
        shutil.move(top / "elsewhere", top / "data/raw")


def test_a_stage_produced_exactly_what_its_hashes_say(top: Path) -> None:
    project = find_project(top)
    lock, path = read_lock(project), "models/mlp/model.keras"
    digest = tree_digest(top / path)
    assert produced(lock, "train@mlp", path, digest)
    assert not produced(lock, "train@mlp", path, digest[::-1])
    assert not produced(lock, "train@cnn", path, digest)
    assert not produced(lock, "no_such_stage", path, digest)
    assert produced(lock, "download", "data/raw", tree_digest(top / "data/raw"))


def test_an_edit_of_code_data_or_parameters_is_another_key(top: Path) -> None:
    project = find_project(top)
    keys = {inputs_of(project, ModelId("mlp"))[1].key}
    for name in ("src/code/a/c.py", "data/split/train.npz", "params.yaml"):
        text = (top / name).read_text()
        write(top / name, text.replace("units: 3", "units: 4") if name == "params.yaml" else json.dumps(text))
        keys.add(inputs_of(project, ModelId("mlp"))[1].key)
        write(top / name, text)
    assert len(keys) == 4
