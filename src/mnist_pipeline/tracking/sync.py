"""Making the store agree with the workspace: no model without its run, no run without its files.

DVC restores a stage from its cache without running it, a fresh clone pulls models that were trained elsewhere, and a
store, or a part of it, can be lost. The files of the stages and `dvc.lock` hold all that a run says, so it is restored
from them, but only from files that `dvc.lock` or the run itself vouches for.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import reduce
from io import StringIO
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_table
from mnist_pipeline.provenance.environment import UNKNOWN, code_diff, code_tags
from mnist_pipeline.provenance.inputs import (
    StageInputs,
    file_digests,
    present_inputs,
    produced,
    recorded_inputs,
    trace_lineage,
    tree_digest,
)
from mnist_pipeline.provenance.pipeline import Lock, read_lock, recorded_path, stage_of
from mnist_pipeline.tracking.contents import (
    DIFF,
    DIFF_DIGEST,
    DIGESTS,
    LINEAGE,
    PARAMS,
    REPORT,
    REPORT_DIGEST,
    Origin,
    command,
    log_evaluation,
    origin_files,
    origin_tags,
    present_origin,
    read_evaluation,
    read_training,
)
from mnist_pipeline.tracking.logged_model import is_whole, logged_model_id, upload
from mnist_pipeline.tracking.runs import find_run_by_digest, new_run
from mnist_pipeline.tracking.store import download, open_store
from mnist_pipeline.training.history import Epoch, TrainingSummary
from mnist_pipeline.training.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


@dataclass(frozen=True)
class Agreement:
    """What it took to make the store agree with the workspace, in sentences."""

    restored: list[str] = field(default_factory=list[str])
    """What the store has back."""
    lost: list[str] = field(default_factory=list[str])
    """What the store has lost and nothing here can replace."""
    refused: list[str] = field(default_factory=list[str])
    """What in the workspace is not to be trusted, so that the store was not told of it."""


def sync(project: Project, params: Params) -> Agreement:
    """Give each trained model of the workspace its run, with all that belongs to it, wherever the store lacks them.

    Doing it twice changes nothing.

    Raises:
        UserError: the store cannot be used.
    """
    from filelock import FileLock

    client, lock, found = open_store(project), read_lock(project), Agreement()
    # Two at once would each restore the same run.
    with FileLock(project.artifacts / ".sync.lock"):
        for model in map(ModelId, params.models):
            files = project.model_file(model), project.history(model), project.training_summary(model)
            if all(file.is_file() for file in files):
                try:
                    _Trained(project, params, model, client, lock).synchronize(found)
                except UserError as error:
                    found.refused.append(str(error))
    return found


def run_of(project: Project, params: Params, model: ModelId) -> str:
    """Return the id of the run that trained the model in the workspace; restore the run if it is gone."""
    return _Trained(project, params, model, open_store(project), read_lock(project)).run()[0].info.run_id


def can_restore(project: Project) -> bool:
    """Return whether the workspace has a trained model, whose run `sync` would restore."""
    return any(project.models.glob("*/model.keras"))


@dataclass(frozen=True)
class _Trained:
    """A trained model of the workspace, beside what the store has of it."""

    project: Project
    params: Params
    model: ModelId
    client: "MlflowClient"
    lock: Lock

    def synchronize(self, found: Agreement) -> None:
        """Restore the run and what it lacks.

        Raises:
            UserError: a file that it would be restored from is not the one that `dvc.lock` records.
        """
        run, is_new = self.run()
        if is_new:
            found.restored.append(f"{self.model}: the store had no run of this training; restored from its files")
        if self._restore_evaluation(run):
            found.restored.append(f"{self.model}: the run had no test report; restored from its files")
        restored, lost = self._restore_files(self.client.get_run(run.info.run_id))
        if restored:
            found.restored.append(
                f"{self.model}: the store had lost or damaged {', '.join(restored)}; restored from the workspace"
            )
        if lost:
            found.lost.append(
                f"{self.model}: the store has lost {', '.join(lost)} of run {run.info.run_id}, which the workspace "
                f"cannot replace any more: `{command('train', self.model)}` makes a run that has all."
            )

    def run(self) -> "tuple[Run, bool]":
        """Return the run and whether it had to be restored.

        Raises:
            UserError: it had to be, but the files are not those of one training.
        """
        file = self.project.model_file(self.model)
        inputs = self._inputs()
        if found := find_run_by_digest(self.client, known_digest(file), inputs.key if inputs else ""):
            return found, False
        self._check("train")
        history = read_table(self.project.history(self.model), Epoch, command("train", self.model))
        summary = read_training(self.project, self.model)
        if not inputs:
            self._check_by_hand(summary)
        tags = {"restored": "true", "restored_from": "dvc.lock" if inputs else "the files at hand"}
        with new_run(self.client, self.project, self.model, self.origin(), tags) as run:
            run.log_epochs(*history)
            run.log_result(summary)
        return self.client.get_run(run.run_id), True

    def origin(self) -> Origin:
        """Return what the training started from, as far as `dvc.lock` and the code at hand tell.

        The commit counts only if its code is the code of that training; versions and machine are not known.

        Raises:
            UserError: `dvc.lock` tells of parameters that this code does not know.
        """
        if (inputs := self._inputs()) is None:
            # The model was trained by hand: what lies there now is the best guess, and no more.
            return present_origin(self.project, self.params, self.model)
        lineage = trace_lineage(self.project, self.lock, inputs)
        then = _with_values(self.params, lineage.parameters).with_seed(self.model.seed)
        if then == self.params:
            text = self.project.params.read_text(encoding="utf-8")
        else:
            YAML(typ="safe").dump(then.model_dump(mode="json", exclude_none=True), buffer := StringIO())
            text = buffer.getvalue()
        present = present_inputs(self.project, "train", self.model)
        if present and present.code == inputs.code:
            return Origin(then, text, code_tags(self.project), code_diff(self.project.top), lineage)
        return Origin(then, text, {"git_commit": UNKNOWN}, "", lineage)

    def _inputs(self) -> StageInputs | None:
        """Return what the model was trained from by `dvc.lock`, if that speaks of exactly this file."""
        file, stage = self.project.model_file(self.model), stage_of(self.project, "train", self.model)
        ours = produced(self.lock, stage, recorded_path(self.project, file), known_digest(file))
        return recorded_inputs(self.lock, stage) if ours else None

    def _check(self, stage: str) -> None:
        """Refuse files of which `dvc.lock` records some, and others not.

        If it records none of them, the stage was run by hand, and all of them are new; if it records all but one, that
        one was damaged or edited, or is of another commit than the others.
        """
        outs = self.lock.get(stage_of(self.project, stage, self.model), {}).get("outs", {})
        model = recorded_path(self.project, self.project.model_file(self.model))
        report = recorded_path(self.project, self.project.report(self.model))
        ours = [path for path in outs if path == model or path.startswith(f"{report}/")]
        others = [path for path in ours if tree_digest(self.project.top / path) != outs[path]]
        if 0 < len(others) < len(ours):
            checkout = f"`dvc checkout --force {model}` or " if model in others else ""
            again = "dvc repro" if self.model.entry in self.params.train else command(stage, self.model)
            raise UserError(
                f"dvc.lock records another {' and another '.join(others)}, so MLflow was told nothing of it: run "
                f"{checkout}`{again}`."
            )

    def _check_by_hand(self, summary: TrainingSummary) -> None:
        """Refuse a model file of which nobody knows the MD5, if it is damaged or of another training."""
        from mnist_pipeline.models.model import load_model

        file, train = self.project.model_file(self.model), command("train", self.model)
        if load_model(file, train).count_params() != summary.parameters:
            raise UserError(f"{self.project.training_summary(self.model)} is not about {file}: run `{train}` again.")

    def _restore_evaluation(self, run: "Run") -> bool:
        """Log the test report if the run has not this one; return whether it was logged."""
        report = self.project.test_report(self.model)
        if not report.is_file() or self._names_report(run):
            return False
        if read_evaluation(self.project, self.model).model_md5 != known_digest(self.project.model_file(self.model)):
            return False  # it is about an earlier model, which DVC will notice
        self._check("train")
        self._check("evaluate")
        test = self.project.split / "test.npz"
        inputs = recorded_inputs(self.lock, stage_of(self.project, "evaluate", self.model))
        digest = inputs.data.get(recorded_path(self.project, test)) if inputs else None
        log_evaluation(self.client, self.project, self.model, run.info.run_id, digest or file_digest(test))
        return True

    def _names_report(self, run: "Run") -> bool:
        """Return whether the report in the workspace is the one that the run holds, or held."""
        return run.data.tags.get(REPORT_DIGEST) == tree_digest(self.project.report(self.model))

    def _restore_files(self, run: "Run") -> tuple[list[str], list[str]]:
        """Restore the files that the store has lost or damaged; return what was restored, and what cannot be."""
        from mlflow.exceptions import MlflowException

        file, model_id, restored = self.project.model_file(self.model), logged_model_id(run), list[str]()
        if not is_whole(self.client, model_id, known_digest(file)):
            try:
                upload(self.client, run.info.run_id, model_id, file)
            except MlflowException as error:
                raise UserError(
                    f"{self.model}: MLflow cannot take back the model of run {run.info.run_id} ({error.message}): "
                    "delete that run, too, and `mnist sync` restores both."
                ) from error
            restored.append("the model")
        with tempfile.TemporaryDirectory() as folder:
            kept = download(f"runs:/{run.info.run_id}/", Path(folder)) or Path(folder)
            origin, lost = self._restore_origin(run, kept)
            return [*restored, *origin, *self._restore_report(run, kept)], lost

    def _restore_origin(self, run: "Run", kept: Path) -> tuple[list[str], list[str]]:
        """Restore what tells of the run's origin, if the workspace still knows it; return as `_restore_files` does."""
        tags = run.data.tags
        lacking = [name for name in DIGESTS if _lacks(kept, name, tags)]
        if not lacking:
            return [], []
        origin = self.origin()
        texts, here = origin_files(origin), origin_tags(origin)
        # Equal inputs mean equal parameters and lineage; the patch holds more than inputs.
        proof = {name: DIFF_DIGEST if name == DIFF else "inputs_key" for name in texts}
        restored = [name for name in lacking if name in proof and tags.get(proof[name]) == here.get(proof[name])]
        for name in restored:
            self.client.log_text(run.info.run_id, texts[name], name)
            self.client.set_tag(run.info.run_id, DIGESTS[name], here[DIGESTS[name]])
        return restored, [name for name in lacking if name not in restored]

    def _restore_report(self, run: "Run", kept: Path) -> list[str]:
        """Restore the files of the report, if the run names the one in the workspace; return what was restored."""
        report = self.project.report(self.model)
        files = file_digests(report) if self._names_report(run) else {}
        lacking = [name for name, digest in files.items() if tree_digest(kept / REPORT / name) != digest]
        if not lacking:
            return []
        self.client.log_artifacts(run.info.run_id, str(report), REPORT)
        return lacking if len(lacking) == 1 else [f"{len(lacking)} of {len(files)} files of its test report"]


def _lacks(kept: Path, name: str, tags: Mapping[str, str]) -> bool:
    """Return whether an artifact that tells of a run's origin is lost or damaged."""
    if digest := tags.get(DIGESTS[name]):
        return tree_digest(kept / name) != digest
    # Earlier versions of this project did not record these two.
    return name in (PARAMS, LINEAGE) and "inputs_key" in tags and not (kept / name).is_file()


def _with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return the parameters with other values, by dotted key."""
    content = params.model_dump(mode="json")
    try:
        for key, value in values.items():
            *path, last = key.split(".")
            reduce(getitem, path, content)[last] = value
        return Params.model_validate(content)
    except (ValidationError, LookupError, TypeError) as error:
        raise UserError(
            f"dvc.lock tells of parameters that this code does not know ({', '.join(values)}): run `dvc repro` first."
        ) from error
