"""A data set of a run leads back to the very file, wherever DVC has it: found through MLflow's own entry point."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.params import Params


def dvc(project: Project, *arguments: str) -> None:
    program = Path(sys.executable).with_name("dvc")
    subprocess.run([program, *arguments], cwd=project.root, check=True, capture_output=True, env=os.environ)


def test_a_data_set_of_a_run_brings_the_exact_file(
    project: Project, params: Params, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from mnist_pipeline.tracking.dataset_source import DvcSource

    (project.root / "dvc.yaml").unlink()  # its stages write the file that is added here
    dvc(project, "init", "--no-scm", "--quiet")
    with training_run(project, params, ModelId("mlp"), tags={}) as run:
        pass
    (train,) = [
        entry for entry in open_store(project).get_run(run.run_id).inputs.dataset_inputs
        if entry.dataset.name == "mnist-train"
    ]  # fmt: skip
    file = project.split / "train.npz"
    content = file.read_bytes()
    monkeypatch.chdir(project.data)

    def load() -> Path:
        return Path(mlflow.data.get_source(train).load())

    assert load() == file
    dvc(project, "add", "--quiet", str(file))
    dvc(project, "remote", "add", "--default", "storage", str(tmp_path_factory.mktemp("storage")))
    dvc(project, "push", "--quiet")
    file.unlink()
    file.write_bytes(b"another one")
    in_cache = load()
    assert in_cache.is_relative_to(project.root / ".dvc")
    assert in_cache.read_bytes() == content
    in_cache.chmod(0o644)
    in_cache.write_bytes(b"damaged")
    assert load().read_bytes() == content
    with pytest.raises(UserError, match=r"data/split/train\.npz with MD5 0{32} cannot be found \(other content"):
        DvcSource("data/split/train.npz", "0" * 32).load()
