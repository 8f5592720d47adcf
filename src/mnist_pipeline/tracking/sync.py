"""Making the store agree with the workspace: no model without its run.

DVC restores a stage from its cache without running it, a fresh clone pulls models that were trained elsewhere, and a
store can be lost. The files of the stages and `dvc.lock` hold all that a run says, so the run is made again from them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from io import StringIO
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import file_digest, known_digest, read_json
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.contents import REPORT_DIGEST, Origin, log_evaluation, present_origin, report_digest
from mnist_pipeline.tracking.inputs import StageInputs, made, present_inputs, recorded_inputs, trace
from mnist_pipeline.tracking.lineage import UNKNOWN, code_diff, code_tags
from mnist_pipeline.tracking.pipeline import Lock, base_folder, read_lock, recorded_path, stage_of
from mnist_pipeline.tracking.registry import CHAMPION, MODEL
from mnist_pipeline.tracking.runs import MODEL_DIGEST, find_run, new_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.history import read_history

if TYPE_CHECKING:
    from mlflow import MlflowClient


@dataclass(frozen=True)
class Synced:
    """What the store lacked."""

    trained: tuple[str, ...]
    """Models that got their run back."""
    evaluated: tuple[str, ...]
    """Models whose run got its test report back."""
    champion_missing: bool
    """Whether the model that `reports/champion.json` names is still to be registered."""

    def lines(self) -> list[str]:
        """Say what was restored, a model to a line."""
        return [
            *(f"{name}: the store had no run of this training; restored from its files" for name in self.trained),
            *(f"{name}: the run had no test report; restored from its files" for name in self.evaluated),
        ]


def sync(project: Project, params: Params) -> Synced:
    """Give each trained model of the workspace its run, with its test report, wherever the store lacks them.

    Doing it twice changes nothing. TensorFlow is not needed.

    Raises:
        UserError: the store cannot be used, or `dvc.lock` tells of parameters that this code does not know.
    """
    from filelock import FileLock

    client, lock = open_store(project), read_lock(project)
    trained: list[str] = []
    evaluated: list[str] = []
    # Two at once would each restore the same run.
    with FileLock(project.artifacts / ".sync.lock"):
        for name in (name for name in params.models if _is_trained(project, name)):
            run_id, restored = _run_of(client, project, params, name, lock)
            trained += [name] if restored else []
            evaluated += [name] if _restore_evaluation(client, project, name, run_id, lock) else []
    return Synced(tuple(trained), tuple(evaluated), _champion_missing(client, project))


def _is_trained(project: Project, name: str) -> bool:
    return all((project.model(name) / file).is_file() for file in ("model.keras", "history.csv", "metrics.json"))


def run_of(project: Project, params: Params, name: str) -> str:
    """Return the id of the run that made `models/<name>/model.keras`; make the run again if it is gone."""
    return _run_of(open_store(project), project, params, name, read_lock(project))[0]


def _run_of(client: "MlflowClient", project: Project, params: Params, name: str, lock: Lock) -> tuple[str, bool]:
    """Return the id of the run and whether it had to be restored."""
    inputs = _inputs_of(project, name, lock)
    if found := find_run(client, project.model_file(name), inputs.key if inputs else ""):
        return found.info.run_id, False
    origin = _origin_in(lock, project, params, inputs) if inputs else present_origin(project, params, name)
    # Whose inputs dvc.lock does not vouch for was trained by hand: what lies there now is the best guess, and no more.
    tags = {"restored": "true", "restored_from": "dvc.lock" if inputs else "the files at hand"}
    with new_run(client, project, name, origin, tags) as run:
        run.log_epochs(*read_history(project.model(name) / "history.csv"))
        run.log_result(read_json(project.model(name) / "metrics.json", f"mnist train {name}"))
    return run.run_id, True


def _inputs_of(project: Project, name: str, lock: Lock) -> StageInputs | None:
    """Return what `dvc.lock` says the model file was made from, if it speaks of exactly this file."""
    file, stage = project.model_file(name), stage_of(project, "train", name)
    ours = made(project, lock, stage, recorded_path(project, file), known_digest(file))
    return recorded_inputs(lock, stage) if ours else None


def _origin_in(lock: Lock, project: Project, params: Params, inputs: StageInputs) -> Origin:
    """Return what a training of the past started from, as far as `dvc.lock` and the code at hand tell.

    The commit counts only if its code is the code of that training; versions and machine are not known.
    """
    history = trace(project, lock, inputs)
    then = _with_values(params, history.parameters)
    present = present_inputs(project, inputs.stage)
    same_code = present is not None and present.code == inputs.code
    return Origin(
        then,
        project.params.read_text(encoding="utf-8") if then == params else _as_yaml(then),
        code_tags(project) if same_code else {"git_commit": UNKNOWN},
        code_diff(base_folder(project)) if same_code else "",
        history,
    )


def _with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return the parameters with other values, by dotted key."""
    content = params.model_dump(mode="json")
    for key, value in values.items():
        *path, last = key.split(".")
        section = content
        for part in path:
            section = section[part]
        section[last] = value
    try:
        return Params.model_validate(content)
    except ValidationError as error:
        raise UserError(
            f"dvc.lock tells of parameters that this code does not know ({', '.join(values)}): run `dvc repro` first."
        ) from error


def _as_yaml(params: Params) -> str:
    from ruamel.yaml import YAML

    text = StringIO()
    YAML(typ="safe").dump(params.model_dump(mode="json", exclude_none=True), text)
    return text.getvalue()


def _restore_evaluation(client: "MlflowClient", project: Project, name: str, run_id: str, lock: Lock) -> bool:
    """Log the test report if the run has not this one; return whether it was logged."""
    evaluation = project.model(name) / "evaluation.json"
    if not evaluation.is_file() or not (project.report(name) / "metrics.json").is_file():
        return False
    command = f"mnist evaluate {name}"
    if read_json(evaluation, command)[MODEL_DIGEST] != known_digest(project.model_file(name)):
        return False  # a report on another model, about to be made anew
    if client.get_run(run_id).data.tags.get(REPORT_DIGEST) == report_digest(project, name):
        return False
    log_evaluation(client, project, name, run_id, _test_digest(project, name, lock))
    return True


def _test_digest(project: Project, name: str, lock: Lock) -> str:
    """Return the hash of the test images that the model was evaluated on."""
    inputs = recorded_inputs(lock, stage_of(project, "evaluate", name))
    path = project.split / "test.npz"
    known = inputs.data.get(recorded_path(project, path)) if inputs else None
    return known or file_digest(path)


def _champion_missing(client: "MlflowClient", project: Project) -> bool:
    """Return whether the registry lacks a champion, or the version of the model that was made one here."""
    from mlflow.exceptions import MlflowException

    if not project.champion.is_file():
        return False
    champion = read_json(project.champion, "mnist register")
    file = project.model_file(champion["model"])
    if not file.is_file() or known_digest(file) != champion[MODEL_DIGEST]:
        return False
    try:
        client.get_model_version_by_alias(MODEL, CHAMPION)
    except MlflowException:
        return True
    return not client.search_model_versions(f"name = '{MODEL}' and tags.{MODEL_DIGEST} = '{champion[MODEL_DIGEST]}'")
