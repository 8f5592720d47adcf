"""The walk back from a run to what it was trained from, each step looked for and its content recomputed.

Data are looked for in the workspace and in DVC's cache, code in git, the files of the run in the MLflow store. Nothing
is changed by it: the code is laid out in a temporary git worktree.
"""

import hashlib
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.provenance.environment import LEFT_OUT, NO_COMMIT, UNKNOWN
from mnist_pipeline.provenance.git import checked_out, git
from mnist_pipeline.provenance.inputs import Lineage, parameters_in, tree_digest
from mnist_pipeline.provenance.pipeline import recorded_path
from mnist_pipeline.provenance.redaction import REDACTED
from mnist_pipeline.provenance.search import Finding, fetch_data, find_data
from mnist_pipeline.reproduction.record import model_file, resolve
from mnist_pipeline.tracking.contents import DIFF, DIFF_DIGEST, LINEAGE, PARAMS
from mnist_pipeline.tracking.runs import MODEL_DIGEST
from mnist_pipeline.tracking.store import download

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

MODEL = "model file"
"""What the finding of the model file is called."""
NO_CODE = {
    NO_COMMIT: "the model was trained in a copy without git",
    UNKNOWN: "the run was restored from files, and of which commit they are is not known",
    "": "the run does not name a commit",
}
"""Why there is no code to look for, by what stands in place of the commit."""
MAY_RESTORE = "`mnist sync` may restore it"
"""What to do about an artifact of the run that is lost or damaged."""
LOST = f"not in the store any more; {MAY_RESTORE}"
"""What is said of one that is lost."""


