"""Making the store agree with the workspace: no model without its run, no run without its files.

DVC restores a stage from its cache without running it, a fresh clone pulls models that were trained elsewhere, and a
store, or a part of it, can be lost. The files of the stages and `dvc.lock` hold all that a run says, so it is logged
again from them, by what logged it first, but only from files that `dvc.lock` or the run itself vouches for.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial, reduce
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
from mnist_pipeline.models.model import load_model
from mnist_pipeline.provenance.environment import UNKNOWN, code_diff, code_tags, lock_digest
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
from mnist_pipeline.tracking.artifacts import (
    DIFF,
    KEPT_MODEL,
    LINEAGE,
    LINEAGE_DIGEST,
    MODEL_DIGEST,
    PARAMS,
    REPORT,
    Kept,
    log_contents,
    log_model,
    logged_model_id,
    upload,
)
from mnist_pipeline.tracking.contents import (
    INPUTS_KEY,
    Origin,
    command,
    log_evaluation,
    origin_files,
    origin_tags,
    present_origin,
    read_evaluation,
    read_training,
    text_digest,
)
from mnist_pipeline.tracking.outbox import deliver
from mnist_pipeline.tracking.runs import find_run_by_digest, new_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

THE_REPORT = "test report"


@dataclass(frozen=True)
class Agreement:
    """What it took to make the store agree with the workspace, in sentences."""

    restored: list[str] = field(default_factory=list[str])
    """What the store has back."""
    lost: list[str] = field(default_factory=list[str])
    """What the store has lost and nothing here can replace."""
    refused: list[str] = field(default_factory=list[str])
    """What in the workspace is not to be trusted, so that the store was not told of it."""

    def mend(
        self, whose: str, lacking: Callable[[], list[str]], restore: Callable[[list[str]], None], way_out: str
    ) -> None:
        """Restore what the store is lacking of something, look again, and add what that came to."""
        if not (before := lacking()):
            return
        restore(before)
        lost = lacking()
        if restored := [name for name in before if name not in lost]:
            self.restored.append(f"{whose}: the store had no intact {', '.join(restored)}; restored")
        if lost:
            self.lost.append(f"{whose}: the store has no intact {', '.join(lost)}, and {way_out}")


def sync(project: Project, params: Params) -> Agreement:
    """Give each trained model of the workspace its run, with all that belongs to it, wherever the store lacks them.

    Doing it twice changes nothing.

    Raises:
        UserError: the store cannot be used.
    """
    from filelock import FileLock

    client, lock, found = open_store(project), read_lock(project), Agreement()
    found.restored.extend(deliver(project, client))
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
    deliver(project, client := open_store(project))
    return _Trained(project, params, model, client, read_lock(project)).run()[0].info.run_id


@dataclass(frozen=True)
class _Trained:
    """A trained model of the workspace, beside what the store has of it."""

    project: Project
    params: Params
    model: ModelId
    client: "MlflowClient"
    lock: Lock

    def synchronize(self, found: Agreement) -> None:
        """Restore the run and what it lacks; a UserError says that `dvc.lock` records another file than there is."""
        run, is_new = self.run()
        if is_new:
            found.restored.append(f"{self.model}: the store had no run of this training; restored from its files")
        way_out = (
            f"the workspace cannot replace it any more: `{command('train', self.model)}` makes a run that has all."
        )
        found.mend(str(self.model), partial(self._lacking, run), partial(self._restore, run), way_out)

    def run(self) -> "tuple[Run, bool]":
        """Return the run and whether it had to be restored; a UserError if the files are not those of one training."""
        file, train = self.project.model_file(self.model), command("train", self.model)
        key = self.inputs.key if self.inputs else ""
        if found := find_run_by_digest(self.client, self.project, known_digest(file), key):
            return found, False
        self._check("train")
        history = read_table(self.project.history(self.model), Epoch, train)
        summary = read_training(self.project, self.model)
        # Trained by hand, its MD5 is known to nobody: it may be damaged, or of another training.
        if not self.inputs and load_model(file, train).count_params() != summary.parameters:
            raise UserError(f"{self.project.training_summary(self.model)} is not about {file}: run `{train}` again.")
        tags = {"restored": "true", "restored_from": "dvc.lock" if self.inputs else "the files at hand"}
        with new_run(self.client, self.project, self.model, self.origin, tags) as run:
            run.log_epochs(*history)
            run.log_result(summary)
        return self.client.get_run(run.run_id), True

    @cached_property
    def inputs(self) -> StageInputs | None:
        """Return what the model was trained from by `dvc.lock`, if that speaks of exactly this file."""
        file, stage = self.project.model_file(self.model), stage_of(self.project, "train", self.model)
        ours = produced(self.lock, stage, recorded_path(self.project, file), known_digest(file))
        return recorded_inputs(self.lock, stage) if ours else None

    @cached_property
    def origin(self) -> Origin:
        """Return what the training started from, as far as `dvc.lock` and the code at hand tell.

        The commit counts only if its code is the code of that training; versions and machine are not known.
        """
        if self.inputs is None:
            # The model was trained by hand: what lies there now is the best guess, and no more.
            return present_origin(self.project, self.params, self.model)
        lineage = trace_lineage(self.project, self.lock, self.inputs)
        then = with_values(self.params, lineage.parameters).with_seed(self.model.seed)
        YAML(typ="safe").dump(then.model_dump(mode="json", exclude_none=True), values := StringIO())
        text = self.project.params.read_text(encoding="utf-8") if then == self.params else values.getvalue()
        present = present_inputs(self.project, "train", self.model)
        if present and present.code == self.inputs.code:
            locked = replace(lineage, environment=lock_digest(self.project))
            diff = code_diff(self.project.repository)
            return Origin(then, text, code_tags(self.project, diff), diff, locked)
        return Origin(then, text, {"git_commit": UNKNOWN}, "", lineage)

    def _check(self, stage: str) -> None:
        """Refuse files of which `dvc.lock` records some, and others not.

        If it records none of them, the stage was run by hand, and all of them are new; if it records all but one, that
        one was damaged or edited, or is of another commit than the others.
        """
        outs = self.lock.get(stage_of(self.project, stage, self.model), {}).get("outs", {})
        model = recorded_path(self.project, self.project.model_file(self.model))
        report = recorded_path(self.project, self.project.report(self.model))
        ours = [path for path in outs if path == model or path.startswith(f"{report}/")]
        others = [path for path in ours if tree_digest(self.project.repository / path) != outs[path]]
        if 0 < len(others) < len(ours):
            checkout = f"`dvc checkout --force {model}` or " if model in others else ""
            again = "dvc repro" if self.model.entry in self.params.train else command(stage, self.model)
            raise UserError(
                f"dvc.lock records another {' and another '.join(others)}, so MLflow was told nothing of it: run "
                f"{checkout}`{again}`."
            )

    def _lacking(self, run: "Run") -> list[str]:
        """Return what the store lacks of a run."""
        with tempfile.TemporaryDirectory() as folder:
            kept = Kept(self.client.get_run(run.info.run_id), Path(folder))
            diff = [DIFF] if kept.tags.get("git_dirty") == "true" else []
            names = (PARAMS, LINEAGE, *diff) if LINEAGE_DIGEST in kept.tags else ()
            found = [kept.model, *map(kept.find, names)]
            report = file_digests(kept.artifacts / REPORT)
        lacking = [each.what for each in found if each.state != "verified"]
        if self.project.test_report(self.model).is_file():
            # A report on an earlier model stays out: DVC will notice.
            is_ours = read_evaluation(self.project, self.model).model_md5 == kept.tags[MODEL_DIGEST]
            if is_ours and not file_digests(self.project.report(self.model)).items() <= report.items():
                lacking.append(THE_REPORT)
        return lacking

    def _restore(self, run: "Run", lacking: list[str]) -> None:
        """Log again what the store lacks of a run, as far as the workspace still has the same."""
        from mlflow.exceptions import MlflowException

        if THE_REPORT in lacking:
            self._check("train")
            self._check("evaluate")
            test = self.project.split / "test.npz"
            inputs = recorded_inputs(self.lock, stage_of(self.project, "evaluate", self.model))
            digest = inputs.data.get(recorded_path(self.project, test)) if inputs else None
            log_evaluation(self.client, self.project, self.model, run.info.run_id, digest or file_digest(test))
        if KEPT_MODEL in lacking:
            file, step = self.project.model_file(self.model), read_training(self.project, self.model).best_epoch
            try:
                upload(self.client, run.info.run_id, logged_model_id(run), file)
            except MlflowException:  # somebody has deleted it
                log_model(self.client, run.info.run_id, str(self.model), file, step)
        if lost := {PARAMS, LINEAGE, DIFF} & {*lacking}:
            self._restore_origin(run, lost)

    def _restore_origin(self, run: "Run", lost: set[str]) -> None:
        """Log again what tells of a run's origin: files with the recorded MD5, or what equal inputs make equal."""
        with tempfile.TemporaryDirectory() as folder:
            kept = Kept(run, Path(folder))
            recorded, lineage = kept.recorded, kept.lineage or self.origin.lineage
        here = origin_files(self.origin)
        digests = {name: text_digest(text) for name, text in here.items()}
        if digests.get(LINEAGE) == recorded[LINEAGE]:
            recorded |= digests
        files = {name: here[name] for name in lost & here.keys() if digests[name] == recorded.get(name)}
        is_same = origin_tags(self.origin).get(INPUTS_KEY, "none") == run.data.tags.get(INPUTS_KEY)
        # From equal inputs follow equal parameters and lineage; the patch holds more than inputs.
        if lineage and is_same and lost - files.keys() - {DIFF}:
            files[PARAMS] = here[PARAMS]
            known = {name: digest for name, digest in recorded.items() if name != LINEAGE}
            files[LINEAGE] = replace(lineage, files=known | {PARAMS: digests[PARAMS]}).to_json()
        log_contents(self.client, run.info.run_id, {name: text.encode() for name, text in files.items()})
        if LINEAGE in files:
            self.client.set_tag(run.info.run_id, LINEAGE_DIGEST, text_digest(files[LINEAGE]))


def with_values(params: Params, values: Mapping[str, Any]) -> Params:
    """Return the parameters with other values, by dotted key, but for those of data that are another project's."""
    content = params.model_dump(mode="json")
    try:
        for key, value in values.items():
            *path, last = key.split(".")
            if content[[*path, last][0]] is not None:
                reduce(getitem, path, content)[last] = value
        return Params.model_validate(content)
    except (ValidationError, LookupError, TypeError) as error:
        raise UserError(
            f"dvc.lock tells of parameters that this code does not know ({', '.join(values)}): run `dvc repro` first."
        ) from error
