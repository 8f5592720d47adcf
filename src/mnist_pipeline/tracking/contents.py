"""What goes into the run of a trained model: its origin, data sets, test report and links."""

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnist_pipeline.core.files import content_digest, known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import train_file, validation_file
from mnist_pipeline.data.params import load_data
from mnist_pipeline.evaluation.metrics import Metrics
from mnist_pipeline.evaluation.robustness import read_robustness
from mnist_pipeline.provenance.environment import (
    NO_COMMIT,
    UNKNOWN,
    code_diff,
    code_tags,
    environment,
    experiment_tags,
)
from mnist_pipeline.provenance.inputs import Lineage, present_inputs, trace_lineage
from mnist_pipeline.provenance.pipeline import read_lock, recorded_path
from mnist_pipeline.provenance.redaction import redact
from mnist_pipeline.tracking.artifacts import (
    DIFF,
    LINEAGE,
    LINEAGE_DIGEST,
    PARAMS,
    REPORT,
    log_contents,
    logged_model_id,
)
from mnist_pipeline.tracking.store import studies_experiment
from mnist_pipeline.training.history import TrainingSummary
from mnist_pipeline.training.params import ModelParams, Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.data.meta_dataset import MetaDataset
    from mlflow.entities import Metric, Run

NOTE = "mlflow.note.content"
"""MLflow's tag with the description of a run, in Markdown."""
INPUTS_KEY = "inputs_key"
"""Tag: `StageInputs.key` of the training."""
PARAMS_DIGEST = "params_md5"
"""Tag of a training's run: digest of the model's parameters."""
ADOPTED = "adopted_md5"
"""Tag of an adopted trial's run: the digest of the model's parameters in `params.yaml` after that."""
TRAINED = "trained_run"
"""Tag of an adopted trial's run: id of the newest training with these parameters."""
TUNED = "tuned_by_run"
"""Tag of a training's run: id of the adopted trial's."""


@dataclass(frozen=True)
class Origin:
    """What a training starts from."""

    params: Params
    """All parameters."""
    params_text: str
    """All parameters, as YAML."""
    tags: Mapping[str, str]
    """State of the code, and the DVC experiment."""
    diff: str
    """What is uncommitted, as a patch."""
    lineage: Lineage | None
    """The inputs of the stage, where they come from, and the environment; None if the inputs are not known."""


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
    known = lineage and replace(lineage, environment=environment(project))
    diff = code_diff(project.repository)
    return Origin(params, text, code_tags(project, diff) | experiment_tags(), diff, known)


def origin_files(origin: Origin) -> dict[str, str]:
    """Return the text of the artifacts that tell of an origin, by name."""
    files = {PARAMS: redact(origin.params_text), **({DIFF: origin.diff} if origin.diff else {})}
    if origin.lineage is None:
        return files
    digests = {name: text_digest(text) for name, text in files.items()}
    return {**files, LINEAGE: replace(origin.lineage, files=digests).to_json()}


def origin_tags(origin: Origin) -> dict[str, str]:
    """Return all tags that follow from an origin."""
    if origin.lineage is None:
        return {**origin.tags}
    digest = text_digest(origin_files(origin)[LINEAGE])
    return {**origin.tags, INPUTS_KEY: origin.lineage.inputs.key, LINEAGE_DIGEST: digest}


def text_digest(text: str) -> str:
    """Return the MD5 of a text file."""
    return content_digest(text.encode())


