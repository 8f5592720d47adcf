"""Where everything is. Every path of the project is named here, once."""

import os
from dataclasses import dataclass
from pathlib import Path

from mnist_pipeline.errors import UserError


@dataclass(frozen=True)
class Project:
    """The folders and files of one pipeline.

    `root` is the folder that holds `params.yaml`. `home` is the folder that keeps what all pipelines and all copies of
    the repository share: the MLflow store. The two differ in `baselines/`, and in a DVC experiment that runs in a
    temporary copy.
    """

    root: Path
    home: Path

    @property
    def params(self) -> Path:
        """Every knob."""
        return self.root / "params.yaml"

    @property
    def raw(self) -> Path:
        """The four uncompressed IDX files."""
        return self.root / "data" / "raw"

    @property
    def normalized(self) -> Path:
        """`train.npz`, `test.npz` and `normalization.json`."""
        return self.root / "data" / "normalized"

    @property
    def normalization(self) -> Path:
        """The scheme and statistics that a model needs to take raw pixels."""
        return self.normalized / "normalization.json"

    @property
    def split(self) -> Path:
        """`train.npz`, `validation.npz`, `test.npz`, the manifest and the class counts."""
        return self.root / "data" / "split"

    def model(self, name: str) -> Path:
        """Folder of a trained model: `model.keras`, `history.csv`, `metrics.json`."""
        return self.root / "models" / name

    def model_file(self, name: str) -> Path:
        """The trained model, raw pixels in, probabilities out."""
        return self.model(name) / "model.keras"

    def report(self, name: str) -> Path:
        """Folder of a model's test report: `metrics.json`, `predictions.parquet`, `confusion.csv`, `figures/`."""
        return self.root / "reports" / name

    @property
    def champion(self) -> Path:
        """The best model of this workspace, which `register` lets compete for the title."""
        return self.root / "reports" / "champion.json"

    def checkpoint(self, name: str) -> Path:
        """Where a model's training is saved after each epoch, outside what DVC deletes before it starts a stage."""
        return self.home / ".checkpoints" / f"{name}.npz"

    @property
    def lock(self) -> Path:
        """The hash-pinned environment."""
        return self.home / "requirements.lock"

    @property
    def tracking_database(self) -> Path:
        """MLflow's default store, so that a plain `mlflow ui` typed at `home` finds it."""
        return self.home / "mlflow.db"

    @property
    def artifacts(self) -> Path:
        """MLflow's default artifact folder."""
        return self.home / "mlruns"

    @property
    def studies(self) -> Path:
        """Optuna's journals: `<study>.log`."""
        return self.artifacts / "optuna"


def find_project(start: Path | None = None) -> Project:
    """Find the pipeline that `start` (default: the working directory) lies in.

    DVC sets `DVC_ROOT` to the main project for every stage, also when an experiment runs in a temporary copy: the
    MLflow store is kept there, so that the runs outlive the copy.

    Raises:
        UserError: no folder from `start` upwards holds a `params.yaml`.
    """
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / "params.yaml").is_file():
            return Project(root=folder, home=_home(folder))
    raise UserError(
        f"No mnist-pipeline project at {start}: neither it nor a folder above holds a params.yaml; change into the "
        "project's folder."
    )


def _home(root: Path) -> Path:
    if dvc_root := os.environ.get("DVC_ROOT"):
        return Path(dvc_root).resolve()
    return next((folder for folder in (root, *root.parents) if (folder / ".dvc").is_dir()), root)
