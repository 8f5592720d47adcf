"""One MLflow run per trained model: what is logged, and a status that always tells the truth."""

import os
import socket
import warnings
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.files import file_digest
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.lineage import code_diff, lineage_tags
from mnist_pipeline.tracking.links import link_to_winner
from mnist_pipeline.tracking.store import experiment_name, open_store
from mnist_pipeline.training.history import Epoch, read_history

if TYPE_CHECKING:
    import keras
    from matplotlib.figure import Figure
    from mlflow import ActiveRun, MlflowClient
    from mlflow.data.numpy_dataset import NumpyDataset
    from mlflow.entities import Dataset as DatasetEntity
    from mlflow.entities import Run

MODEL_DIGEST = "model_md5"
"""Tag that joins a run to the model file it made, by content: files and store may travel apart."""


@dataclass(frozen=True)
class TrainingRun:
    """An open run of one model's training."""

    project: Project
    name: str
    run_id: str
    logged: set[int] = field(default_factory=set[int])
    """The epochs that are in the store, also from before a resumed training was killed."""

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch's metrics at its step, once."""
        import mlflow

        if epoch.epoch in self.logged:
            return
        self.logged.add(epoch.epoch)
        metrics = {key: value for key, value in asdict(epoch).items() if key != "epoch"}
        metrics["epoch_seconds"] = metrics.pop("seconds")
        mlflow.log_metrics(metrics, step=epoch.epoch)

    def log_figure(self, figure: "Figure", file: str) -> None:
        """Log a figure as the artifact `file`."""
        import mlflow

        mlflow.log_figure(figure, file)

    def log_result(self, model: "keras.Model", metrics: Mapping[str, float]) -> None:
        """Log what the finished training left in `models/<name>`: the model, its metrics and its files.

        Args:
            model: raw pixels (n, 28, 28) in, probabilities (n, 10) out; the content of `model.keras`.
            metrics: the content of `metrics.json`.
        """
        import mlflow

        summary = {
            "best_epoch": metrics["best_epoch"],
            "best_validation_accuracy": metrics["validation_accuracy"],
            "best_validation_loss": metrics["validation_loss"],
            "parameters": metrics["parameters"],
            "training_seconds": metrics["seconds"],
        }
        mlflow.log_metrics(summary, step=int(metrics["best_epoch"]))
        _log_model(model, self.name, best_epoch=int(metrics["best_epoch"]))
        for file in ("history.csv", "metrics.json"):
            mlflow.log_artifact(str(self.project.model(self.name) / file))
        mlflow.set_tag(MODEL_DIGEST, file_digest(self.project.model_file(self.name)))


@contextmanager
def training_run(
    project: Project,
    params: Params,
    name: str,
    subsets: Mapping[str, Subset],
    *,
    tags: Mapping[str, str],
    resume: str = "",
) -> Generator[TrainingRun]:
    """Open the run of one training; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    Args:
        project: whose store and files.
        params: everything that was asked for.
        name: of the model in `params.models`.
        subsets: the data that training reads, by name (`train`, `validation`).
        tags: more to say about the run, such as its device.
        resume: id of the run that a killed training of exactly this model reported to; a new run if empty or gone.
    """
    import mlflow

    client = open_store(project)
    _end_abandoned_runs(client)
    earlier = _continue(client, resume)
    with earlier or _start(client, project, params, name, tags) as run:
        try:
            mlflow.set_tags(_process_tags())
            if not earlier:
                _log_inputs(project, params, name, run.info.run_id, subsets)
                link_to_winner(client, run.info.run_id, name, params.model(name))
            done = {point.step for point in client.get_metric_history(run.info.run_id, "loss")}
            yield TrainingRun(project, name, run.info.run_id, done)
        except (KeyboardInterrupt, SystemExit):
            mlflow.end_run("KILLED")
            raise


def _start(client: "MlflowClient", project: Project, params: Params, name: str, tags: Mapping[str, str]) -> "ActiveRun":
    """Start a new run with everything that its row in the list of runs shows."""
    import mlflow

    experiment = client.get_experiment_by_name(experiment_name())
    all_tags = {"model": name, **lineage_tags(project), **tags}
    return mlflow.start_run(
        experiment_id=experiment.experiment_id if experiment else None,
        run_name=_run_name(name, all_tags),
        tags={**all_tags, "mlflow.source.name": f"mnist train {name}", "mlflow.source.type": "PROJECT"},
        description=_describe(params, name),
    )


def _continue(client: "MlflowClient", run_id: str) -> "ActiveRun | None":
    """Open an earlier run again, unless there is none or somebody deleted it."""
    import mlflow
    from mlflow.exceptions import MlflowException

    try:
        gone = not run_id or client.get_run(run_id).info.lifecycle_stage == "deleted"
    except MlflowException:
        gone = True
    return None if gone else mlflow.start_run(run_id=run_id)


def _log_inputs(project: Project, params: Params, name: str, run_id: str, subsets: Mapping[str, Subset]) -> None:
    """Log what the training starts from: parameters, uncommitted changes, data."""
    import mlflow

    mlflow.log_params(_flatten(_used_params(params, name)))
    mlflow.log_artifact(str(project.params))
    if diff := code_diff(project.root):
        mlflow.log_text(diff, "uncommitted.diff")
    log_datasets(project, run_id, subsets, context="training")


