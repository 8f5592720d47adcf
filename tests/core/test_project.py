"""Where everything is."""

import shutil
from pathlib import Path

import pytest

from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.provenance.pipeline import recorded_path
from small_project import ROOT


def test_an_experiment_in_a_temporary_copy_shares_the_store_and_trains_beside_the_others(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / ".dvc" / "tmp" / "exps" / "1"
    for folder in (".dvc", "data"):
        (copy / folder).mkdir(parents=True)
    shutil.copy(project.params, copy)
    monkeypatch.setenv("DVC_ROOT", str(project.root))  # as DVC does
    experiment = find_project(copy)
    assert experiment.tracking_database == project.tracking_database
    assert experiment.model_file("mlp") != project.model_file("mlp")
    assert experiment.training_lock("mlp") != project.training_lock("mlp")
    assert experiment.checkpoint("mlp") != project.checkpoint("mlp")


def test_an_example_has_its_own_data_and_store_and_the_code_of_the_repository() -> None:
    example = find_project(ROOT / "examples" / "fashion_mnist")
    assert example.root == example.top == example.home == ROOT / "examples" / "fashion_mnist"
    assert example.lock == ROOT / "requirements.lock"
    assert recorded_path(example, Path("../../src/mnist_pipeline/models")) == "src/mnist_pipeline/models"
    assert recorded_path(example, example.raw) == "examples/fashion_mnist/data/raw"