def log_origin(client: "MlflowClient", run_id: str, project: Project, model: ModelId, origin: Origin) -> None:
    """Log in the active run what a training starts from: its parameters, uncommitted changes, lineage, data sets."""
    import mlflow

    general = origin.params.model_dump(mode="json", include={"seed", "device", "precision", "split"}, exclude_none=True)
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
        # Names of classes may hold what MLflow allows in no name of a metric, or makes groups of.
        {re.sub(r"[^\w.\- ]", "_", f"test_{key}"): value for key, value in measures.items()},
        run_id=run_id,
        model_id=logged_model_id(client.get_run(run_id)),
        dataset=dataset,
    )
    if (file := project.robustness(model)).is_file():  # earlier versions of this project did not write it
        table = read_robustness(file)
        points = (as_metrics({"robustness": mean}, int(each)) for each, mean in table[["strength", "mean"]].to_numpy())
        client.log_batch(run_id, metrics=[metric for each in points for metric in each])
    figures = [f"{REPORT}/figures/{file.name}" for file in sorted(project.report(model).glob("figures/*.png"))]
    training, run = read_training(project, model), client.get_run(run_id)
    values = training.validation_accuracy, report["accuracy"], training.parameters
    client.set_tag(run_id, NOTE, with_result(run.data.tags.get(NOTE, ""), model, values, figures, artifacts_page(run)))
    client.log_artifacts(run_id, str(project.report(model)), REPORT)


def link_to_winner(client: "MlflowClient", run_id: str) -> None:
    """Link a training's run and the run of the trial whose adoption gave it its parameters, if there is one.

    They are found by what the parameters are: no file carries a run's id, so nothing that DVC hashes changes.
    """
    training = client.get_run(run_id)
    name = client.get_experiment(training.info.experiment_id).name
    experiment = client.get_experiment_by_name(studies_experiment(name))
    found = client.search_runs(
        [experiment.experiment_id] if experiment else [],
        f"tags.{ADOPTED} = '{training.data.tags[PARAMS_DIGEST]}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    for winner in found:
        _link(client, training, TUNED, winner, "Its parameters were found by the trial")
        _link(client, winner, TRAINED, training, "Its parameters were adopted; trained with them:")


def _link(client: "MlflowClient", run: "Run", tag: str, other: "Run", sentence: str) -> None:
    """Tag a run with another's id, and say so in its description, where a link can be clicked."""
    client.set_tag(run.info.run_id, tag, other.info.run_id)
    url = f"#/experiments/{other.info.experiment_id}/runs/{other.info.run_id}"
    description = run.data.tags.get(NOTE, "").partition(f"\n{sentence}")[0]
    client.set_tag(run.info.run_id, NOTE, f"{description}\n{sentence} [{other.info.run_name}]({url}).")


def params_digest(model: ModelParams) -> str:
    """Return what tells the parameters of a model from any others."""
    return content_digest(model.model_dump_json().encode())


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

    data, pixel = load_data(project), np.dtype(np.uint8)
    schema = Schema([TensorSpec(pixel, (-1, *data.image_size), "images"), TensorSpec(pixel, (-1,), "labels")])
    source = DvcSource(recorded_path(project, path), digest)
    return MetaDataset(source, name=f"{data.name}-{path.stem}", digest=digest, schema=schema)


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


def with_result(
    description: str, model: ModelId, values: tuple[float, float, int], figures: Sequence[str], page: str
) -> str:
    """Put on top of a run's description, or in place of an earlier result, what the model came to.

    Args:
        description: what `describe` returned, perhaps with more.
        model: which model; its name, in bold, begins the description proper.
        values: accuracy on validation and on test, number of weights.
        figures: the artifacts to link to.
        page: address of the page that shows the artifacts of the run.
    """
    links = ", ".join(f"[{Path(figure).stem.replace('_', ' ')}]({page}/{figure})" for figure in figures)
    validation, test, parameters = values
    cells = {"model": str(model), "validation": f"{validation:.2%}", "test": f"{test:.2%}"}
    table = table_row(cells | {"parameters": f"{parameters:,}", "figures": links})
    return f"{table}\n\n{description[max(description.find(f'**{model}**'), 0) :]}"


def table_row(cells: Mapping[str, str]) -> str:
    """Return a table of one row, by column; wide, because MLflow's page puts the columns next to each other."""
    wide = [" | ".join(f"{cell}&emsp;" for cell in row) for row in (cells.keys(), cells.values())]
    return f"| {wide[0]} |\n|{' --- |' * len(cells)}\n| {wide[1]} |"


def artifacts_page(run: "Run") -> str:
    """Return the address, in MLflow's page, that shows the artifacts of a run."""
    return f"#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts"


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