def find_run(client: "MlflowClient", model_file: Path) -> "Run | None":
    """Return the newest run whose training made exactly this model file."""
    experiment = client.get_experiment_by_name(experiment_name())
    if experiment is None:
        return None
    runs = client.search_runs(
        [experiment.experiment_id],
        filter_string=f"tags.{MODEL_DIGEST} = '{file_digest(model_file)}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    return runs[0] if runs else None


def find_or_restore_run(
    project: Project,
    params: Params,
    name: str,
    model: "keras.Model",
    subsets: Mapping[str, Subset],
    metrics: Mapping[str, float],
) -> str:
    """Return the id of the run that made `models/<name>/model.keras`; rebuild the run from the files if it is gone.

    DVC restores a stage from its cache without running it, and a fresh clone may pull a model that was trained
    elsewhere: the store then knows nothing of the run, but the files hold all it said.
    """
    client = open_store(project)
    if found := find_run(client, project.model_file(name)):
        return found.info.run_id
    with training_run(project, params, name, subsets, tags={"restored": "true"}) as run:
        for epoch in read_history(project.model(name) / "history.csv"):
            run.log_epoch(epoch)
        run.log_result(model, metrics)
    return run.run_id


def log_evaluation(project: Project, name: str, run_id: str, metrics: Mapping[str, Any], test: Subset) -> None:
    """Add the test report to the run of the training and to its logged model."""
    import mlflow

    # By the run's id and not by opening it again, which would call it RUNNING and move its end.
    dataset = log_datasets(project, run_id, {"test": test}, context="evaluation")["test"]
    flat = {f"test_{key}": float(value) for key, value in _flatten(metrics).items()}
    mlflow.log_metrics(flat, run_id=run_id, model_id=logged_model_id(run_id), dataset=dataset)
    mlflow.log_artifacts(str(project.report(name)), "test_report", run_id=run_id)


def logged_model_id(run_id: str) -> str:
    """Return the id of the model that the run logged last."""
    import mlflow

    outputs = mlflow.get_run(run_id).outputs
    return outputs.model_outputs[-1].model_id


def _log_model(model: "keras.Model", name: str, *, best_epoch: int) -> None:
    """Log the model as Keras' own file: no pickle, requirements pinned, a signature.

    MLflow enforces one dtype per tensor, and this model takes uint8 and floats alike: so the signature that is stored
    names the output, and the input is described in the metadata.
    """
    from importlib.metadata import version

    import mlflow
    import numpy as np
    from mlflow.models import ModelSignature, set_signature
    from mlflow.types import Schema, TensorSpec

    outputs = Schema([TensorSpec(np.dtype("float32"), (-1, 10), "probabilities")])
    inputs = Schema([TensorSpec(np.dtype("uint8"), (-1, 28, 28), "pixels")])
    logged = mlflow.keras.log_model(
        model,
        name=name,
        signature=ModelSignature(inputs, outputs),
        pip_requirements=[f"{package}=={version(package)}" for package in ("mlflow", "tensorflow", "keras", "numpy")],
        metadata={"input": "pixels 0-255, uint8 or float, shape (n, 28, 28), light ink on dark paper"},
        step=best_epoch,
    )
    set_signature(logged.model_uri, ModelSignature(outputs=outputs))


def log_datasets(
    project: Project, run_id: str, subsets: Mapping[str, Subset], *, context: str
) -> "dict[str, DatasetEntity]":
    """Log the subsets as the run's inputs, each with DVC's hash of its file as the digest."""
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    datasets = {name: Dataset(**_dataset(project, name, subset).to_dict()) for name, subset in subsets.items()}
    tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
    MlflowClient().log_inputs(run_id, [DatasetInput(dataset, tags) for dataset in datasets.values()])
    return datasets


def _dataset(project: Project, name: str, subset: Subset) -> "NumpyDataset":
    """Describe one subset as MLflow's kind of data set."""
    from mlflow.data.numpy_dataset import from_numpy

    path = project.split / f"{name}.npz"
    with warnings.catch_warnings():
        # MLflow has one class for local files, registered under two names, and warns about having to choose.
        warnings.filterwarnings("ignore", message="The specified dataset source can be interpreted in multiple")
        return from_numpy(
            subset.images,
            targets=subset.labels,
            source=str(path.relative_to(project.root)),
            name=f"mnist-{name}",
            digest=file_digest(path),
        )


def _used_params(params: Params, name: str) -> dict[str, Any]:
    """Return what of `params.yaml` this model's training depends on."""
    return params.model_dump(mode="json", exclude={"models", "tune"}) | params.model(name).model_dump(mode="json")


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings and lists of mappings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        flat |= _flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat


def _run_name(name: str, tags: Mapping[str, str]) -> str:
    """Return a name that tells two runs of one model apart: the DVC experiment, or the commit."""
    commit = tags["git_commit"]
    short = commit if commit == "no commit" else commit[:7]
    dirty = "-dirty" if tags.get("git_dirty") == "true" else ""
    return f"{name} {tags.get('dvc_experiment') or short + dirty}"


def _describe(params: Params, name: str) -> str:
    """Return the run's description, in Markdown."""
    model = params.model(name)
    training, optimizer = model.training, model.training.optimizer
    augmented = (
        "none"
        if model.augmentation.is_off
        else ", ".join(
            f"{key} {value:g}"
            for key, value in model.augmentation.model_dump().items()
            if value and key != "elastic_smoothing"
        )
    )
    return (
        f"**{name}**: {model.architecture.kind}, trained by `mnist train {name}`.\n\n"
        f"* {training.epochs} epochs at most, batches of {training.batch_size}\n"
        f"* {optimizer.name}, learning rate {optimizer.learning_rate:g}, schedule {training.schedule.name}\n"
        f"* augmentation: {augmented}\n* pixels: {params.normalize.scheme}, seed {params.seed}\n"
    )


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
