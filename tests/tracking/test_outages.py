"""A tracking server that is lost for a while, of every kind: the training goes on, and in the end nothing shows it.

One server for all, behind a proxy that refuses, hangs, answers 500, or does what it is asked and never answers.
"""

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from server import Mood, Proxy, running_server

from mnist_pipeline.cli import app, run_command
from mnist_pipeline.core.files import file_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.stages import evaluate, register
from mnist_pipeline.tracking import outbox
from mnist_pipeline.tracking.contents import artifacts_page
from mnist_pipeline.tracking.runs import TrainingRun, epoch_metrics, training_run
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.tracking.studies import StudyRun, TrialEnd, study_run
from mnist_pipeline.tracking.sync import sync
from mnist_pipeline.training.history import Epoch, TrainingSummary, write_history
from mnist_pipeline.training.params import Params, load_params
from small_project import MNIST, make_project

MLP = ModelId("mlp")
DELIVERED = "1 run of when MLflow was out of reach: delivered"
LOSSES: tuple[Mood, ...] = ("gone", "hanging", "broken", "forgetful")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with running_server(tmp_path_factory.mktemp("server")) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_project(tmp_path_factory.mktemp("project"))


@pytest.fixture(autouse=True)
def _well(server: Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Begin with a server that is there, and with little patience."""
    server.mood = "well"
    monkeypatch.setattr(outbox, "PAUSE", 0.05)
    monkeypatch.setattr(outbox, "SHARE", 1.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.2")


@pytest.fixture
def project(shared: Project) -> Project:
    return shared


@pytest.fixture
def params(project: Project) -> Params:
    return load_params(project.params)


@pytest.fixture(scope="module")
def seeds() -> Iterator[int]:
    """Numbers of models, so that no two tests have the same."""
    return iter(range(1, 100))


def epoch(number: int) -> Epoch:
    return Epoch(number, 1 / number, 0.5, 0.9 / number, 0.6, 0.001)


def end(project: Project, run: TrainingRun, seed: int, epochs: int = 4) -> None:
    """Write what the training of a small model would have left, and log it."""
    import keras

    from mnist_pipeline.data.normalize import load_statistics
    from mnist_pipeline.models.model import build_model, save_model

    entry = load_params(project.params).model("mlp")
    keras.utils.set_random_seed(seed)
    network = build_model(entry.architecture, entry.normalization, load_statistics(project.normalization), MNIST)
    save_model(network, project.model_file(MLP))
    write_history(project.history(MLP), [epoch(number + 1) for number in range(epochs)])
    summary = TrainingSummary(0.6, 0.3, 3, epochs, network.count_params())
    write_json(project.training_summary(MLP), asdict(summary))
    run.log_result(summary, 0.3)


def wait_until(happens: Callable[[], object]) -> None:
    give_up = time.monotonic() + 30
    while not happens():
        assert time.monotonic() < give_up, "it did not happen within 30 seconds"
        time.sleep(0.05)


def steps(client: MlflowClient, run: Run, metric: str = "val_loss") -> list[int]:
    return [point.step for point in client.get_metric_history(run.info.run_id, metric)]


def run_of_model(project: Project) -> tuple[MlflowClient, Run]:
    """Return the one run on the server of the model in the workspace."""
    client = open_store(project)
    query = f"tags.model_md5 = '{file_digest(project.model_file(MLP))}'"
    (run,) = client.search_runs([client.get_experiment_by_name("mnist").experiment_id], query)
    return client, run


def files(client: MlflowClient, run: Run, folder: str = "") -> dict[str, int | None]:
    found: dict[str, int | None] = {}
    for entry in client.list_artifacts(run.info.run_id, folder):
        found |= files(client, run, entry.path) if entry.is_dir else {entry.path: entry.file_size}
    return found


def told(client: MlflowClient, run: Run) -> dict[str, Any]:
    """Return all that a run says, but for what differs from one time to the next: names, sizes, steps, values."""
    (output,) = run.outputs.model_outputs
    model = client.get_logged_model(output.model_id)
    steps_of = {key: steps(client, run, key) for key in run.data.metrics if not key.startswith("system/")}
    return {
        "status": run.info.status,
        "params": run.data.params,
        "tags": sorted(run.data.tags),
        "steps": steps_of,
        "values": {key: run.data.metrics[key] for key in steps_of if key != "epoch_seconds"},
        "files": files(client, run),
        "inputs": sorted(each.dataset.digest for each in run.inputs.dataset_inputs),
        "model": (model.status, output.step, sorted((each.key, each.value) for each in model.metrics or [])),
        "model files": sorted(each.path for each in client.list_logged_model_artifacts(model.model_id)),
    }


@pytest.fixture(scope="module")
def undisturbed(server: Proxy, shared: Project, seeds: Iterator[int]) -> dict[str, Any]:
    """What the run of a training says whose server was there all the time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server.address)
        with training_run(shared, load_params(shared.params), MLP, tags={}) as run:
            for number in (1, 2, 3, 4):
                run.log_new_epoch(epoch(number))
            end(shared, run, next(seeds))
        return told(*run_of_model(shared))


