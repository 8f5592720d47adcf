"""What MLflow holds after the stages ran: real stages, a real store, a small project."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, write_json
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.registry.candidate import Best
from mnist_pipeline.tracking.artifacts import logged_model_id
from mnist_pipeline.tracking.page.views import MODELS_VIEWS, TRIALS_VIEWS
from mnist_pipeline.tracking.runs import find_run_by_digest, training_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import TrialEnd, study_run
from mnist_pipeline.tracking.sync import sync
from mnist_pipeline.training.params import Params, load_params
from small_project import ROOT, draw_digits, make_project


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, Params]]:
    """A project whose two models are trained, evaluated and registered."""
    from mnist_pipeline.stages import evaluate, register, train

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        project = make_project(tmp_path_factory.mktemp("finished"))
        params = load_params(project.params)
        for name in params.train:
            train.run(project, params, ModelId(name))
            evaluate.run(project, params, ModelId(name))
        register.run(project, params)
        yield project, params


def run_of(project: Project, name: str) -> Any:
    """Return the run that trained a model of the project."""
    return find_run_by_digest(open_store(project), project, file_digest(project.model_file(name)))


def test_one_run_holds_everything_about_a_model(finished: tuple[Project, Params]) -> None:
    project, params = finished
    client = open_store(project)
    runs = client.search_runs([client.get_experiment_by_name("mnist").experiment_id])
    assert sorted(run.data.tags["model"] for run in runs) == ["cnn", "mlp"]
    run = run_of(project, "cnn")
    assert run.info.status == "FINISHED"
    model = params.model("cnn")
    assert run.data.params["training.optimizer.name"] == model.training.optimizer.name
    assert run.data.params["architecture.blocks.0.filters"] == "4"
    assert run.data.params["normalization"] == "unit"
    for metric in ("train_loss", "train_accuracy", "val_loss", "val_accuracy", "learning_rate", "epoch_seconds"):
        assert [point.step for point in client.get_metric_history(run.info.run_id, metric)] == [1, 2]
    assert run.data.metrics["test_accuracy"] == read_json(project.test_report("cnn"), dict[str, Any], "")["accuracy"]
    assert run.data.metrics["training_seconds"] > 0
    own = {tag for tag in run.data.tags if not tag.startswith("mlflow.")}
    assert own - {"champion"} == {
        "model", "host", "process", "git_commit", "inputs_key", "lineage_md5", "device", "model_md5",
            "params_md5",
    }  # fmt: skip
    description = run.data.tags["mlflow.note.content"]
    assert f"| cnn&emsp; | {run.data.metrics['best_val_accuracy']:.2%}&emsp; |" in description
    assert f"/runs/{run.info.run_id}/artifacts/report/figures/recall.png)" in description
    assert description.count("**cnn**: cnn, trained by") == 1


def test_the_views_show_what_is_really_logged(finished: tuple[Project, Params]) -> None:
    project, _ = finished
    run = run_of(project, "cnn")
    curves = [chart["metricKey"] for chart in MODELS_VIEWS[1].state["compareRunCharts"]]
    assert {*re.findall(r"metrics\.`(\w+)`", str(MODELS_VIEWS)), *curves} <= set(run.data.metrics)
    varied = set(re.findall(r"params\.`([\w.]+)`", str(TRIALS_VIEWS)))
    spaces = YAML(typ="safe").load(ROOT / "params.yaml")["tune"]["space"]
    assert all(varied <= set(space) for space in spaces.values())


def test_an_experiment_of_before_gets_the_views(project: Project) -> None:
    client = open_store(project)
    experiment = client.get_experiment_by_name("mnist-tuning")
    client.delete_experiment_tag(experiment.experiment_id, "mlflow.sharedViewState.trials")
    open_store(project)
    assert client.get_experiment_by_name("mnist-tuning").tags == experiment.tags


def test_data_sets_carry_the_hashes_of_dvc(finished: tuple[Project, Params]) -> None:
    project, _ = finished
    run = run_of(project, "mlp")
    digests = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    assert digests == {
        f"mnist-{name}": file_digest(project.split / f"{name}.npz") for name in ("train", "validation", "test")
    }


def test_artifacts_hold_files_figures_and_a_model_without_pickle(finished: tuple[Project, Params]) -> None:
    import mlflow

    project, _ = finished
    client = open_store(project)
    run = run_of(project, "cnn")
    names = {artifact.path for artifact in client.list_artifacts(run.info.run_id)}
    assert {"params.yaml", "augmentation.png"} <= names
    report = Path(client.download_artifacts(run.info.run_id, "report"))
    files = {path.relative_to(report): path.read_bytes() for path in report.rglob("*.*")}
    here = project.report("cnn")
    assert files == {path.relative_to(here): path.read_bytes() for path in here.rglob("*.*")}
    logged = client.get_logged_model(run.outputs.model_outputs[-1].model_id)
    assert "test_accuracy" in {metric.key for metric in logged.metrics or []}
    folder = Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}"))
    assert file_digest(folder / "data" / "model.keras") == file_digest(project.model_file("cnn"))
    assert not [path for path in folder.rglob("*") if path.suffix in (".pkl", ".pickle", ".cloudpickle")]
    requirements = (folder / "requirements.txt").read_text().splitlines()
    assert any(line.startswith("keras==") for line in requirements)
    assert all("==" in line for line in requirements)


def test_the_champion_takes_raw_pixels_and_mlflow_refuses_others(finished: tuple[Project, Params]) -> None:
    import mlflow
    from mlflow.exceptions import MlflowException

    project, _ = finished
    open_store(project)
    champion = mlflow.pyfunc.load_model("models:/mnist@champion")
    pixels = draw_digits(20, 9).images
    probabilities = champion.predict(pixels)
    assert probabilities.shape == (20, 10)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_array_equal(champion.predict({"pixels": pixels}), probabilities)
    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        champion.predict(pixels.astype(np.float32))
    with pytest.raises(MlflowException, match="Failed to enforce schema"):
        champion.predict(pixels[:, :27])
    assert champion.predict(champion.input_example).argmax() in range(10)


def test_mlflow_serves_the_champion_over_http(finished: tuple[Project, Params]) -> None:
    project, _ = finished
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        f"{sys.executable} -m mlflow models serve -m models:/mnist@champion -p {port} --env-manager local".split(),
        env={
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "MLFLOW_TRACKING_URI": f"sqlite:///{project.tracking_database}",
        },
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        pixels = draw_digits(3, 9).images.tolist()
        for values in (pixels, {"pixels": pixels}):
            answer = np.asarray(ask(f"http://127.0.0.1:{port}/invocations", {"inputs": values})["predictions"])
            assert answer.shape == (3, 10)
            np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def ask(url: str, question: dict[str, Any]) -> dict[str, Any]:
    """Post JSON to a server that may still be starting."""
    import requests

    for _ in range(120):
        try:
            response = requests.post(url, json=question, timeout=30)
        except requests.ConnectionError:
            time.sleep(1)
            continue
        response.raise_for_status()
        return response.json()
    raise AssertionError("the server did not come up in two minutes")


def test_a_model_trained_again_to_the_same_bytes_is_the_same_version(finished: tuple[Project, Params]) -> None:
    from mnist_pipeline.stages import register, train

    project, params = finished
    client = open_store(project)
    before = project.best.read_bytes()
    train.run(project, params, ModelId(read_json(project.best, Best, "").model))
    register.run(project, params)
    versions = client.search_model_versions("name = 'mnist'")
    assert len(versions) == 1
    assert project.best.read_bytes() == before
    champion = client.get_model_version_by_alias("mnist", "champion")
    name = read_json(project.best, Best, "").model
    assert champion.tags["model"] == name
    assert champion.tags["model_md5"] == file_digest(project.model_file(name))
    assert "validation (chosen by this)" in (champion.description or "")


def test_a_logged_model_that_somebody_has_deleted_is_logged_anew(finished: tuple[Project, Params]) -> None:
    project, params = finished
    client = open_store(project)
    name = "mlp" if read_json(project.best, Best, "").model == "cnn" else "cnn"
    run = run_of(project, name)
    client.delete_logged_model(run.outputs.model_outputs[-1].model_id)
    found = sync(project, params)
    assert (found.refused, found.lost) == ([], [])
    assert found.restored == [f"{name}: the store had no intact model file; restored"]
    again = logged_model_id(client.get_run(run.info.run_id))
    assert client.get_logged_model(again).source_run_id == run.info.run_id
    assert sync(project, params).restored == []


def test_the_champion_is_chosen_on_validation_whatever_the_test_says(
    finished: tuple[Project, Params], tmp_path: Path
) -> None:
    from mnist_pipeline.stages import register

    _, params = finished
    shutil.copytree(finished[0].root, tmp_path, dirs_exist_ok=True)
    project = find_project(tmp_path)
    shutil.rmtree(project.artifacts)
    project.tracking_database.unlink()
    for name, validation, test in (("mlp", 0.98, 0.90), ("cnn", 0.97, 0.999)):
        for path, key, value in (
            (project.training_summary(name), "validation_accuracy", validation),
            (project.test_report(name), "accuracy", test),
        ):
            write_json(path, read_json(path, dict[str, Any], "") | {key: value})
    register.run(project, params)
    assert read_json(project.best, Best, "").model == "mlp"
    client = open_store(project)
    assert client.get_model_version_by_alias("mnist", "champion").tags["model"] == "mlp"
    # The store was gone: the run was rebuilt from the files, curves and model included.
    run = run_of(project, "mlp")
    assert run.data.tags["restored"] == "true"
    assert len(client.get_metric_history(run.info.run_id, "train_loss")) == 2
    assert client.list_artifacts(run.info.run_id, "report/figures")  # which the model card shows


def test_nothing_but_evaluate_opens_the_test_split(project: Project, params: Params) -> None:
    from mnist_pipeline.stages import evaluate, register, train

    test_file = project.split / "test.npz"
    intact = test_file.read_bytes()
    test_file.write_bytes(b"sabotage")
    train.run(project, params, ModelId("mlp"))
    with pytest.raises(UserError, match=r"test\.npz is damaged"):
        evaluate.run(project, params, ModelId("mlp"))
    test_file.write_bytes(intact)
    evaluate.run(project, params, ModelId("mlp"))
    test_file.write_bytes(b"sabotage")
    register.run(project, params.model_copy(update={"train": ("mlp",)}))


def test_a_failing_run_is_failed_and_an_interrupted_one_killed(project: Project, params: Params) -> None:
    def interrupt_by(error: BaseException) -> str:
        with pytest.raises(type(error)), training_run(project, params, ModelId("mlp"), tags={}) as run:
            raise error
        return open_store(project).get_run(run.run_id).info.status

    assert interrupt_by(UserError("diverged")) == "FAILED"
    assert interrupt_by(KeyboardInterrupt()) == "KILLED"


def test_a_training_logs_what_the_machine_did_and_no_secret(
    project: Project, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = ("git", "-C", str(project.root))
    subprocess.run([*repository, "init", "--quiet"], check=True)
    subprocess.run([*repository, "add", "."], check=True)
    subprocess.run([*repository, "-c", "user.name=t", "-c", "user.email=t", "commit", "-qm", "all"], check=True)
    subprocess.run([*repository, "remote", "add", "origin", "https://me:hunter2@example.org/mnist.git"], check=True)
    monkeypatch.setattr(sys, "argv", [str(project.params)])  # what MLflow takes for the program
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")
    client = open_store(project)
    monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)  # of somebody's shell
    with training_run(project, params, ModelId("mlp"), tags={}) as run:
        wait_until(lambda: bool(client.get_metric_history(run.run_id, "system/cpu_utilization_percentage")))
    logged = client.get_run(run.run_id)
    assert logged.data.tags["mlflow.source.git.repoURL"] == "https://example.org/mnist.git"
    assert logged.data.tags["mlflow.source.name"] == "mnist train mlp"
    assert "system/system_memory_usage_megabytes" in logged.data.metrics
    everything = [project.tracking_database, *(path for path in project.artifacts.rglob("*") if path.is_file())]
    assert not [path for path in everything if b"hunter2" in path.read_bytes()]


def wait_until(happens: Callable[[], bool]) -> None:
    for _ in range(100):
        if happens():
            return
        time.sleep(0.2)
    raise AssertionError("it did not happen within 20 seconds")


def test_a_training_that_is_killed_when_its_model_is_logged_has_one_model_in_the_end(
    project: Project, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnist_pipeline.stages import train
    from mnist_pipeline.tracking.runs import TrainingRun

    log_result = TrainingRun.log_result

    def log_and_die(*arguments: Any) -> None:
        log_result(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "log_result", log_and_die)
    with pytest.raises(KeyboardInterrupt):
        train.run(project, params, ModelId("mlp"))
    monkeypatch.setattr(TrainingRun, "log_result", log_result)
    train.run(project, params, ModelId("mlp"))
    client = open_store(project)
    (run,) = client.search_runs([client.get_experiment_by_name("mnist").experiment_id])
    assert run.info.status == "FINISHED"
    assert len(client.get_run(run.info.run_id).outputs.model_outputs) == 1


def test_a_run_whose_process_was_killed_does_not_stay_running(project: Project, params: Params) -> None:
    client = open_store(project)
    with training_run(project, params, ModelId("mlp"), tags={}) as run:
        pass
    client.update_run(run.run_id, status="RUNNING")
    with training_run(project, params, ModelId("cnn"), tags={}):
        assert client.get_run(run.run_id).info.status == "RUNNING"  # for this process, which opened it, lives
    # What kill -9 leaves behind: a run that says RUNNING, of a process that is no more.
    client.set_tag(run.run_id, "process", "999999999 1.00")
    with training_run(project, params, ModelId("cnn"), tags={}) as other:
        assert client.get_run(run.run_id).info.status == "KILLED"
        assert client.get_run(other.run_id).info.status == "RUNNING"


def test_a_study_that_nobody_goes_on_with_and_a_trial_that_it_has_forgotten_do_not_stay_running(
    project: Project, params: Params
) -> None:
    definition = {"model": "mlp", "data.train": "a" * 32, "data.validation": "b" * 32}
    with study_run(project, "mlp", "study", definition) as study:
        client = study.client
        for number in (0, 1):
            study.log_trial(TrialEnd(number, "complete", {}, {}, [], None), {})
        study.forget(1)
        ((number, trial),) = study.trial_runs().items()
        assert number == 0
    for run_id in (study.run_id, trial.info.run_id):
        client.update_run(run_id, status="RUNNING")
        client.set_tag(run_id, "process", "999999999 1.00")
    with training_run(project, params, ModelId("mlp"), tags={}):
        pass
    assert {client.get_run(run_id).info.status for run_id in (study.run_id, trial.info.run_id)} == {"KILLED"}


def test_a_store_that_cannot_be_used_is_named_without_its_password(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.params}/mlflow.db?password=hunter2")
    with pytest.raises(UserError, match="MLFLOW_TRACKING_URI") as refusal:
        open_store(project)
    assert "hunter2" not in str(refusal.value)
