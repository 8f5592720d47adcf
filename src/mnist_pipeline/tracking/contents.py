"""What goes into the run of a trained model: parameters, data sets, the model, the test report."""

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.files import file_digest
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.lineage import code_diff

if TYPE_CHECKING:
    import keras
    from mlflow.data.numpy_dataset import NumpyDataset
    from mlflow.entities import Dataset as DatasetEntity


def log_inputs(project: Project, params: Params, name: str, run_id: str, subsets: Mapping[str, Subset]) -> None:
    """Log what the training starts from: parameters, uncommitted changes, data."""
    import mlflow

    mlflow.log_params(_flatten(_used_params(params, name)))
    mlflow.log_artifact(str(project.params))
    if diff := code_diff(project.root):
        mlflow.log_text(diff, "uncommitted.diff")
    _log_datasets(project, run_id, subsets, context="training")


def log_model(model: "keras.Model", name: str, *, best_epoch: int) -> None:
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


def log_evaluation(project: Project, name: str, run_id: str, metrics: Mapping[str, Any], test: Subset) -> None:
    """Add the test report to the run of the training and to its logged model."""
    import mlflow

    # By the run's id and not by opening it again, which would call it RUNNING and move its end.
    dataset = _log_datasets(project, run_id, {"test": test}, context="evaluation")["test"]
    flat = {f"test_{key}": float(value) for key, value in _flatten(metrics).items()}
    mlflow.log_metrics(flat, run_id=run_id, model_id=logged_model_id(run_id), dataset=dataset)
    mlflow.log_artifacts(str(project.report(name)), "test_report", run_id=run_id)


def logged_model_id(run_id: str) -> str:
    """Return the id of the model that the run logged last."""
    import mlflow

    outputs = mlflow.get_run(run_id).outputs
    return outputs.model_outputs[-1].model_id


def _log_datasets(
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


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings and lists of mappings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        flat |= _flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat
