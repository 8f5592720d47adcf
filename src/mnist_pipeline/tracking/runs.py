"""One MLflow run per trained model: opened, found again, and ended with a status that always tells the truth."""

import socket
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mnist_pipeline.core.files import content_digest, file_digest
from mnist_pipeline.core.processes import identity, is_alive
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.provenance.git import git
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.artifacts import MODEL_DIGEST, REPORT, log_contents, log_model
from mnist_pipeline.tracking.contents import (
    Origin,
    as_metrics,
    command,
    describe,
    log_origin,
    origin_tags,
    present_origin,
    run_name,
)
from mnist_pipeline.tracking.store import experiment_name, find_runs, open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch, TrainingSummary
from mnist_pipeline.training.params import ModelParams, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

ADOPTED = "adopted_md5"
"""Tag of an adopted trial's run: the digest of the model's parameters in `params.yaml` after that."""
TRAINED = "trained_run"
"""Tag of an adopted trial's run: id of the newest training with these parameters."""
TUNED = "tuned_by_run"
"""Tag of a training's run: id of the adopted trial's."""


@dataclass
class TrainingRun:
    """The active run of one model's training."""

    project: Project
    model: ModelId
    run_id: str
    logged: set[int] = field(default_factory=set[int])
    """Epochs that are in the store, also from before a resumed training was killed."""
    clock: float = field(default_factory=time.perf_counter)
    """When the last epoch was logged, or the run was opened."""

    def log_epochs(self, *epochs: Epoch) -> None:
        """Log the metrics of epochs at their steps, each once."""
        import mlflow

        for epoch in epochs:
            if epoch.epoch not in self.logged:
                mlflow.log_metrics(epoch_values(epoch), step=epoch.epoch)
                self.logged.add(epoch.epoch)
        self.clock = time.perf_counter()

    def log_new_epoch(self, epoch: Epoch) -> None:
        """Log an epoch that has just ended, and how many seconds have passed since the one before it."""
        import mlflow

        mlflow.log_metric("epoch_seconds", time.perf_counter() - self.clock, step=epoch.epoch)
        self.log_epochs(epoch)

    def log_figure(self, figure: "Figure", file: str) -> None:
        """Log a figure as the artifact `file`."""
        import mlflow

        mlflow.log_figure(figure, file)

    def log_result(self, summary: TrainingSummary, seconds: float | None = None) -> None:
        """Log what the finished training left: the model, the metrics of its summary, its files.

        The seconds that it took are None if nobody knows them any more.
        """
        import mlflow

        model_file, step = self.project.model_file(self.model), summary.best_epoch
        logged = mlflow.get_run(self.run_id).outputs.model_outputs  # by a process that was killed right after
        model_id = logged[0].model_id if logged else log_model(self.run_id, str(self.model), model_file, step=step)
        metrics = {
            "best_epoch": summary.best_epoch,
            "best_val_accuracy": summary.validation_accuracy,
            "best_val_loss": summary.validation_loss,
            "parameters": summary.parameters,
        }
        if seconds is not None:
            metrics["training_seconds"] = round(seconds, 1)
        mlflow.log_metrics(metrics, step=step, model_id=model_id)
        report = self.project.history(self.model), self.project.training_summary(self.model)
        log_contents(
            mlflow.MlflowClient(), self.run_id, {f"{REPORT}/{file.name}": file.read_bytes() for file in report}
        )
        # Last, because it says that the run has all of the model.
        mlflow.set_tag(MODEL_DIGEST, file_digest(model_file))


@contextmanager
def training_run(
    project: Project, params: Params, model: ModelId, *, tags: Mapping[str, str], resume: str = ""
) -> Generator[TrainingRun]:
    """Open the run of one training; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    The tags say more about it, such as its device. A training that was killed goes on in the run with the id `resume`;
    if that is empty or the run is gone, there is a new one.
    """
    import mlflow

    client = open_store(project)
    _end_abandoned_runs(client)
    if resume and find_runs(client, f"attributes.run_id = '{resume}'"):
        done = {point.step for point in client.get_metric_history(resume, "train_loss")}
        mlflow.start_run(resume, tags=_process_tags(), log_system_metrics=True)
        with ending(mlflow.end_run):
            yield TrainingRun(project, model, resume, done)
    else:
        origin = present_origin(project, params, model)
        with new_run(client, project, model, origin, tags, log_system_metrics=True) as run:
            _link_to_winner(client, run.run_id, model.entry, params.model(model.entry))
            yield run


