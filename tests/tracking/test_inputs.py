"""What DVC knows of a stage, also where several projects share one `dvc.yaml`."""

import json
import shutil
from pathlib import Path

import pytest

from mnist_pipeline.project import Project, find_project
from mnist_pipeline.tracking.inputs import object_path, present_inputs, recorded_inputs, trace
from mnist_pipeline.tracking.pipeline import read_lock, stage_of
from small_project import ROOT

FOLDER = "baselines/keras_mlp"


@pytest.fixture
def recipe(tmp_path: Path) -> Project:
    """One of the baselines as git has it, in a repository of its own and without its data."""
    (tmp_path / ".dvc").mkdir()
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / FOLDER).mkdir(parents=True)
    for name in ("dvc.yaml", "dvc.lock", "keras_mlp/params.yaml"):
        shutil.copy(ROOT / "baselines" / name, tmp_path / "baselines" / name)
    return find_project(tmp_path / FOLDER)


def list_in_cache(project: Project, digest: str, files: dict[str, str]) -> None:
    listing = object_path(project.home / ".dvc" / "cache", digest)
    listing.parent.mkdir(parents=True)
    listing.write_text(json.dumps([{"relpath": name, "md5": md5} for name, md5 in files.items()]))


def test_a_shared_pipeline_names_the_stages_of_each_project(recipe: Project) -> None:
    lock = read_lock(recipe)
    assert stage_of(recipe, "train", "keras_mlp_seed2") == "train@keras_mlp-2"
    assert {stage.partition("@")[2].partition("-")[0] for stage in lock} == {"keras_mlp"}
    recorded = recorded_inputs(lock, "train@keras_mlp-2")
    present = present_inputs(recipe, "train@keras_mlp-2")
    assert recorded is not None
    assert present is not None
    assert (
        present.command == recorded.command == "MLFLOW_EXPERIMENT_NAME=mnist-baselines mnist train keras_mlp --seed 2"
    )
    assert present.parameters == recorded.parameters
    assert present.data.keys() == recorded.data.keys()  # the code may have been changed since the lock was written
    assert "src/mnist_pipeline/training/trainer.py" in present.code
    assert f"{FOLDER}/data/split/train.npz" in present.data
    assert present_inputs(recipe, "no_such_stage@keras_mlp-2") is None


def test_its_data_are_traced_through_folders_to_the_raw_files(recipe: Project) -> None:
    lock = read_lock(recipe)
    inputs = recorded_inputs(lock, "train@keras_mlp-0")
    assert inputs is not None
    outs = {
        item["path"]: item["md5"] for stage in ("normalize", "split") for item in lock[f"{stage}@keras_mlp"]["outs"]
    }
    for folder, digest in outs.items():
        of_folder = {path: md5 for path, md5 in inputs.data.items() if path.startswith(f"{folder}/")}
        list_in_cache(recipe, digest, {path.removeprefix(f"{folder}/"): md5 for path, md5 in of_folder.items()})
    (raw,) = (item["md5"] for item in lock["normalize@keras_mlp"]["deps"] if item["path"] == "data/raw")
    list_in_cache(recipe, raw, {"train-images-idx3-ubyte": "0123"})
    found = trace(recipe, lock, inputs)
    assert found.data["data/raw"] == raw
    assert found.data[f"{FOLDER}/data/normalized"] == outs[f"{FOLDER}/data/normalized"]
    assert found.raw_files == {"train-images-idx3-ubyte": "0123"}
    assert found.parameters["normalize"] == {"scheme": "unit"}
    assert found.folder == Path(FOLDER)


def test_a_project_of_its_own_has_the_names_that_dvc_has(tmp_path: Path) -> None:
    for name in ("dvc.yaml", "dvc.lock", "params.yaml"):
        shutil.copy(ROOT / name, tmp_path)
    project = find_project(tmp_path)
    assert stage_of(project, "train", "mlp_seed7") == "train@mlp_seed7"
    recorded = recorded_inputs(read_lock(project), "train@mlp")
    assert recorded is not None
    assert "data/split/train.npz" in recorded.data
    assert "src/mnist_pipeline/params.py" in recorded.code
    assert trace(project, read_lock(project), recorded).folder == Path()
