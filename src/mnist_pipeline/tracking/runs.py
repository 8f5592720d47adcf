"""One MLflow run per trained model: opened, found again, and closed with a status that always tells the truth."""

import getpass
import os
import socket
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.files import file_digest
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.contents import (
    Origin,
    as_metrics,
    describe,
    log_model,
    log_origin,
    origin_tags,
    present_origin,
    run_name,
)
from mnist_pipeline.tracking.links import link_to_winner
from mnist_pipeline.tracking.store import experiment_name, open_store
from mnist_pipeline.training.history import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

MODEL_DIGEST = "model_md5"
"""Tag that joins a run to the model file it made, by content: files and store may travel apart."""


@dataclass(frozen=True)
class TrainingRun:
    """An open run of one model's training."""

    client: "MlflowClient"
    project: Project
    name: str
    run_id: str
    logged: set[int] = field(default_factory=set[int])
    """The epochs that are in the store, also from before a resumed training was killed."""

    def log_epochs(self, *epochs: Epoch) -> None:
        """Log the metrics of epochs at their steps, each once, in one request."""
        new = [epoch for epoch in epochs if epoch.epoch not in self.logged]
        self.logged.update(epoch.epoch for epoch in new)
        self.client.log_batch(self.run_id, metrics=[metric for epoch in new for metric in epoch_metrics(epoch)])

    def log_figure(self, figure: "Figure", file: str) -> None:
        """Log a figure as the artifact `file`."""
        self.client.log_figure(self.run_id, figure, file)

    def log_result(self, metrics: Mapping[str, float]) -> None:
        """Log what the finished training left in `models/<name>`: the model, its metrics and its files.

        Args:
            metrics: the content of `metrics.json`.
        """
        summary = {
            "best_epoch": metrics["best_epoch"],
            "best_validation_accuracy": metrics["validation_accuracy"],
            "best_validation_loss": metrics["validation_loss"],
            "parameters": metrics["parameters"],
            "training_seconds": metrics["seconds"],
        }
        model_file = self.project.model_file(self.name)
        log_model(self.client, self.run_id, self.name, model_file, summary, step=int(metrics["best_epoch"]))
        for file in ("history.csv", "metrics.json"):
            self.client.log_artifact(self.run_id, str(self.project.model(self.name) / file))
        # Last, because it says that the run has all of the model.
        self.client.set_tag(self.run_id, MODEL_DIGEST, file_digest(model_file))


@contextmanager
def training_run(
    project: Project, params: Params, name: str, *, tags: Mapping[str, str], resume: str = ""
) -> Generator[TrainingRun]:
    """Open the run of one training; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    Args:
        project: whose store and files.
        params: everything that was asked for.
        name: of the model in `params.models`.
        tags: more to say about the run, such as its device.
        resume: id of the run that a killed training of exactly this model reported to; a new run if empty or gone.
    """
    client = open_store(project)
    _end_abandoned_runs(client)
    if _continue(client, resume):
        with closing(client, resume):
            done = {point.step for point in client.get_metric_history(resume, "loss")}
            yield TrainingRun(client, project, name, resume, done)
    else:
        with new_run(client, project, name, present_origin(project, params, name), tags) as run:
            link_to_winner(client, run.run_id, name, params.model(name))
            yield run


@contextmanager
def new_run(
    client: "MlflowClient", project: Project, name: str, origin: Origin, tags: Mapping[str, str]
) -> Generator[TrainingRun]:
    """Open a new run with all that its training starts from.

    By MLflow's client and not by its global `start_run`, which also writes down what it sees of the surroundings, such
    as the address of a git remote with the password in it.
    """
    all_tags = {
        "model": name,
        **origin_tags(origin),
        **tags,
        **_process_tags(),
        "mlflow.source.name": f"mnist train {name}",
        "mlflow.source.type": "PROJECT",
        "mlflow.user": getpass.getuser(),
        "mlflow.note.content": describe(origin.params, name),
    }
    experiment = client.get_experiment_by_name(experiment_name()).experiment_id
    run_id = client.create_run(experiment, tags=all_tags, run_name=run_name(name, all_tags)).info.run_id
    with closing(client, run_id):
        log_origin(client, project, name, run_id, origin)
        yield TrainingRun(client, project, name, run_id)


@contextmanager
def closing(client: "MlflowClient", run_id: str) -> Generator[None]:
    """End a run FINISHED, FAILED by an exception or KILLED by an interruption."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        client.set_terminated(run_id, status)


def _continue(client: "MlflowClient", run_id: str) -> bool:
    """Open an earlier run again, unless there is none or somebody deleted it; return whether it is open."""
    from mlflow.entities import RunTag
    from mlflow.exceptions import MlflowException

    try:
        gone = not run_id or client.get_run(run_id).info.lifecycle_stage == "deleted"
    except MlflowException:
        gone = True
    if gone:
        return False
    client.update_run(run_id, status="RUNNING")
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in _process_tags().items()])
    return True


def epoch_metrics(epoch: Epoch) -> "list[Metric]":
    """Return an epoch's metrics, at its step."""
    values = {key: value for key, value in asdict(epoch).items() if key != "epoch"}
    values["epoch_seconds"] = values.pop("seconds")
    return as_metrics(values, epoch.epoch)


def find_run(client: "MlflowClient", model_file: Path, key: str = "") -> "Run | None":
    """Return the newest run whose training made exactly this model file; see `find_run_by_digest`."""
    return find_run_by_digest(client, file_digest(model_file), key)


def find_run_by_digest(client: "MlflowClient", digest: str, key: str = "") -> "Run | None":
    """Return the newest run whose training made a certain model file; None if the store has none.

    Args:
        client: of an open store.
        digest: MD5 of the model file. No two trainings write the same one, because Keras puts the time into it.
        key: of the stage's inputs, if known: a run of other inputs does not count, as after `dvc commit`.
    """
    experiment = client.get_experiment_by_name(experiment_name())
    runs = client.search_runs(
        [experiment.experiment_id] if experiment else [],
        filter_string=f"tags.{MODEL_DIGEST} = '{digest}'",
        order_by=["attributes.start_time DESC"],
    )
    return next((run for run in runs if not key or run.data.tags.get("inputs_key", key) == key), None)


def _process_tags() -> dict[str, str]:
    """Return what identifies this process, so that a later one can tell whether it is still alive."""
    import psutil

    process = psutil.Process()
    return {"host": socket.gethostname(), "process": f"{os.getpid()} {process.create_time():.2f}"}


def _end_abandoned_runs(client: "MlflowClient") -> None:
    """Mark KILLED what a killed process of this machine left RUNNING: nothing else can say so any more."""
    import psutil

    experiment = client.get_experiment_by_name(experiment_name())
    running = client.search_runs(
        [experiment.experiment_id] if experiment else [],
        filter_string=f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'",
    )
    for run in running:
        pid, _, created = run.data.tags.get("process", "0 0").partition(" ")
        try:
            alive = f"{psutil.Process(int(pid)).create_time():.2f}" == created
        except (psutil.Error, ValueError):
            alive = False
        if not alive:
            client.set_terminated(run.info.run_id, "KILLED")
