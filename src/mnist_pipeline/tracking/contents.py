"""What goes into the run of a trained model: its origin, data sets and test report."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_pipeline.core.files import known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import train_file, validation_file
from mnist_pipeline.data.params import IMAGE_SIDE
from mnist_pipeline.evaluation.metrics import Metrics
from mnist_pipeline.evaluation.robustness import read_robustness
from mnist_pipeline.provenance.environment import NO_COMMIT, UNKNOWN, code_diff, environment_tags
from mnist_pipeline.provenance.inputs import Lineage, present_inputs, trace_lineage
from mnist_pipeline.provenance.pipeline import read_lock, recorded_path
from mnist_pipeline.provenance.redaction import redact
from mnist_pipeline.tracking.artifacts import DIFF, LINEAGE, PARAMS, REPORT, log_contents, log_files, logged_model_id
from mnist_pipeline.training.history import TrainingSummary
from mnist_pipeline.training.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Metric

INPUTS_KEY = "inputs_key"
"""Tag: `StageInputs.key` of the training."""


@dataclass(frozen=True)
class Origin:
    """What a training starts from."""

    params: Params
    """All parameters."""
    params_text: str
    """All parameters, as YAML."""
    tags: Mapping[str, str]
    """State of the code, environment and machine."""
    diff: str
    """What is uncommitted, as a patch."""
    lineage: Lineage | None
    """The inputs of the stage and where they come from; None if they are not known."""


@dataclass(frozen=True)
class Evaluation(Metrics):
    """Content of `reports/<model>/test.json`."""

    model_md5: str
    """MD5 of the model file that was evaluated."""


def read_training(project: Project, model: ModelId) -> TrainingSummary:
    """Read what the training of a model came to; a UserError names the command that writes the file."""
    return read_json(project.training_summary(model), TrainingSummary, command("train", model))


def read_evaluation(project: Project, model: ModelId) -> Evaluation:
    """Read the test report of a model; a UserError names the command that writes the file."""
    return read_json(project.test_report(model), Evaluation, command("evaluate", model))


def present_origin(project: Project, params: Params, model: ModelId) -> Origin:
    """Return what a training that starts now starts from."""
    inputs = present_inputs(project, "train", model)
    text = project.params.read_text(encoding="utf-8")
    lineage = trace_lineage(project, read_lock(project), inputs) if inputs else None
    return Origin(params, text, environment_tags(project), code_diff(project.top), lineage)


def origin_files(origin: Origin) -> dict[str, str]:
    """Return the text of the artifacts that tell of an origin, by name."""
    lineage = origin.lineage.to_json() if origin.lineage else ""
    files = {PARAMS: redact(origin.params_text), DIFF: origin.diff, LINEAGE: lineage}
    return {name: text for name, text in files.items() if text}


def origin_tags(origin: Origin) -> dict[str, str]:
    """Return all tags that follow from an origin."""
    return {**origin.tags, **({INPUTS_KEY: origin.lineage.inputs.key} if origin.lineage else {})}


def log_origin(client: "MlflowClient", run_id: str, project: Project, model: ModelId, origin: Origin) -> None:
    """Log in the active run what a training starts from: its parameters, uncommitted changes, lineage, data sets."""
    import mlflow

    general = origin.params.model_dump(mode="json", include={"seed", "device", "split"}, exclude_none=True)
    mlflow.log_params(flatten(general | origin.params.model(model.entry).model_dump(mode="json")))
    log_contents(client, run_id, {name: text.encode() for name, text in origin_files(origin).items()})
    known = origin.lineage.data if origin.lineage else {}
    for file in (train_file(project.split), validation_file(project.split)):
        digest = known.get(recorded_path(project, file)) or known_digest(file)
        mlflow.log_input(_dataset(project, file, digest), context="training")


def log_split(client: "MlflowClient", project: Project, run_id: str, digests: tuple[str, str], *, context: str) -> None:
    """Log the train and validation splits with these MD5s as the inputs of any run."""
    files = (train_file(project.split), validation_file(project.split))
    datasets = [_dataset(project, file, md5) for file, md5 in zip(files, digests, strict=True)]
    _log_inputs(client, run_id, datasets, context)


def log_evaluation(client: "MlflowClient", project: Project, model: ModelId, run_id: str, test_digest: str) -> None:
    """Add the test report in `reports/<model>`, on the test split of this hash, to the run and to its logged model.

    The run is finished and stays so: opened again, it would end anew, and seem to have lasted until now.
    """
    import mlflow

    report = asdict(read_evaluation(project, model))
    dataset = _dataset(project, project.split / "test.npz", test_digest)
    _log_inputs(client, run_id, [dataset], "evaluation")
    measures = {key: value for key, value in flatten(report).items() if isinstance(value, int | float)}
    mlflow.log_metrics(
        {f"test_{key}": value for key, value in measures.items()},
        run_id=run_id,
        model_id=logged_model_id(client.get_run(run_id)),
        dataset=dataset,
    )
    if (file := project.robustness(model)).is_file():  # earlier versions of this project did not write it
        table = read_robustness(file)
        points = (as_metrics({"robustness": mean}, int(each)) for each, mean in table[["strength", "mean"]].to_numpy())
        client.log_batch(run_id, metrics=[metric for each in points for metric in each])
    log_files(client, run_id, project.report(model), REPORT)


def as_metrics(values: Mapping[str, float], step: int) -> "list[Metric]":
    """Return MLflow's metrics of now, for the run of another process."""
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    return [Metric(key, value, now, step) for key, value in values.items()]


