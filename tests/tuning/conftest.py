"""A project so small that a trial takes a second, and one Ray for many studies."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import running_ray
from ruamel.yaml import YAML

from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import save_subset
from mnist_pipeline.data.normalize import fit, save_statistics
from mnist_pipeline.training.params import Params
from mnist_pipeline.tuning.cluster import Resources
from mnist_pipeline.tuning.plan import Plan
from small_project import MNIST, draw_digits

PARAMS = """\
seed: 0
device: cpu
precision: auto
split: {validation_size: 100, seed: 0}
train: [tiny]
models:
  tiny:
    normalization: unit
    architecture: {kind: mlp, hidden_units: [8], dropout: 0.0, activation: relu, batch_normalization: false}
    training:
      epochs: 2
      batch_size: 50
      optimizer: {name: adam, learning_rate: 0.01, beta_1: 0.9, beta_2: 0.99}
      schedule: {name: constant}
      label_smoothing: 0.0
      weight_average: 0.0
      monitor: accuracy
      early_stopping: 0
      final_epochs_without_augmentation: 0
    augmentation: {rotation: 0, shift: 0, zoom: 0, shear: 0, elastic: 0, elastic_smoothing: 4, flip: false}
tune:
  pruner: none
  space:
    tiny:
      architecture.hidden_units: {type: choice, values: [[8], [16, 8]]}
      architecture.dropout: {type: float, low: 0.0, high: 0.4, step: 0.1}
      training.optimizer.learning_rate: {type: float, low: 0.001, high: 0.1, log: true}
"""


def make_project(root: Path) -> Project:
    """Write the parameters and the train and validation splits; there is no test split to open."""
    root.mkdir(parents=True, exist_ok=True)
    project = Project(root=root, top=root, home=root)
    with project.params.open("w") as file:
        YAML().dump({"data": MNIST.model_dump(mode="json")}, file)
        file.write(PARAMS)
    (root / "dvc.yaml").write_text("stages: {}\n")
    subsets = {"train": draw_digits(200, seed=0), "validation": draw_digits(100, seed=1)}
    for name, subset in subsets.items():
        save_subset(project.split / f"{name}.npz", subset)
    save_statistics(project.normalization, fit(subsets["train"].images))
    return project


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """One project, and so one MLflow store, for many studies: creating a store takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        yield make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="session")
def ray() -> Iterator[Resources]:
    """One worker of a Ray that the tests share: starting one takes seconds."""
    with running_ray(cpus=4) as address:
        yield Resources(address=address)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return make_project(tmp_path)


@pytest.fixture
def plan(project: Project, params: Params) -> Plan:
    """A study of 4 trials."""
    return Plan(project, params, "tiny", "tiny", trials=4)
