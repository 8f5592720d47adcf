"""What is hurt without a server: a training, `dvc repro`, a study, a registration."""

import os
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import mlflow
from ruamel.yaml import YAML

from faults.harness import Component
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import find_project
from mnist_pipeline.data.dataset import save_subset
from mnist_pipeline.tuning.plan import amount
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import load_study
from repository import commit, dvc
from small_project import ROOT, draw_digits, make_project

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
EPOCHS, TRIALS = 8, 6
SPACE = {
    "architecture.hidden_units": {"type": "choice", "values": [[16, 16], [16]]},
    "training.optimizer.learning_rate": {"type": "float", "low": 0.001, "high": 0.1, "log": True},
}
RAN = r"Running stage '([^']+)'"


class Splitting(Component):
    """The split of data/raw, which takes two seconds."""

    name, command = "split", "mnist split"

    def build(self) -> None:
        make_project(self.project)
        shrink_params(self.project / "params.yaml")
        shutil.rmtree(self.project / "data/split")

    def problems(self) -> Iterator[str]:
        yield from ()  # its files are all there is

    def lost(self, said: str) -> str:
        return amount(wholly - 1, "split") if (wholly := said.count("Split into")) > 1 else "nothing"


class WithStore(Component):
    """A small project, trained by one process or another, and its MLflow store."""

    experiment = "mnist"

    def build(self) -> None:
        make_project(self.project)
        save_subset(self.project / "data/split/train.npz", draw_digits(4_000, 0))
        shrink_params(self.project / "params.yaml")
        self.type("mnist sync")

    def store(self) -> str:
        """Return the address of the store, or of a copy of its file, because MLflow keeps what it has opened open."""
        copy = self.folder / "tmp" / f"{time.monotonic_ns()}.db"
        shutil.copy(self.project / "mlflow.db", copy)
        return f"sqlite:///{copy}"

    def problems(self) -> Iterator[str]:
        store = self.store()
        client = mlflow.MlflowClient(store)
        runs = runs_in(client, self.experiment)
        if unfinished := [run.info.run_id for run in runs if run.info.status in ("RUNNING", "SCHEDULED")]:
            yield f"runs that nobody ends: {unfinished}"
        finished = [run for run in runs if run.info.status == "FINISHED"]
        if len(finished) != 1 and (self.intact or not finished):  # what was damaged may have been trained anew
            yield f"statuses of its runs: {[run.info.status for run in runs]}"
        for run in finished:
            yield from step_problems(client, run, range(1, EPOCHS + 1), "train_loss", "val_loss")
            yield from self.model_problems(store, run)

    def model_problems(self, store: str, run: "Run") -> Iterator[str]:
        models = [model.model_id for model in run.outputs.model_outputs] if run.outputs else []
        if len(models) != 1:
            yield f"run {run.info.run_id} has {len(models)} models"
        for model in models:
            with TemporaryDirectory() as folder:
                place = mlflow.MlflowClient(store).get_logged_model(model).artifact_location
                kept = mlflow.artifacts.download_artifacts(
                    f"{place}/data/model.keras", dst_path=folder, tracking_uri=store
                )
                if file_digest(Path(kept)) != file_digest(self.project / "models/mlp/model.keras"):
                    yield f"run {run.info.run_id} keeps another model"

    def champion_problems(self) -> Iterator[str]:
        """Say what is wrong with the registry."""
        client = mlflow.MlflowClient(self.store())
        versions = client.search_model_versions("name = 'mnist'")
        aliases = client.get_registered_model("mnist").aliases if versions else {}
        if len(versions) != 1 or set(aliases) != {"champion"}:
            yield f"{len(versions)} versions, with the aliases {aliases}"
        if len([run for run in runs_in(client, self.experiment) if "champion" in run.data.tags]) != 1:
            yield "not exactly one run is called that of the champion"
        lineage = self.start("mnist lineage models:/mnist@champion")
        if lineage.wait():
            yield f"the lineage is not verified: {lineage.said[-400:]}"

    def lost(self, said: str) -> str:
        epochs = max(len(re.findall(r"^epoch +\d+/", said, re.M)) - EPOCHS, 0)
        stages = [name for name, times in Counter(re.findall(RAN, said)).items() if times > 1]
        return ", ".join([amount(epochs, "epoch")] * bool(epochs) + stages) or "nothing"


class Training(WithStore):
    """A training by hand."""

    name, command = "training", "mnist train mlp"


class Pipeline(WithStore):
    """All of the pipeline but the download, in a git repository."""

    name, command = "dvc repro", "dvc repro"

    def build(self) -> None:
        make_project(self.project)
        shrink_params(self.project / "params.yaml")
        for written in ("data/split", "reports", "models"):
            shutil.rmtree(self.project / written, ignore_errors=True)
        (self.project / "data/normalization.json").unlink()
        yaml = YAML()
        pipeline = yaml.load(self.project / "dvc.yaml")
        yaml.dump(
            {"stages": {k: v for k, v in pipeline["stages"].items() if k != "download"}}, self.project / "dvc.yaml"
        )
        code = "src/mnist_pipeline"
        shutil.copytree(ROOT / code, self.project / code, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / ".dvcignore", self.project)
        commit(self.project)
        dvc(self.project, "init", "config core.analytics false", "config core.check_update false")
        commit(self.project)

    def problems(self) -> Iterator[str]:
        yield from super().problems()
        yield from self.champion_problems()
        if "up to date" not in (status := self.type("dvc status")):
            yield f"dvc status: {status[-300:]}"


class Registration(Pipeline):
    """The registration of a model that `dvc repro` has trained and evaluated."""

    name, command = "register", "mnist register"

    def build(self) -> None:
        super().build()
        self.type("dvc repro evaluate@mlp")

    def problems(self) -> Iterator[str]:
        yield from WithStore.problems(self)
        yield from self.champion_problems()


class Study(WithStore):
    """A study on Ray with two workers."""

    name, command = "study", f"mnist tune mlp --trials {TRIALS} --workers 2 --epochs 2"

    def problems(self) -> Iterator[str]:
        trials = load_study(find_studies(find_project(self.project)), "mlp").get_trials()
        states = Counter(trial.state.name for trial in trials)
        if states["COMPLETE"] != TRIALS or states.keys() - {"COMPLETE", "FAIL"}:
            yield f"trials: {dict(states)}"
        if len({str(trial.params) for trial in trials if trial.state.name == "COMPLETE"}) != states["COMPLETE"]:
            yield "the same parameters were tried twice"
        client = mlflow.MlflowClient(self.store())
        runs = runs_in(client, "mnist-tuning")
        own = [run for run in runs if "trial" not in run.data.tags]
        statuses = [run.info.status for run in own]
        if statuses.count("FINISHED") != 1 or "RUNNING" in statuses:
            yield f"statuses of the study's own runs: {statuses}"
        parents = {run.info.run_id for run in own if run.info.status == "FINISHED"}
        children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") in parents]
        names = {"COMPLETE": "FINISHED", "FAIL": "FAILED"}
        told = sorted((int(run.data.tags["trial"]), run.info.status) for run in children)
        if told != (known := [(trial.number, names.get(trial.state.name, "")) for trial in trials]):
            yield f"MLflow has the trials {told}, the study {known}"
        for run in children:
            if run.info.status == "FINISHED":
                # A study that has to restore its runs knows no other curve.
                yield from step_problems(client, run, (1, 2), *(("train_loss", "val_loss") if self.intact else ()))

    def lost(self, said: str) -> str:
        del said
        trials = load_study(find_studies(find_project(self.project)), "mlp").get_trials(deepcopy=False)
        again = len([trial for trial in trials if trial.params]) - TRIALS
        return amount(again, "trial") if again > 0 else "nothing"


def runs_in(client: "MlflowClient", experiment: str) -> "list[Run]":
    found = client.get_experiment_by_name(experiment)
    return [client.get_run(run.info.run_id) for run in client.search_runs([found.experiment_id] if found else [])]


def step_problems(client: "MlflowClient", run: "Run", steps: Iterable[int], *names: str) -> Iterator[str]:
    """Say which metrics of epochs lack a step or have one twice; the seconds of some may be lost with a store."""
    for name in (*names, "val_accuracy", "epoch_seconds"):
        found: Sequence[int] = [point.step for point in client.get_metric_history(run.info.run_id, name)]
        if found != (sorted({*found}) if name == "epoch_seconds" else [*steps]):
            yield f"steps of {name}: {found}"


def shrink_params(file: Path) -> None:
    """Leave one model with a few epochs, and a small search space."""
    yaml = YAML()
    params = yaml.load(file)
    params["train"] = ["mlp"]
    params["split"]["validation_size"] = 200
    params["models"] = {"mlp": params["models"]["mlp"]}
    params["models"]["mlp"]["training"]["epochs"] = EPOCHS
    params["tune"] = {"pruner": "none", "space": {"mlp": SPACE}}
    yaml.dump(params, file)