def test_a_server_that_is_lost_amid_a_training_again_and_again_is_told_all_of_it(
    server: Proxy,
    project: Project,
    params: Params,
    seeds: Iterator[int],
    undisturbed: dict[str, Any],
    capsys: pytest.CaptureFixture[str],
) -> None:
    client, back = open_store(project), list[float]()
    with training_run(project, params, MLP, tags={}) as run:
        wait_until(lambda: is_running_with(client, 0))
        for number, mood in enumerate(LOSSES, start=1):
            server.mood, begin = mood, time.monotonic()
            run.log_new_epoch(epoch(number))
            assert time.monotonic() - begin < 4, f"the training waited for a server that is {mood}"
            wait_until(lambda: "Going on without MLflow" in capsys.readouterr().err)
            server.mood = "well"
            back.append(time.time() * 1000)
            wait_until(lambda: "The MLflow server is back" in capsys.readouterr().err)
            assert is_running_with(client, number)
        end(project, run, next(seeds))
    client, logged = run_of_model(project)
    assert told(client, logged) == undisturbed
    for point, later in zip(client.get_metric_history(logged.info.run_id, "val_loss"), back, strict=True):
        assert logged.info.start_time < point.timestamp < later < (logged.info.end_time or 0)
    used = steps(client, logged, "system/cpu_utilization_percentage")
    assert used == list(range(len(used)))


def assert_has_all_of(evaluated: dict[str, Any], trained: dict[str, Any]) -> None:
    """Check that an evaluated model's run says all that one says which is only trained, and its report."""
    for what in ("params", "steps", "values", "files"):
        assert evaluated[what].items() >= trained[what].items(), what
    assert (evaluated["status"], evaluated["tags"]) == (trained["status"], trained["tags"])
    assert evaluated["model"][:2] == trained["model"][:2]
    assert {*evaluated["model"][2]} >= {*trained["model"][2]}
    assert "report/test.json" in evaluated["files"]


def newest(client: MlflowClient) -> Run:
    (run,) = client.search_runs([client.get_experiment_by_name("mnist").experiment_id], max_results=1)
    return run


def is_running_with(client: MlflowClient, epochs: int) -> bool:
    """Return whether the server knows so many epochs of a training that goes on."""
    run = newest(client)
    return run.info.status == "RUNNING" and len(steps(client, run)) == epochs


