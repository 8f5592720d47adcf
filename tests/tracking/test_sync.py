"""`mnist sync` with the real DVC and MLflow: whatever way a model came into the workspace, its run is in the store.

One project and one sequence, because each command of DVC takes seconds: a module of tests in the order they stand in.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML
from server import running_server

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.provenance.inputs import present_inputs, recorded_inputs
from mnist_pipeline.provenance.pipeline import read_lock
from mnist_pipeline.registry.candidate import Best
from mnist_pipeline.registry.catalogue import show_models
from mnist_pipeline.registry.registry import Registry
from mnist_pipeline.registry.sync import lacks_best, sync_versions
from mnist_pipeline.reproduction.lineage import walk
from mnist_pipeline.stages import register
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.sync import sync, with_values
from mnist_pipeline.training.params import load_params
from repository import dvc
from small_project import ROOT, tiny_params

PIPELINE = """\
stages:
  download:
    cmd: python src/quick_stages.py data
    deps: [src/quick_stages.py]
    outs: [data/raw]
  split:
    cmd: python src/quick_stages.py data
    deps: [data/raw, src/quick_stages.py]
    params: [split]
    outs: [data/split/train.npz, data/split/validation.npz, data/split/test.npz, data/normalization.json]
  train:
    matrix: { model: '${train}' }
    cmd: python src/quick_stages.py train ${item.model}
    deps: [data/normalization.json, data/split/train.npz, data/split/validation.npz, src/quick_stages.py]
    params: [seed, 'models.${item.model}']
    outs:
      - models/${item.model}/model.keras
      - reports/${item.model}/training.json
      - reports/${item.model}/history.csv
  evaluate:
    matrix: { model: '${train}' }
    cmd: python src/quick_stages.py evaluate ${item.model}
    deps: [data/split/test.npz, 'models/${item.model}/model.keras', src/quick_stages.py]
    outs:
      - reports/${item.model}/figures
      - reports/${item.model}/test.json
      - reports/${item.model}/confusion.csv
      - reports/${item.model}/robustness.csv
  register:
    cmd: python src/quick_stages.py register
    deps: [models, 'reports/mlp/test.json']
    params: [train]
    outs: [reports/best.json]
"""


RUN = "mlp: the store had no run of this training; restored from its files"
REPORT = "mlp: the store had no intact test report; restored"


class Workspace:
    """A git repository with a DVC pipeline, and what people type in it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.home = root
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith(("DVC_", "MLFLOW_", "GIT_"))},
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": os.pathsep.join(sys.path),
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "t@example.org" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }

    def run(self, command: str) -> str:
        done = subprocess.run(
            command.split(),
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def project(self) -> Project:
        return Project(root=self.home, top=self.home, home=self.home)

    def lose_store(self) -> None:
        """Delete the store; what follows takes another way to it, for MLflow holds on to the deleted file."""
        self.project.tracking_database.unlink()
        shutil.rmtree(self.root / "mlruns")
        self.home = self.root.with_name(f"{self.root.name} again")
        self.home.symlink_to(self.root)

    def repro(self) -> set[str]:
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc repro")))

    def set_seed(self, seed: int) -> None:
        text = self.project.params.read_text(encoding="utf-8")
        self.project.params.write_text(re.sub(r"(?m)^seed: \d+", f"seed: {seed}", text), encoding="utf-8")
        assert load_params(self.project.params).seed == seed

    def commit(self, message: str) -> str:
        self.run("git add --all")
        self.run(f"git commit --quiet -m {message}")
        return self.run("git rev-parse HEAD").strip()

    def checkout(self, commit: str) -> None:
        self.run(f"git checkout --quiet {commit}")
        self.run("dvc checkout")

    def sync(self) -> list[str]:
        """Sync, and make sure that doing it twice changes nothing."""
        first = self.mnist_sync()
        before = self.snapshot()
        assert self.mnist_sync() == []
        assert self.snapshot() == before
        return first

    def mnist_sync(self) -> list[str]:
        """Do what the command does, in this process."""
        params = load_params(self.project.params)
        found = sync(self.project, params)
        sync_versions(self.project, params, found)
        assert found.refused == []
        if lacks_best(self.project):
            register.run(self.project, params)
        return [*found.restored, *found.lost]

    def runs(self) -> list[Any]:
        client = open_store(self.project)
        experiment = client.get_experiment_by_name("mnist")
        assert experiment is not None
        return client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])

    def run_of_model(self) -> Any:
        """Return the one run of the model file in the workspace."""
        digest = file_digest(self.project.model_file("mlp"))
        (run,) = [run for run in self.runs() if run.data.tags.get("model_md5") == digest]
        return run

    def snapshot(self) -> dict[str, Any]:
        """Return all that a sync could change."""
        client = open_store(self.project)
        return {
            "runs": {run.info.run_id: (run.info.end_time, run.data.tags, run.data.metrics) for run in self.runs()},
            "versions": {
                version.version: version.last_updated_timestamp
                for version in client.search_model_versions("name = 'mnist'")
            },
            "champion": client.get_model_version_by_alias("mnist", "champion").version,
        }


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    """A project whose one model is trained twice, in two commits, and pushed to a remote."""
    folder = tmp_path_factory.mktemp("sync")
    root = folder / "project"
    root.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT", "DVC_EXP_NAME"):
            patch.delenv(name, raising=False)
        tiny_params(root)
        only_one_model(root / "params.yaml")
        (root / "dvc.yaml").write_text(PIPELINE)
        (root / "src").mkdir()
        shutil.copy(Path(__file__).with_name("quick_stages.py"), root / "src")
        (root / ".gitignore").write_text("/data/\n/models/\n/reports/\n/mlruns/\n/mlflow.db*\n__pycache__/\n")
        workspace = Workspace(root)
        workspace.run("git init --quiet --initial-branch main")
        remote = f"remote add --default storage {folder / 'storage'}"
        dvc(root, "init --quiet", "config core.analytics false", "config core.autostage false", remote)
        assert {"train@mlp", "evaluate@mlp", "register"} <= workspace.repro()
        yield workspace


def only_one_model(path: Path) -> None:
    yaml = YAML()
    content = yaml.load(path)
    content["train"] = ["mlp"]
    del content["models"]["cnn"], content["tune"]["space"]["cnn"]
    yaml.dump(content, path)


def test_a_training_under_dvc_has_the_key_of_its_entry_in_the_lock(here: Workspace) -> None:
    run = here.run_of_model()
    inputs = recorded_inputs(read_lock(here.project), "train@mlp")
    assert inputs is not None
    assert run.data.tags["inputs_key"] == inputs.key
    assert present_inputs(here.project, "train", ModelId("mlp")) == inputs
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert digests["mnist-train"] == file_digest(here.project.split / "train.npz")
    # `evaluate` had kept its report from the store, and `register` has delivered it.
    assert here.sync() == []
    assert here.run_of_model().data.metrics["test_accuracy"] == 0.5
    assert "restored" not in run.data.tags


def test_after_the_store_was_lost_each_commit_gets_its_run_back(here: Workspace) -> None:
    first = here.commit("first")
    here.set_seed(1)
    assert "train@mlp" in here.repro()
    here.commit("second")
    here.run("dvc push")
    here.lose_store()

    here.checkout(first)
    with pytest.raises(UserError, match="No model is registered yet: run `mnist sync`"):
        show_models(here.project)
    for reference in ("0123", "models:/mnist@champion"):
        with pytest.raises(UserError, match="`mnist sync`"):
            walk(here.project, reference).__enter__()
    assert here.sync() == [RUN, REPORT]
    run = here.run_of_model()
    assert run.info.status == "FINISHED"
    assert run.data.tags["restored"] == "true"
    assert run.data.tags["git_commit"] == first
    assert run.data.params["seed"] == "0"
    client = open_store(here.project)
    history = client.get_metric_history(run.info.run_id, "val_loss")
    assert [(point.step, point.value) for point in history] == [(1, 0.9), (2, 0.45), (3, pytest.approx(0.3))]
    assert run.data.metrics["best_val_accuracy"] == 0.6
    figures = client.list_artifacts(run.info.run_id, "report/figures")
    assert [artifact.path for artifact in figures] == ["report/figures/recall.png"]
    champion = client.get_model_version_by_alias("mnist", "champion")
    assert champion.run_id == run.info.run_id
    with walk(here.project, "models:/mnist@champion") as walked:
        parts = [part for finding in walked.findings for part in finding.all()]
        assert [part.what for part in parts if part.state != "verified"] == []

    here.checkout("main")
    assert here.sync() == [RUN, REPORT]
    assert here.run_of_model().data.params["seed"] == "1"
    assert len(here.runs()) == 2


def test_what_the_store_lost_of_its_files_comes_back(here: Workspace) -> None:
    """Of the model in the workspace, version 2, all of it; of version 1, the model from DVC's cache."""
    runs = {run.info.run_id for run in here.runs()}
    shutil.rmtree(here.root / "mlruns" / "mnist")
    with pytest.raises(UserError, match="files of models:/mnist/2 are lost or damaged"):
        load_version(here, "2")
    lost_card = "version 1 (mlp): the store has no intact model_card.md, and neither the workspace nor DVC's cache can"
    assert [line.partition(" replace")[0] for line in here.mnist_sync()] == [
        "mlp: the store had no intact model file, params.yaml, lineage.json, test report; restored",
        "version 2 (mlp): the store had no intact model_card.md, trained_on.npy; restored",
        "version 1 (mlp): the store had no intact model file, trained_on.npy; restored",
        lost_card,
    ]
    with walk(here.project, "models:/mnist/2") as walked:
        assert [part.what for step in walked.findings for part in step.all() if part.state != "verified"] == []
    load_version(here, "1")
    assert {run.info.run_id for run in here.runs()} == runs

    artifacts = next(here.root.glob(f"mlruns/mnist/{here.run_of_model().info.run_id}/artifacts"))
    (artifacts / "report" / "history.csv").unlink()
    (artifacts / "params.yaml").write_text("a: [")
    for file in here.root.glob("mlruns/mnist/models/*/artifacts/data/model.keras"):
        os.truncate(file, 100)
    shutil.move(here.root / ".dvc" / "cache", here.root / "away")
    said = here.mnist_sync()
    assert said[0] == "mlp: the store had no intact model file, params.yaml, test report; restored"
    assert said[1].startswith("version 1 (mlp): the store has no intact model file, model_card.md, and neither")
    shutil.move(here.root / "away", here.root / ".dvc" / "cache")
    assert here.mnist_sync()[0] == "version 1 (mlp): the store had no intact model file; restored"

    here.checkout("main~1")  # where version 1 is the model of the workspace
    assert here.sync() == [
        "mlp: the store had no intact params.yaml, lineage.json, test report; restored",
        "version 1 (mlp): the store had no intact model_card.md; restored",
    ]
    here.checkout("main")


def load_version(here: Workspace, number: str) -> None:
    registry = Registry.open(here.project)
    registry.load(next(version for version in registry.versions() if version.number == number))


def test_a_file_that_is_not_the_recorded_one_gets_no_run(here: Workspace) -> None:
    model, history = here.project.model_file("mlp"), here.project.history("mlp")
    intact = {path: path.read_bytes() for path in (model, history)}
    for delete_run in (False, True):
        if delete_run:
            open_store(here.project).delete_run(here.run_of_model().info.run_id)
        before = here.runs()
        for path, content in intact.items():
            path.write_bytes(content[:-10])
            (sentence,) = sync(here.project, load_params(here.project.params)).refused
            assert sentence.startswith(f"dvc.lock records another {path.relative_to(here.home)}, so MLflow was told")
            assert "`dvc repro`" in sentence
            path.write_bytes(content)
        assert len(here.runs()) == len(before)
    assert RUN in here.mnist_sync()
    model.write_bytes(intact[model][:-10])
    here.run("dvc checkout --force models/mlp/model.keras")  # as the sentence says
    assert model.read_bytes() == intact[model]


def test_a_model_trained_by_hand_gets_its_run_back_unless_it_is_damaged(here: Workspace) -> None:
    here.set_seed(4)
    here.run(f"{sys.executable} src/quick_stages.py train mlp")
    assert here.sync() == []  # for the training wrote its run
    for damaged in (False, True):
        run = here.run_of_model()
        open_store(here.project).delete_run(run.info.run_id)
        if damaged:
            os.truncate(here.project.model_file("mlp"), 2_000)
        found = sync(here.project, load_params(here.project.params))
        if damaged:
            assert "cannot be loaded as a Keras model" in found.refused[0]
            assert found.restored == []
        else:
            assert found.restored == [RUN]
            assert here.run_of_model().data.tags["restored_from"] == "the files at hand"
    here.run("git checkout --quiet params.yaml")
    here.run("dvc checkout --force")


def test_a_reverted_parameter_finds_its_run_or_gets_it_back(here: Workspace) -> None:
    here.set_seed(0)
    assert "train@mlp" not in here.repro()  # DVC kept what it once made
    assert here.sync() == []
    run = here.run_of_model()
    assert run.data.params["seed"] == "0"
    open_store(here.project).delete_run(run.info.run_id)
    assert here.sync() == [RUN, REPORT]
    again = here.run_of_model()
    assert again.data.params == run.data.params
    # The parameters are not those of the commit, and the run says so.
    assert again.data.tags["git_dirty"] == "true"


def test_edits_since_the_training_are_not_taken_for_its_inputs(here: Workspace) -> None:
    open_store(here.project).delete_run(here.run_of_model().info.run_id)
    script = here.root / "src" / "quick_stages.py"
    text = script.read_text()
    script.write_text(f"{text}# edited\n")
    here.set_seed(9)
    assert here.sync() == [RUN, REPORT]
    run = here.run_of_model()
    assert run.data.params["seed"] == "0"
    assert run.data.tags["git_commit"] == "unknown commit"
    params = open_store(here.project).download_artifacts(run.info.run_id, "params.yaml")
    assert load_params(Path(params)).seed == 0
    script.write_text(text)
    here.run("git checkout --quiet params.yaml")


def test_a_pipeline_on_the_data_of_another_leaves_out_what_only_that_one_knows() -> None:
    params = load_params(ROOT / "baselines" / "params.yaml")
    recorded = {"data.classes": ["0", "1"], "split": {"validation_size": 1}, "device": "gpu"}
    then = with_values(params, {**recorded, "models.tf_mlp": params.models["tf_mlp"].model_dump(mode="json")})
    assert then == params.model_copy(update={"device": "gpu"})


def test_experiments_of_dvc_log_to_the_main_project(here: Workspace) -> None:
    before = len(here.runs())
    here.run("dvc exp run --name here -S seed=5 train@mlp")
    here.run("dvc exp run --temp --name temporary -S seed=6 train@mlp")
    here.run("dvc exp run --queue --name queued -S seed=7 train@mlp")
    here.run("dvc exp run --run-all")
    new = here.runs()[: len(here.runs()) - before]
    found = {run.data.tags["dvc_experiment"]: run.data.params["seed"] for run in new}
    assert found == {"here": "5", "temporary": "6", "queued": "7"}
    baseline = here.run("git rev-parse HEAD").strip()
    assert {run.data.tags["dvc_baseline"] for run in new} == {baseline}
    # What an experiment trained elsewhere is found when it comes into the workspace.
    here.run("git checkout --quiet .")
    here.run("dvc exp apply temporary")
    assert RUN not in here.sync()
    assert here.run_of_model().data.tags["dvc_experiment"] == "temporary"
    here.run("git checkout --quiet .")
    here.run("dvc checkout")


def test_a_fresh_clone_that_pulled_gets_runs_and_champion(here: Workspace, tmp_path: Path) -> None:
    here.run(f"git clone --quiet . {tmp_path / 'clone'}")
    clone = Workspace(tmp_path / "clone")
    clone.run("dvc pull --quiet")
    assert "restored" in clone.run("mnist sync")
    run = clone.run_of_model()
    assert run.data.tags["restored"] == "true"
    client = open_store(clone.project)
    assert client.get_model_version_by_alias("mnist", "champion").run_id == run.info.run_id
    assert read_json(clone.project.best, Best, "").model_md5 == run.data.tags["model_md5"]
    assert clone.sync() == []


def test_a_server_gets_the_runs_over_http(here: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running_server(tmp_path) as server:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://somebody:hunter2@127.0.0.1:{server.behind}")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # for a machine that has other things to do
        assert here.sync() == [RUN, REPORT]
        run = here.run_of_model()
        assert run.data.tags["restored"] == "true"
        with walk(here.project, "models:/mnist@champion") as walked:
            states = {finding.what.split()[0]: finding.state for finding in walked.findings}
        assert states["registered"] == states["model"] == "verified"
    everything = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"hunter2" not in everything
