"""What goes into the run of a trained model: its origin, data sets, the model, the test report."""

import hashlib
import json
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_pipeline.data.dataset import train_file, validation_file
from mnist_pipeline.files import known_digest, read_json
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.inputs import Trace, present_inputs, trace, tree_digest
from mnist_pipeline.tracking.lineage import NO_COMMIT, UNKNOWN, code_diff, lineage_tags
from mnist_pipeline.tracking.model_folder import write_model_folder
from mnist_pipeline.tracking.pipeline import base_folder, read_lock, recorded_path, stage_of
from mnist_pipeline.tracking.redaction import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Metric

DIFF = "uncommitted.diff"
"""Artifact: what the sources differed by from the commit, as a patch."""
DIFF_DIGEST = "git_diff_md5"
"""Tag: MD5 of the patch."""
TRACE = "lineage.json"
"""Artifact: a `Trace`."""
PARAMS = "params.yaml"
"""Artifact: all parameters."""
REPORT_DIGEST = "test_report_md5"
"""Tag that joins a run to the test report that it holds, by content."""


@dataclass(frozen=True)
class Origin:
    """What a training starts from."""

    params: Params
    params_text: str
    """The same as YAML."""
    tags: Mapping[str, str]
    """Of code, environment and machine."""
    diff: str
    """What is uncommitted, as a patch."""
    trace: Trace | None
    """The stage's inputs; None if they are not known."""


def present_origin(project: Project, params: Params, name: str) -> Origin:
    """Return what a training that starts now starts from."""
    inputs = present_inputs(project, stage_of(project, "train", name))
    text = project.params.read_text(encoding="utf-8")
    history = trace(project, read_lock(project), inputs) if inputs else None
    return Origin(params, text, lineage_tags(project), code_diff(base_folder(project)), history)


def origin_tags(origin: Origin) -> dict[str, str]:
    """Return all tags that follow from an origin."""
    digest = hashlib.md5(origin.diff.encode(), usedforsecurity=False).hexdigest()
    return {
        **origin.tags,
        **(origin.trace.tags() if origin.trace else {}),
        **({DIFF_DIGEST: digest} if origin.diff else {}),
    }


def log_origin(client: "MlflowClient", project: Project, name: str, run_id: str, origin: Origin) -> None:
    """Log what the training starts from: parameters, uncommitted changes, inputs, data sets."""
    from mlflow.entities import Param

    used = flatten(_used_params(origin.params, name))
    client.log_batch(run_id, params=[Param(key, str(value)) for key, value in used.items()])
    client.log_text(run_id, redact(origin.params_text), PARAMS)
    if origin.diff:
        client.log_text(run_id, origin.diff, DIFF)
    if origin.trace:
        client.log_text(run_id, origin.trace.to_json(), TRACE)
    log_split(client, project, run_id, origin.trace, context="training")


def log_split(client: "MlflowClient", project: Project, run_id: str, origin: Trace | None, *, context: str) -> None:
    """Log the train and validation splits as a run's inputs, by DVC's hashes of them."""
    known = origin.data if origin else {}
    datasets = [_dataset(project, path, known) for path in (train_file(project.split), validation_file(project.split))]
    _log_datasets(client, run_id, datasets, context=context)


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


def log_evaluation(client: "MlflowClient", project: Project, name: str, run_id: str, test_digest: str) -> None:
    """Add the test report in `reports/<name>` to the run of the training and to its logged model.

    Args:
        client: of an open store.
        project: whose report.
        name: of the model.
        run_id: of its training.
        test_digest: DVC's hash of the test split.
    """
    report = read_json(project.report(name) / "metrics.json", f"mnist evaluate {name}")
    path = project.split / "test.npz"
    dataset = _describe_dataset(project, path, test_digest, report["images"])
    _log_datasets(client, run_id, [dataset], context="evaluation")
    flat = {f"test_{key}": float(value) for key, value in flatten(report).items()}
    client.log_batch(run_id, metrics=as_metrics(flat, step=0, model_id=logged_model_id(run_id), dataset=dataset))
    client.log_artifacts(run_id, str(project.report(name)), "test_report")
    client.set_tag(run_id, REPORT_DIGEST, report_digest(project, name))


def report_digest(project: Project, name: str) -> str:
    """Return what identifies the content of a test report."""
    return tree_digest(project.report(name))


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


def _log_datasets(client: "MlflowClient", run_id: str, datasets: "list[Dataset]", *, context: str) -> None:
    """Log data sets as the run's inputs."""
    from mlflow.entities import DatasetInput, InputTag
    from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

    tags = [InputTag(MLFLOW_DATASET_CONTEXT, context)]
    client.log_inputs(run_id, [DatasetInput(dataset, tags) for dataset in datasets])


def _dataset(project: Project, path: Path, known: Mapping[str, str]) -> "Dataset":
    """Describe a file of the split by DVC's hash of it; also one that is not checked out, if its hash is known."""
    digest = known.get(recorded_path(project, path)) or known_digest(path)
    images = None
    if path.is_file() and known_digest(path) == digest:
        with np.load(path, allow_pickle=False) as arrays:
            images = len(arrays["labels"])
    return _describe_dataset(project, path, digest, images)


def _describe_dataset(project: Project, path: Path, digest: str, images: int | None) -> "Dataset":
    """Describe a file of the split as MLflow's own numpy data set does, but without hashing and counting its arrays."""
    from mlflow.entities import Dataset

    tensors = {"features": ("float32", [-1, 28, 28]), "targets": ("uint8", [-1])}
    schema = {
        role: json.dumps([{"type": "tensor", "tensor-spec": {"dtype": dtype, "shape": shape}}])
        for role, (dtype, shape) in tensors.items()
    }
    return Dataset(
        name=f"mnist-{path.stem}",
        digest=digest,
        source_type="local",
        source=json.dumps({"uri": path.relative_to(project.root).as_posix()}),
        schema=json.dumps({"mlflow_tensorspec": schema}),
        profile=json.dumps({"features_shape": [images, 28, 28], "targets_shape": [images]} if images else {}),
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
    short = commit if commit in (NO_COMMIT, UNKNOWN) else commit[:7]
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
