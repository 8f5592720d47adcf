"""Making the store agree with the workspace: no model without its run.

DVC restores a stage from its cache without running it, a fresh clone pulls models that were trained elsewhere, and a
store can be lost. The files of the stages and `dvc.lock` hold all that a run says, so the run is restored from them.
"""

from collections.abc import Mapping
from functools import reduce
from io import StringIO
from operator import getitem
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, known_digest, read_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.provenance.environment import UNKNOWN, code_diff, code_tags
from mnist_pipeline.provenance.inputs import (
    StageInputs,
    present_inputs,
    produced,
    recorded_inputs,
    trace_lineage,
    tree_digest,
)
from mnist_pipeline.provenance.pipeline import Lock, read_lock, recorded_path, stage_of
from mnist_pipeline.tracking.contents import REPORT_DIGEST, Origin, command, log_evaluation, present_origin
from mnist_pipeline.tracking.runs import MODEL_DIGEST, find_run_by_digest, new_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.history import read_history
from mnist_pipeline.training.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient


def sync(project: Project, params: Params) -> list[str]:
    """Give each trained model of the workspace its run, with its test report, wherever the store lacks them.

    Doing it twice changes nothing.

    Returns:
        What was restored, in sentences.

    Raises:
        UserError: the store cannot be used, or `dvc.lock` tells of parameters that this code does not know.
    """
    from filelock import FileLock

    client, lock = open_store(project), read_lock(project)
    restored: list[str] = []
    # Two at once would each restore the same run.
    with FileLock(project.artifacts / ".sync.lock"):
        for model in map(ModelId, params.models):
            files = project.model_file(model), project.history(model), project.training_summary(model)
            if not all(file.is_file() for file in files):
                continue
            run_id, is_new = _run_of(client, project, params, model, lock)
            if is_new:
                restored.append(f"{model}: the store had no run of this training; restored from its files")
            if _restore_evaluation(client, project, model, run_id, lock):
                restored.append(f"{model}: the run had no test report; restored from its files")
    return restored


def run_of(project: Project, params: Params, model: ModelId) -> str:
    """Return the id of the run that trained the model in the workspace; restore the run if it is gone."""
    return _run_of(open_store(project), project, params, model, read_lock(project))[0]


def _run_of(client: "MlflowClient", project: Project, params: Params, model: ModelId, lock: Lock) -> tuple[str, bool]:
    """Return the id of the run and whether it had to be restored."""
    inputs = _inputs_of(project, model, lock)
    if found := find_run_by_digest(client, known_digest(project.model_file(model)), inputs.key if inputs else ""):
        return found.info.run_id, False
    if inputs:
        origin = _recorded_origin(project, params, model, lock, inputs)
    else:
        # The model was trained by hand: what lies there now is the best guess, and no more.
        origin = present_origin(project, params, model)
    tags = {"restored": "true", "restored_from": "dvc.lock" if inputs else "the files at hand"}
    with new_run(client, project, model, origin, tags) as run:
        run.log_epochs(*read_history(project.history(model)))
        run.log_result(read_json(project.training_summary(model), command("train", model)))
    return run.run_id, True


def _inputs_of(project: Project, model: ModelId, lock: Lock) -> StageInputs | None:
    """Return what the model was trained from by `dvc.lock`, if that speaks of exactly this file."""
    file, stage = project.model_file(model), stage_of(project, "train", model)
    ours = produced(lock, stage, recorded_path(project, file), known_digest(file))
    return recorded_inputs(lock, stage) if ours else None


def _recorded_origin(project: Project, params: Params, model: ModelId, lock: Lock, inputs: StageInputs) -> Origin:
    """Return what a training of the past started from, as far as `dvc.lock` and the code at hand tell.

    The commit counts only if its code is the code of that training; versions and machine are not known.
    """
    lineage = trace_lineage(project, lock, inputs)
    then = _with_values(params, lineage.parameters).with_seed(model.seed)
    if then == params:
        text = project.params.read_text(encoding="utf-8")
    else:
        YAML(typ="safe").dump(then.model_dump(mode="json", exclude_none=True), buffer := StringIO())
        text = buffer.getvalue()
    present = present_inputs(project, "train", model)
    if present and present.code == inputs.code:
        return Origin(then, text, code_tags(project), code_diff(project.top), lineage)
    return Origin(then, text, {"git_commit": UNKNOWN}, "", lineage)


def _with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return the parameters with other values, by dotted key."""
    content = params.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        reduce(getitem, path, content)[last] = value
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"dvc.lock tells of parameters that this code does not know ({', '.join(values)}): run `dvc repro` first."
        ) from error


def _restore_evaluation(client: "MlflowClient", project: Project, model: ModelId, run_id: str, lock: Lock) -> bool:
    """Log the test report if the run has not this one; return whether it was logged."""
    report = project.test_report(model)
    if not report.is_file():
        return False
    if read_json(report, command("evaluate", model))[MODEL_DIGEST] != known_digest(project.model_file(model)):
        return False  # it is about an earlier model, which DVC will notice
    if client.get_run(run_id).data.tags.get(REPORT_DIGEST) == tree_digest(project.report(model)):
        return False
    inputs, test = recorded_inputs(lock, stage_of(project, "evaluate", model)), project.split / "test.npz"
    digest = inputs.data.get(recorded_path(project, test)) if inputs else None
    log_evaluation(client, project, model, run_id, digest or file_digest(test))
    return True