@dataclass(frozen=True)
class Walk:
    """The way back from one run, to be walked while its temporary folder is there."""

    project: Project
    """Whose store, repository and data are searched."""
    version: "ModelVersion | None"
    """The registered version that was asked for; None if it was a run."""
    run: "Run | None"
    """The run; None if it is not in the store any more."""
    folder: Path
    """Temporary folder of all that is fetched."""
    tree: Path
    """The code, the temporary counterpart of `Project.top`; nothing is there if the repository lacks the commit."""
    everywhere: bool
    """Whether to look on DVC's remotes, too, and for a model that the store has lost wherever data may be."""

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of the run."""
        return self.run.data.tags if self.run else {}

    @cached_property
    def lineage(self) -> Lineage | None:
        """Return what the run says about its inputs; None if it says nothing, or nothing that can be read any more."""
        file = self._artifact(LINEAGE)
        with suppress(UserError):
            return read_json(file, Lineage, "mnist train") if file else None
        return None

    @property
    def arguments(self) -> list[str]:
        """Return what followed `mnist` on the command line of the training."""
        # An environment variable may be set before it.
        return f" {self.lineage.inputs.command}".partition(" mnist ")[2].split() if self.lineage else []

    @cached_property
    def findings(self) -> tuple[Finding, ...]:
        """Return what was found, from the registered version back to the commit, each produced from the next."""
        return tuple(self._steps())

    @property
    def needed(self) -> dict[str, Finding]:
        """Return what a training again needs, by `Finding.what`."""
        return {each.what: each for step in self.findings for each in step.all() if each.is_needed}

    @property
    def files(self) -> dict[str, Path]:
        """Return the files among what a training again needs."""
        return {what: finding.path for what, finding in self.needed.items() if finding.path}

    def _artifact(self, name: str) -> Path | None:
        return download(f"runs:/{self.run.info.run_id}/{name}", self.folder / "artifacts") if self.run else None

    def _steps(self) -> Iterator[Finding]:
        if self.version:
            yield self._version(self.version)
        if self.run is None:
            yield Finding(f"run {self.version.run_id}", "missing", found="not in the store any more")
            return
        yield self._run(self.run)
        if MODEL_DIGEST in self.tags:
            yield self._model(self.run, self.tags[MODEL_DIGEST])
        if self.lineage is None:
            yield self._no_lineage()
            yield self._params({})
        else:
            yield self._inputs(self.lineage)
            data = tuple(self._data(path, digest) for path, digest in self.lineage.inputs.data.items())
            yield Finding("data of the stage", "verified", parts=data, is_needed=False)
            yield self._raw(self.lineage)
        yield self._commit(self.tags.get("git_commit", ""))

    def _no_lineage(self) -> Finding:
        if self._artifact(LINEAGE):
            return Finding(LINEAGE, "changed", found=f"it cannot be read any more; {MAY_RESTORE}")
        if "inputs_key" in self.tags:
            return Finding(LINEAGE, "missing", found=LOST)
        return Finding(LINEAGE, "missing", found="the run does not say which code and data it used")

    def _version(self, version: "ModelVersion") -> Finding:
        what = f"registered version {version.name}/{version.version}"
        what += "".join(f" @{alias}" for alias in version.aliases or [])
        if self.run is None or version.tags.get(MODEL_DIGEST) == self.tags.get(MODEL_DIGEST):
            return Finding(what, "verified", is_needed=False)
        return Finding(what, "changed", found="it and its run name different model files", is_needed=False)

    def _run(self, run: "Run") -> Finding:
        started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        restored = ", restored from files" if self.tags.get("restored") == "true" else ""
        about = f"`{self.tags.get('mlflow.source.name', '')}`, {run.info.status}, {started}{restored}"
        return Finding(f"run {run.info.run_id}", "verified", found=about, is_needed=False)

    def _model(self, run: "Run", digest: str) -> Finding:
        finding = _compare(MODEL, model_file(run, self.folder / "model"), digest)
        if finding.state == "verified" or not self.everywhere:
            return finding
        folder = self.lineage.folder if self.lineage else ""
        other = self._data((Path(folder) / "models" / self.tags["model"] / "model.keras").as_posix(), digest)
        if other.state == "verified":
            return replace(other, what=MODEL)
        return replace(finding, found="not intact in the store, nor anywhere else: nothing can be compared with it")

    def _inputs(self, lineage: Lineage) -> Finding:
        """Recompute the key from the recorded inputs, and compare the recorded parameters with params.yaml."""
        inputs = lineage.inputs
        # On the command line, a seed wins over that of params.yaml.
        ignored = "seed" if "--seed" in inputs.command else ""
        values = {key: value for key, value in inputs.parameters.items() if key != ignored}
        about = f"`{inputs.command}`, {len(inputs.dependencies)} dependencies, {len(inputs.parameters)} parameters"
        is_same = inputs.key == self.tags.get("inputs_key")
        return Finding(
            f"inputs of {inputs.stage}",
            "verified" if is_same else "changed",
            recorded=f"key {inputs.key[:12]}",
            found=about if is_same else f"not those that the run names; {MAY_RESTORE}",
            parts=(self._params(values),),
            is_needed=not is_same,
        )

    def _params(self, values: dict[str, object]) -> Finding:
        file = self._artifact(PARAMS)
        if file is None:
            return Finding(PARAMS, "missing", found=LOST)
        try:
            found = parameters_in(file, list(values))
        except UserError:
            return Finding(PARAMS, "changed", found=f"it cannot be read any more; {MAY_RESTORE}")
        if found != values:
            return Finding(PARAMS, "changed", found=f"other values than those of the training; {MAY_RESTORE}")
        return Finding(PARAMS, "verified", found="in the store", path=file)

    def _data(self, path: str, digest: str) -> Finding:
        """Look for a piece of data near, then far."""
        near = find_data(self.project, path, digest)
        if near.state == "verified" or not self.everywhere:
            return near
        target = self.folder / digest
        if remote := fetch_data(self.project, digest, target):
            return replace(near, state="verified", found=f"on DVC's remote {remote}", path=target)
        return replace(near, found=f"{near.found}, nor on a remote of DVC")

    def _raw(self, lineage: Lineage) -> Finding:
        """Check the raw files by their MD5, and their SHA-256 against the published one."""
        folder = recorded_path(self.project, self.project.raw)
        if folder not in lineage.data:
            unknown = "dvc.lock did not say what the data were produced from"
            return Finding("raw data", "missing", found=unknown, is_needed=False)
        pieces = {folder: lineage.data[folder], **{f"{folder}/{name}": md5 for name, md5 in lineage.raw_files.items()}}
        parts = [replace(self._data(path, digest), is_needed=False) for path, digest in pieces.items()]
        return Finding("raw data", "verified", parts=(parts[0], *map(_with_sha256, parts[1:])), is_needed=False)

    def _commit(self, commit: str) -> Finding:
        """Compare code and recorded diff with what the stage read."""
        digest = self.tags.get(DIFF_DIGEST)
        diff = _compare(DIFF, self._artifact(DIFF), digest) if digest else None
        parts = (diff,) if diff else ()
        if not self.tree.is_dir():
            why = NO_CODE.get(commit, "not in this repository (`git fetch --all` may bring it)")
            return Finding("code" if commit in NO_CODE else f"commit {commit}", "missing", found=why, parts=parts)
        # Applied without the user's settings for blanks, of which not one may change.
        if diff is None:
            parts = self._code(None)
        elif diff.path and git(self.tree, "apply", "--whitespace=nowarn", str(diff.path)) is not None:
            parts = (diff, *self._code(diff.path))
        elif diff.path:
            parts = (replace(diff, state="changed", found="it does not apply to the commit"),)
        # Without its diff the code is another one, of course.
        branch = self.tags.get("git_branch")
        return Finding(f"commit {commit}", "verified", found=f"of branch {branch}" if branch else "", parts=parts)

    def _code(self, diff: Path | None) -> tuple[Finding, ...]:
        """Recompute the hashes of the stage's code."""
        code = self.lineage.inputs.code.items() if self.lineage else ()
        given = "the commit and the diff" if diff else "the commit"
        other = f"other content in {given}; {_gaps(diff)}"
        return tuple(
            Finding(path, "verified", f"md5 {digest}", f"from {given}")
            if tree_digest(self.tree / path) == digest
            else Finding(path, "changed", f"md5 {digest}", other)
            for path, digest in code
        )