def _dataset(project: Project, path: Path, digest: str) -> "MetaDataset":
    """Describe a file of the split by DVC's hash of it."""
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.types import Schema, TensorSpec

    from mnist_pipeline.tracking.dataset_source import DvcSource

    pixel = np.dtype(np.uint8)
    schema = Schema([TensorSpec(pixel, (-1, IMAGE_SIDE, IMAGE_SIDE), "images"), TensorSpec(pixel, (-1,), "labels")])
    source = DvcSource(recorded_path(project, path), digest)
    return MetaDataset(source, name=f"mnist-{path.stem}", digest=digest, schema=schema)


def _log_inputs(client: "MlflowClient", run_id: str, datasets: "Sequence[MetaDataset]", context: str) -> None:
    """Log data sets as the inputs of any run: `mlflow.log_input` knows only the active one."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    tags = [InputTag("mlflow.data.context", context)]
    client.log_inputs(run_id, [DatasetInput(Dataset(**dataset.to_dict()), tags) for dataset in datasets])


def describe(params: Params, model: ModelId) -> str:
    """Return the description of a run, in Markdown."""
    entry = params.model(model.entry)
    training, optimizer = entry.training, entry.training.optimizer
    augmented = [f"{key} {value:g}" for key, value in entry.augmentation if value and key != "elastic_smoothing"]
    return (
        f"**{model}**: {entry.architecture.kind}, trained by `{command('train', model)}`.\n\n"
        f"* {training.epochs} epochs at most, batches of {training.batch_size}\n"
        f"* {optimizer.name}, learning rate {optimizer.learning_rate:g}, schedule {training.schedule.name}\n"
        f"* augmentation: {', '.join(augmented) or 'none'}\n"
        f"* normalization: {entry.normalization}, seed {params.seed}\n"
    )


def command(stage: str, model: ModelId) -> str:
    """Return what somebody types to run a stage for one model."""
    return " ".join(("mnist", stage, *model.arguments))


def run_name(model: ModelId, tags: Mapping[str, str]) -> str:
    """Return a name that tells two runs of one model apart: the DVC experiment, or the commit."""
    dirty = "-dirty" if tags.get("git_dirty") == "true" else ""
    return f"{model} {tags.get('dvc_experiment') or short_commit(tags['git_commit']) + dirty}"


def short_commit(commit: str) -> str:
    """Return as much of a commit as people read, or that there is none."""
    return commit if commit in (NO_COMMIT, UNKNOWN) else commit[:7]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings and lists of mappings into dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        path = f"{prefix}{key}"
        if isinstance(value, list) and value and isinstance(value[0], dict):
            value = {str(index): item for index, item in enumerate(value)}
        flat |= flatten(value, f"{path}.") if isinstance(value, Mapping) else {path: value}
    return flat