def test_a_server_lost_until_the_end_is_told_by_sync(
    server: Proxy,
    project: Project,
    params: Params,
    seeds: Iterator[int],
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with training_run(project, params, MLP, tags={}) as run:
        run.log_new_epoch(epoch(1))
        server.mood = "gone"
        for number in (2, 3, 4):
            run.log_new_epoch(epoch(number))
        end(project, run, next(seeds))
    ended = time.time() * 1000
    assert "`mnist sync` delivers it" in capsys.readouterr().err
    evaluate.run(project, params, MLP)  # which had begun when the server was there
    assert "Going on without MLflow: The MLflow server" in capsys.readouterr().err
    server.mood, server.loses = "well", "mlflow/logged-models"
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(MlflowException):
        sync(project, params)
    assert not server.loses
    assert sync(project, params).restored == [DELIVERED, "mlp: the store had no intact test report; restored"]
    client, logged = run_of_model(project)
    models = client.search_logged_models([logged.info.experiment_id], f"source_run_id = '{logged.info.run_id}'")
    assert len(models) == 1
    assert_has_all_of(told(client, logged), undisturbed)
    assert (logged.info.end_time or ended) < ended
    assert sync(project, params).restored == []


def test_what_was_done_offline_is_delivered_by_sync(
    server: Proxy,
    project: Project,
    params: Params,
    seeds: Iterator[int],
    undisturbed: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server.mood, before = "hanging", server.asked
    monkeypatch.setenv("MNIST_OFFLINE", "1")
    only_mlp = params.model_copy(update={"train": ("mlp",)})
    with training_run(project, params, MLP, tags={}) as run:
        for number in (1, 2, 3, 4):
            run.log_new_epoch(epoch(number))
        end(project, run, next(seeds))
    evaluate.run(project, params, MLP)
    register.run(project, only_mlp)
    assert project.best.is_file()
    assert server.asked == before
    monkeypatch.delenv("MNIST_OFFLINE")
    server.mood = "well"
    sync(project, params)
    client, logged = run_of_model(project)
    assert_has_all_of(told(client, logged), undisturbed)
    assert sync(project, params).restored == []


DIES = """
import os, signal, sys
from mnist_pipeline.core.project import ModelId, find_project
from mnist_pipeline.tracking import outbox
from mnist_pipeline.tracking.contents import artifacts_page
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import load_params

outbox.PAUSE, outbox.SHARE = 0.05, 1.0
project = find_project()
with training_run(project, load_params(project.params), ModelId("mlp"), tags={}) as run:
    print(run.run_id, flush=True)
    for number in (1, 2, 3):
        run.log_new_epoch(Epoch(number, 1 / number, 0.5, 0.9 / number, 0.6, 0.001))
        print(number, flush=True)
        sys.stdin.readline()
"""


def test_a_training_killed_while_it_delivers_is_delivered_once_and_can_go_on(
    server: Proxy, project: Project, params: Params, seeds: Iterator[int], undisturbed: dict[str, Any]
) -> None:
    command = [sys.executable, "-c", DIES]
    client = open_store(project)
    with subprocess.Popen(
        command, cwd=project.root, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdin
        assert process.stdout
        kept = process.stdout.readline().strip()
        assert process.stdout.readline() == "1\n"
        wait_until(lambda: is_running_with(client, 1))
        server.mood = "forgetful"  # the server hears of the second epoch, and the training never knows
        process.stdin.write("\n")
        process.stdin.flush()
        assert process.stdout.readline() == "2\n"
        wait_until(lambda: is_running_with(client, 2))
        process.send_signal(signal.SIGKILL)
    server.mood = "well"
    assert sync(project, params).restored[0] == DELIVERED
    killed = newest(client)
    assert (killed.info.status, steps(client, killed)) == ("KILLED", [1, 2])
    with training_run(project, params, MLP, tags={}, resume=kept) as run:
        run.log_epochs(epoch(1), epoch(2))
        run.log_new_epoch(epoch(3))
        run.log_new_epoch(epoch(4))
        end(project, run, next(seeds))
    client, logged = run_of_model(project)
    assert logged.info.run_id == killed.info.run_id
    assert told(client, logged)["steps"] | {"epoch_seconds": []} == undisturbed["steps"] | {"epoch_seconds": []}
    assert logged.info.status == "FINISHED"


def test_a_study_goes_on_without_its_server_and_is_told_later(server: Proxy, project: Project, params: Params) -> None:
    digests = {f"data.{name}": file_digest(project.split / f"{name}.npz") for name in ("train", "validation")}
    study, definition = "study", {"model": "mlp", **digests}

    def session(*numbers: int, mood: Mood) -> None:
        with study_run(project, study, study, definition) as record:
            for number in numbers:
                server.mood = mood
                record.log_trial(ended(number), {})
            record.log_result({"trials_complete": len(numbers)}, {"best.yaml": "a: 1\n"})

    session(0, 1, mood="well")
    session(2, 3, mood="gone")
    server.mood = "well"
    sync(project, params)
    client = open_store(project)
    record = StudyRun.find(client, project, study)
    assert record
    assert record.run.info.status == "FINISHED"
    assert record.untold([ended(number) for number in range(4)]) == []
    runs = record.trial_runs()
    assert {number: steps(client, run) for number, run in runs.items()} == {number: [1, 2] for number in range(4)}
    assert runs[3].data.params == {"architecture.dropout": str(0.1 * 3)}
    assert files(client, record.run) == {"best.yaml": 5}
    assert f"({artifacts_page(record.run)}/trials.csv)" in record.run.data.tags["mlflow.note.content"]
    experiment = client.get_experiment_by_name(tuning_experiment_name(project))
    everything = client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{record.run_id}'")
    assert len(everything) == 4


def ended(number: int) -> TrialEnd:
    epochs = epoch_metrics(epoch(1)) + epoch_metrics(epoch(2))
    return TrialEnd(number, "complete", {"architecture.dropout": 0.1 * number}, {}, epochs, None)


@pytest.mark.parametrize("command", ["train mlp", "evaluate mlp", "register", "tune mlp", "sync", "models", "rollback"])
def test_a_server_that_is_not_there_at_the_start_is_said_at_once_with_both_ways_out(
    command: str, project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:hunter2@127.0.0.1:1")
    monkeypatch.chdir(project.root)
    monkeypatch.setattr(sys, "argv", ["mnist", *command.split()])
    begin = time.monotonic()
    with pytest.raises(SystemExit) as ended:
        run_command(app)
    assert ended.value.code == 1
    assert time.monotonic() - begin < 5
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("error: The MLflow server http://127.0.0.1:1 does not answer")
    assert "start it, or unset MLFLOW_TRACKING_URI" in line
    assert "`--offline` (`MNIST_OFFLINE=1 dvc repro`)" in line
