"""What goes into the run of a trained model: parameters, data sets, the model, the test report."""

import json
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.files import known_digest
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.lineage import code_diff
from mnist_pipeline.tracking.model_folder import write_model_folder

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Metric


def log_inputs(
    client: "MlflowClient", project: Project, params: Params, name: str, run_id: str, subsets: Mapping[str, Subset]
) -> None:
    """Log what the training starts from: parameters, uncommitted changes, data."""
    from mlflow.entities import Param

    used = flatten(_used_params(params, name))
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in used.items()])
    client.log_artifact(run_id, str(project.params))
    if diff := code_diff(project.root):
        client.log_text(run_id, diff, "uncommitted.diff")
    log_datasets(client, project, run_id, subsets, context="training")


def log_model(
    client: "MlflowClient", run_id: str, name: str, model_file: Path, metrics: Mapping[str, float], step: int
) -> None:
    """Log the model file as the run's output, and the metrics on run and model alike.

    Not by `mlflow.keras.log_model`: it would save the model once more, as a file with another digest, and ask the store
    for every metric of the run.
    """
    from mlflow.entities import LoggedModelOutput

    experiment = client.get_run(run_id).info.experiment_id
    model = client.create_logged_model(experiment, name, source_run_id=run_id)
    client.log_batch(run_id, metrics=as_metrics(metrics, step, model_id=model.model_id))
    with tempfile.TemporaryDirectory() as folder:
        write_model_folder(Path(folder), model_file, model_id=model.model_id, run_id=run_id)
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=step)])


def log_evaluation(project: Project, name: str, run_id: str, metrics: Mapping[str, Any], test: Subset) -> None:
    """Add the test report to the run of the training and to its logged model."""
    from mlflow import MlflowClient

    client = MlflowClient()
    dataset = log_datasets(client, project, run_id, {"test": test}, context="evaluation")["test"]
    flat = {f"test_{key}": float(value) for key, value in flatten(metrics).items()}
    model_id = logged_model_id(run_id)
    client.log_batch(run_id, metrics=as_metrics(flat, step=0, model_id=model_id, dataset=dataset))
    client.log_artifacts(run_id, str(project.report(name)), "test_report")


def logged_model_id(run_id: str) -> str:
    """Return the id of the model that the run logged last."""
    import mlflow

    outputs = mlflow.get_run(run_id).outputs
    return outputs.model_outputs[-1].model_id


def as_metrics(
    values: Mapping[str, float], step: int, *, model_id: str | None = None, dataset: "Dataset | None" = None
) -> "list[Metric]":
    """Return MLflow's metrics of now; with a `model_id` they appear on the logged model, too."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    about = {
        "model_id": model_id,
        "dataset_name": dataset and dataset.name,
        "dataset_digest": dataset and dataset.digest,
    }
    return [Metric(key, value, now, step, **about) for key, value in values.items()]


def log_datasets(
    client: "MlflowClient", project: Project, run_id: str, subsets: Mapping[str, Subset], *, context: str
) -> "dict[str, Dataset]":
    """Log the subsets as the run's inputs, each with DVC's hash of its file as the digest."""
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    datasets = {name: _dataset(project, name, subset) for name, subset in subsets.items()}
    tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
    client.log_inputs(run_id, [DatasetInput(dataset, tags) for dataset in datasets.values()])
    return datasets


def _dataset(project: Project, name: str, subset: Subset) -> "Dataset":
    """Describe one subset as MLflow's own numpy data set does, without its hash of all arrays."""
    from mlflow.entities import Dataset

    path = project.split / f"{name}.npz"
    tensors = {"features": ("float32", [-1, 28, 28]), "targets": ("uint8", [-1])}
    schema = {
        role: json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}])
        for role, (dtype, shape) in tensors.items()
    }
    return Dataset(
        name=f"mnist-{name}",
        digest=known_digest(path),
        source_type="local",
        source=json.dumps({"uri": str(path.relative_to(project.root))}),
        schema=json.dumps({"mlflow_tensorspec": schema}),
        profile=json.dumps({"features_shape": [len(subset), 28, 28], "targets_shape": [len(subset)]}),
    )


def describe(params: Params, name: str) -> str:
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


def run_name(name: str, tags: Mapping[str, str]) -> str:
    """Return a name that tells two runs of one model apart: the DVC experiment, or the commit."""
    commit = tags["git_commit"]
    short = commit if commit == "no commit" else commit[:7]
    dirty = "-dirty" if tags.get("git_dirty") == "true" else ""
    return f"{name} {tags.get('dvc_experiment') or short + dirty}"


def _used_params(params: Params, name: str) -> dict[str, Any]:
    """Return what of `params.yaml` this model's training depends on."""
    return params.model_dump(mode="json", exclude={"models", "tune"}) | params.model(name).model_dump(mode="json")


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings and lists of mappings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat
