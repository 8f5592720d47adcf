"""One MLflow run per trained model: opened, found again, and ended with a status that always tells the truth."""

import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.provenance.git import git
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.artifacts import MODEL_DIGEST, REPORT, log_contents, log_model
from mnist_pipeline.tracking.contents import (
    INPUTS_KEY,
    PARAMS_DIGEST,
    Origin,
    as_metrics,
    command,
    describe,
    link_to_winner,
    log_origin,
    origin_tags,
    params_digest,
    present_origin,
    run_name,
)
from mnist_pipeline.tracking.outbox import keeps_delivered, process_tags, recording, reopen
from mnist_pipeline.tracking.store import experiment_name, find_runs
from mnist_pipeline.training.history import Epoch, TrainingSummary
from mnist_pipeline.training.params import Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run


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

        if epoch.epoch not in self.logged:
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

        client, step = mlflow.MlflowClient(), summary.best_epoch
        file, name = self.project.model_file(self.model), str(self.model)
        logged = client.get_run(self.run_id).outputs.model_outputs  # by a process that was killed right after
        model_id = logged[0].model_id if logged else log_model(client, self.run_id, name, file, step)
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
        log_contents(client, self.run_id, {f"{REPORT}/{each.name}": each.read_bytes() for each in report})
        # Last, because it says that the run has all of the model.
        mlflow.set_tag(MODEL_DIGEST, file_digest(file))


@contextmanager
def training_run(
    project: Project, params: Params, model: ModelId, *, tags: Mapping[str, str], resume: str = ""
) -> Generator[TrainingRun]:
    """Open the run of one training; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    The tags say more about it, such as its device. A training that was killed goes on in the run with the id `resume`;
    if that is empty or the run is gone, there is a new one.
    """
    import mlflow

    with recording(project) as client:
        query, view = f"attributes.run_id = '{resume}'", keeps_delivered(client)
        if found := find_runs(client, project, query, view) if resume else []:
            reopen(client, found[0])
            done = {point.step for point in client.get_metric_history(resume, "train_loss")}
            mlflow.start_run(resume, log_system_metrics=True)
            with ending(mlflow.end_run):
                yield TrainingRun(project, model, resume, done)
        else:
            origin = present_origin(project, params, model)
            with new_run(client, project, model, origin, tags, log_system_metrics=True) as run:
                link_to_winner(client, run.run_id)
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

    parameters = params_digest(origin.params.model(model.entry))
    own_tags = {"model": str(model), PARAMS_DIGEST: parameters, **_source_tags(project, model, origin)}
    run_id = mlflow.start_run(
        experiment_id=client.get_experiment_by_name(experiment_name(project)).experiment_id,
        run_name=run_name(model, origin.tags),
        tags={**own_tags, **process_tags(), **origin_tags(origin), **tags},
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
    """Return an epoch's metrics by name."""
    return {name: value for name, value in asdict(epoch).items() if name != "epoch"}


def epoch_metrics(epoch: Epoch) -> "list[Metric]":
    """Return an epoch's metrics, at its step."""
    return as_metrics(epoch_values(epoch), step=epoch.epoch)


def find_run_by_digest(client: "MlflowClient", project: Project, digest: str, key: str = "") -> "Run | None":
    """Return the newest run whose training wrote the model file with this MD5; None if the store has none.

    If the key of the stage's inputs is known, a run of other inputs does not count, as after `dvc commit`.
    """
    runs = find_runs(client, project, f"tags.{MODEL_DIGEST} = '{digest}'")
    return next((run for run in runs if not key or run.data.tags.get(INPUTS_KEY, key) == key), None)


def _source_tags(project: Project, model: ModelId, origin: Origin) -> dict[str, str]:
    """Return what `start_run` would fill in itself: from the wrong repository, or with a password in the address."""
    commit = origin.tags.get("mlflow.source.git.commit", "")
    remote = git(project.repository, "remote", "get-url", "origin") if commit else None
    return {
        "mlflow.source.name": command("train", model),
        "mlflow.source.type": "PROJECT",
        "mlflow.source.git.commit": commit,
        "mlflow.source.git.branch": origin.tags.get("mlflow.source.git.branch", ""),
        "mlflow.source.git.repoURL": public_uri((remote or "").strip()),
    }