@contextmanager
def walk(project: Project, reference: str, *, everywhere: bool = False) -> Generator[Walk]:
    """Yield the way back from a run or a registered version, whose files are there inside `with`.

    Args:
        project: whose store, repository and data.
        reference: a run's id, `models:/mnist@champion` or `models:/mnist/3`.
        everywhere: look on DVC's remotes, too, and for a model that the store has lost wherever data may be.

    Raises:
        UserError: there is no such run or version.
    """
    version, run = resolve(project, reference)
    commit = run.data.tags.get("git_commit", "") if run else ""
    with (
        tempfile.TemporaryDirectory(prefix="mnist-walk-") as folder,
        checked_out(project.top, commit, Path(folder) / "tree") as tree,
    ):
        yield Walk(project, version, run, Path(folder), tree, everywhere)


def _compare(what: str, file: Path | None, digest: str) -> Finding:
    """Say whether a file of the run was found and has the recorded MD5."""
    if file is None:
        return Finding(what, "missing", f"md5 {digest}", LOST)
    if file_digest(file) != digest:
        return Finding(what, "changed", f"md5 {digest}", f"not the recorded one any more; {MAY_RESTORE}")
    return Finding(what, "verified", f"md5 {digest}", "in the store", file)


def _with_sha256(part: Finding) -> Finding:
    """Add the SHA-256 of a raw file that was found."""
    from mnist_pipeline.data.download import FILES

    if part.state != "verified" or part.path is None:
        return part
    with part.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    published = {file.name: file.sha256 for file in FILES}
    about = "as published" if found == published.get(Path(part.what).name) else "not MNIST as published"
    return replace(part, found=f"{part.found}, sha256 {found}, {about}")


def _gaps(diff: Path | None) -> str:
    """Say why a commit and a recorded diff may not give the code that was used."""
    text = diff.read_text(encoding="utf-8") if diff else ""
    left_out = [line.rpartition(" b/")[2] for line in text.splitlines() if line.startswith(LEFT_OUT)]
    if left_out:
        return f"the recorded diff was too long for {', '.join(left_out)}"
    if any(secret in text for secret in (f"//{REDACTED}@", f"={REDACTED}")):
        return "secrets in the recorded diff are redacted"
    return "a file there may be one that git ignores"
