"""Where everything is. Every path of the project is named here, once."""

import os
from dataclasses import dataclass
from pathlib import Path

from mnist_pipeline.core.errors import UserError


@dataclass(frozen=True)
class ModelId:
    """Which trained model: an entry of `models` in `params.yaml`, and the seed if it is not the one of the file."""

    entry: str
    """Name under `models`."""
    seed: int | None = None
    """Seed that was asked for instead of the file's."""

    def __str__(self) -> str:
        """Return the name of its folders: `cnn`, or `cnn_seed7`."""
        return self.entry if self.seed is None else f"{self.entry}_seed{self.seed}"

    @property
    def arguments(self) -> tuple[str, ...]:
        """What follows `mnist train` or `mnist evaluate` on the command line."""
        return (self.entry,) if self.seed is None else (self.entry, "--seed", str(self.seed))


class Project:
    """The folders and files of one pipeline."""

    def __init__(self, root: Path, top: Path, home: Path) -> None:
        """Name every path.

        Args:
            root: folder of `params.yaml` and `dvc.yaml`, where `models/` and `reports/` are written.
            top: folder that holds `data/`; the same as `root` but for `baselines/`.
            home: folder that all copies of `top` share, with the MLflow store; the same as `top` but for a DVC
                experiment that runs in a temporary copy.
        """
        self.root = root
        self.params = root / "params.yaml"
        self.models = root / "models"  # the trained models and their predictions; DVC keeps them
        self.reports = root / "reports"  # small tables and numbers, which git keeps, and figures, which DVC keeps
        self.split_summary = self.reports / "split.json"  # how many images each subset has, and how many duplicates
        self.class_counts = self.reports / "class_counts.csv"  # images per class and subset
        self.pixel_distribution = self.reports / "pixel_distribution.csv"  # before and after each normalization
        self.best = self.reports / "best.json"  # the best model of this workspace, which competes to be champion
        self.best_model = self.reports / "best.keras"  # its file

        self.top = top
        # With `src/`; the same as `top` but for `examples/`. Records name every file from here.
        self.repository = _with_code(top)
        self.data = top / "data"
        self.raw = self.data / "raw"  # the four uncompressed IDX files
        self.split = self.data / "split"  # train.npz, validation.npz, test.npz and the manifest
        self.normalization = self.data / "normalization.json"  # the statistics that a model's first layer needs
        # Outside of what DVC deletes before it starts a stage; experiments that run at once each have their own.
        self.checkpoints = top / ".checkpoints"

        self.home = home
        self.lock = _with_code(home) / "requirements.lock"  # the hash-pinned environment
        self.outbox = home / ".checkpoints" / "outbox"  # runs that an MLflow server has not been told of yet
        self.tracking_database = home / "mlflow.db"  # MLflow's default: a plain `mlflow ui` typed at `home` finds it
        self.artifacts = home / "mlruns"  # MLflow's default
        self.studies = self.artifacts / "optuna"  # Optuna's journals: <study>.log
        self.serving = home / ".serving"  # what `mnist serve` answers with, and who was champion; may be deleted

    def model_file(self, model: ModelId | str) -> Path:
        """The trained model: raw pixels in, probabilities out."""
        return self.models / str(model) / "model.keras"

    def predictions(self, model: ModelId | str) -> Path:
        """What the model says about each test image."""
        return self.models / str(model) / "predictions.parquet"

    def report(self, model: ModelId | str) -> Path:
        """Folder of what is known of a model: its training and its test report."""
        return self.reports / str(model)

    def history(self, model: ModelId | str) -> Path:
        """The losses and accuracies of each epoch of a training."""
        return self.report(model) / "history.csv"

    def training_summary(self, model: ModelId | str) -> Path:
        """The result of a training: best epoch, validation accuracy and loss, number of weights."""
        return self.report(model) / "training.json"

    def test_report(self, model: ModelId | str) -> Path:
        """Every measure on the test split."""
        return self.report(model) / "test.json"

    def robustness(self, model: ModelId | str) -> Path:
        """The accuracy on corrupted validation images, by corruption and strength."""
        return self.report(model) / "robustness.csv"

    def metrics(self, model: ModelId | str) -> Path:
        """The few numbers of training and test that `dvc metrics show` compares."""
        return self.report(model) / "metrics.json"

    def checkpoint(self, model: ModelId | str) -> Path:
        """The state of a training after its last epoch."""
        return self.checkpoints / f"{model}.npz"

    def training_lock(self, model: ModelId | str) -> Path:
        """Held by the one process that trains the model."""
        return self.checkpoints / f"{model}.lock"


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
            top = _with_data(folder)
            dvc_root = os.environ.get("DVC_ROOT")
            return Project(root=folder, top=top, home=_with_data(Path(dvc_root).resolve()) if dvc_root else top)
    raise UserError(
        f"No mnist-pipeline project at {start}: neither it nor a folder above holds a params.yaml; change into the "
        "project's folder."
    )


def _with_data(folder: Path) -> Path:
    """Return the DVC project with data that `folder` is or lies in: `baselines/` has none of its own."""
    above = (each for each in (folder, *folder.parents) if (each / ".dvc").is_dir() and (each / "data").is_dir())
    return next(above, folder)


def _with_code(folder: Path) -> Path:
    """Return the copy of the repository that `folder` is or lies in."""
    return next((each for each in (folder, *folder.parents) if (each / "src" / "mnist_pipeline").is_dir()), folder)