@contextmanager
def new_run(
    client: "MlflowClient",
    project: Project,
    model: ModelId,
    origin: Origin,
    tags: Mapping[str, str],
    *,
    log_system_metrics: bool = False,
) -> Generator[TrainingRun]:
    """Open a new run with all that its training starts or started from.

    System metrics are the use of processor, memory, disk, network and GPU, every ten seconds.
    """
    import mlflow

    own_tags = {"model": str(model), **_source_tags(project, model, origin), **_process_tags()}
    run_id = mlflow.start_run(
        experiment_id=client.get_experiment_by_name(experiment_name()).experiment_id,
        run_name=run_name(model, origin.tags),
        tags={**own_tags, **origin_tags(origin), **tags},
        description=describe(origin.params, model),
        log_system_metrics=log_system_metrics,
    ).info.run_id
    with ending(mlflow.end_run):
        log_origin(client, run_id, project, model, origin)
        yield TrainingRun(project, model, run_id)


@contextmanager
def ending(end: Callable[[str], None]) -> Generator[None]:
    """End a run as FINISHED, FAILED by an exception or KILLED by an interruption, which MLflow itself calls FAILED."""
    status = "FAILED"
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        end(status)


def epoch_values(epoch: Epoch) -> dict[str, float]:
    """Return an epoch's metrics by name: short ones, as Keras has them, because MLflow's page cuts long ones off."""
    return {
        "train_loss": epoch.loss,
        "train_accuracy": epoch.accuracy,
        "val_loss": epoch.validation_loss,
        "val_accuracy": epoch.validation_accuracy,
        "learning_rate": epoch.learning_rate,
    }


def epoch_metrics(epoch: Epoch) -> "list[Metric]":
    """Return an epoch's metrics, at its step."""
    return as_metrics(epoch_values(epoch), step=epoch.epoch)


def _link_to_winner(client: "MlflowClient", run_id: str, name: str, model: ModelParams) -> None:
    """Link a training's run and the run of the trial whose adoption gave it its parameters, if there is one.

    They are found by what the parameters are: no file carries a run's id, so nothing that DVC hashes changes.
    """
    experiment = client.get_experiment_by_name(tuning_experiment_name())
    found = client.search_runs(
        [experiment.experiment_id] if experiment else [],
        f"tags.{ADOPTED} = '{params_digest(model)}' and tags.model = '{name}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    for winner in found:
        training = client.get_run(run_id)
        _link(client, training, TUNED, winner, "Its parameters were found by the trial")
        _link(client, winner, TRAINED, training, "Its parameters were adopted; trained with them:")


def _link(client: "MlflowClient", run: "Run", tag: str, other: "Run", sentence: str) -> None:
    """Tag a run with another's id, and say so in its description, where a link can be clicked."""
    client.set_tag(run.info.run_id, tag, other.info.run_id)
    url = f"#/experiments/{other.info.experiment_id}/runs/{other.info.run_id}"
    description = run.data.tags.get("mlflow.note.content", "").partition(f"\n{sentence}")[0]
    client.set_tag(run.info.run_id, "mlflow.note.content", f"{description}\n{sentence} [{other.info.run_name}]({url}).")


def params_digest(model: ModelParams) -> str:
    """Return what tells the parameters of a model from any others."""
    return content_digest(model.model_dump_json().encode())


def find_run_by_digest(client: "MlflowClient", digest: str, key: str = "") -> "Run | None":
    """Return the newest run whose training wrote the model file with this MD5; None if the store has none.

    If the key of the stage's inputs is known, a run of other inputs does not count, as after `dvc commit`.
    """
    runs = find_runs(client, f"tags.{MODEL_DIGEST} = '{digest}'")
    return next((run for run in runs if not key or run.data.tags.get("inputs_key", key) == key), None)


def _source_tags(project: Project, model: ModelId, origin: Origin) -> dict[str, str]:
    """Return what `start_run` would fill in itself: from the wrong repository, or with a password in the address."""
    commit = origin.tags.get("mlflow.source.git.commit", "")
    remote = git(project.top, "remote", "get-url", "origin") if commit else None
    return {
        "mlflow.source.name": command("train", model),
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": origin.tags.get("git_branch", ""),
        "mlflow.source.git.repoURL": public_uri((remote or "").strip()),
    }


def _process_tags() -> dict[str, str]:
    """Return what identifies this process, so that a later one can tell whether it is still alive."""
    return {"host": socket.gethostname(), "process": identity()}


def _end_abandoned_runs(client: "MlflowClient") -> None:
    """Mark KILLED what a killed process of this machine left RUNNING: nothing else can say so any more."""
    for run in find_runs(client, f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"):
        if not is_alive(run.data.tags["process"]):
            client.set_terminated(run.info.run_id, "KILLED")
