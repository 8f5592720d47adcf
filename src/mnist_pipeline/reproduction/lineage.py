"""`mnist lineage`: the walk back from a run to what it was trained from, each step looked for and recomputed.

Data are looked for in the workspace and in DVC's cache, code in git, the files of the run in the MLflow store. Nothing
is changed by it: the code is laid out in a temporary git worktree.
"""

import hashlib
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.console import console
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.idx import RAW_FILES
from mnist_pipeline.data.params import load_data
from mnist_pipeline.provenance.environment import LEFT_OUT, NO_COMMIT, UNKNOWN
from mnist_pipeline.provenance.git import checked_out, git
from mnist_pipeline.provenance.inputs import Lineage
from mnist_pipeline.provenance.pipeline import recorded_path
from mnist_pipeline.provenance.redaction import REDACTED
from mnist_pipeline.provenance.search import Finding, State, compare, find_data
from mnist_pipeline.registry.registry import Registry, Version
from mnist_pipeline.registry.sync import find_version
from mnist_pipeline.tracking.artifacts import DIFF, LINEAGE, MODEL_DIGEST, PARAMS, Kept
from mnist_pipeline.tracking.runs import find_run_by_digest

if TYPE_CHECKING:
    from mlflow.entities import Run
    from rich.tree import Tree

STYLES: Mapping[State, str] = {"verified": "green", "changed": "red", "missing": "yellow"}
NO_CODE = {
    NO_COMMIT: "the model was trained in a copy without git",
    UNKNOWN: "the run was restored from files, and of which commit they are is not known",
    "": "the run does not name a commit",
}
"""Why there is no code to look for, by what stands in place of the commit."""


@dataclass(frozen=True)
class Walk(Kept):
    """The way back from one run, to be walked while its temporary folder is there."""

    project: Project
    """Whose store, repository and data are searched."""
    version: Version | None
    """The registered version that was asked for; None if it was a run."""
    tree: Path
    """The code, in the place of `Project.repository`; nothing is there if the repository lacks the commit."""
    everywhere: bool
    """Whether to look on DVC's remotes, too, and for a model that the store has lost wherever data may be."""

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

    def _steps(self) -> Iterator[Finding]:
        if self.version:
            yield self._version(self.version)
        if self.run is None:
            yield Finding(f"run {self.version.run_id}", "missing", found="not in the store any more")
            return
        yield self._run(self.run)
        if MODEL_DIGEST in self.tags:
            yield self._model()
        if self.lineage:
            yield from self._inputs(self.lineage)
        else:
            yield from (self.find(LINEAGE), self.find(PARAMS))
        has_diff = self.tags.get("git_dirty") == "true" or (self.artifacts / DIFF).is_file()
        yield self._commit(self.tags.get("git_commit", ""), self.find(DIFF) if has_diff else None)

    def _version(self, version: Version) -> Finding:
        what = f"registered version {load_data(self.project).name}/{version.number}"
        what += "".join(f" @{alias}" for alias in version.aliases)
        if self.run is None or version.digest == self.tags.get(MODEL_DIGEST, ""):
            return Finding(what, "verified", is_needed=False)
        return Finding(what, "changed", found="it and its run name different model files", is_needed=False)

    def _run(self, run: "Run") -> Finding:
        started = datetime.fromtimestamp(run.info.start_time / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
        restored = ", restored from files" if self.tags.get("restored") == "true" else ""
        about = f"`{self.tags.get('mlflow.source.name', '')}`, {run.info.status}, {started}{restored}"
        return Finding(f"run {run.info.run_id}", "verified", found=about, is_needed=False)

    def _model(self) -> Finding:
        if self.model.state == "verified" or not self.everywhere:
            return self.model
        folder = self.lineage.folder if self.lineage else ""
        path = (Path(folder) / "models" / self.tags["model"] / "model.keras").as_posix()
        other = self._data(path, self.tags[MODEL_DIGEST])
        if other.state == "verified":
            return replace(other, what=self.model.what)
        return replace(self.model, found="not intact in the store, nor anywhere else: nothing can be compared with it")

    def _data(self, path: str, digest: str) -> Finding:
        return find_data(self.project, path, digest, self.folder / digest if self.everywhere else None)

    def _inputs(self, lineage: Lineage) -> Iterator[Finding]:
        inputs = lineage.inputs
        about = f"`{inputs.command}`, {len(inputs.dependencies)} dependencies, {len(inputs.parameters)} parameters"
        what, recorded, params = f"inputs of {inputs.stage}", f"key {inputs.key[:12]}", self.find(PARAMS)
        yield Finding(what, "verified", recorded, about, parts=(params,), is_needed=False)
        data = tuple(self._data(path, digest) for path, digest in inputs.data.items())
        yield Finding("data of the stage", "verified", parts=data, is_needed=False)
        yield self._raw(lineage)

    def _raw(self, lineage: Lineage) -> Finding:
        """Check the raw files by their MD5, and their SHA-256 against the published one."""
        folder = recorded_path(self.project, self.project.raw)
        if folder not in lineage.data:
            unknown = "dvc.lock did not say what the data were produced from"
            return Finding("raw data", "missing", found=unknown, is_needed=False)
        pieces = {folder: lineage.data[folder], **{f"{folder}/{name}": md5 for name, md5 in lineage.raw_files.items()}}
        parts = [replace(self._data(path, digest), is_needed=False) for path, digest in pieces.items()]
        published = _published(self.project, lineage)
        files = (_with_sha256(part, published.get(Path(part.what).name)) for part in parts[1:])
        return Finding("raw data", "verified", parts=(parts[0], *files), is_needed=False)

    def _commit(self, commit: str, diff: Finding | None) -> Finding:
        """Compare code and recorded diff with what the stage read."""
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
        branch = self.tags.get("mlflow.source.git.branch")
        return Finding(f"commit {commit}", "verified", found=f"of branch {branch}" if branch else "", parts=parts)

    def _code(self, diff: Path | None) -> tuple[Finding, ...]:
        """Recompute the hashes of the stage's code."""
        code = self.lineage.inputs.code.items() if self.lineage else ()
        given = "the commit and the diff" if diff else "the commit"
        other = f"other content in {given}; {_gaps(diff)}"
        return tuple(compare(path, self.tree / path, digest, f"from {given}", other, other) for path, digest in code)


@contextmanager
def walk(project: Project, reference: str, *, everywhere: bool = False) -> Generator[Walk]:
    """Yield the way back from a run or a registered version, whose files are there inside `with`.

    The reference is a run's id, `models:/NAME@champion` or `models:/NAME/3`; `everywhere` is that of `Walk`.

    Raises:
        UserError: there is no such run or version.
    """
    version, run = _resolve(project, reference)
    commit = run.data.tags.get("git_commit", "") if run else ""
    with (
        tempfile.TemporaryDirectory(prefix="mnist-walk-") as name,
        checked_out(project.repository, commit, (folder := Path(name)) / "tree") as tree,
    ):
        yield Walk(run, folder, project, version, tree, everywhere)


def _resolve(project: Project, reference: str) -> "tuple[Version | None, Run | None]":
    """Return the version, if it is one that is asked for, and the run; None if that one is gone."""
    from mlflow.exceptions import MlflowException

    registry = Registry.open(project)
    version = find_version(project, registry, reference) if reference.startswith("models:") else None
    with suppress(MlflowException):
        run = registry.client.get_run(version.run_id if version else reference)
        if run.info.lifecycle_stage == "active":
            return version, run
    if version is None:
        is_trained = any(project.models.glob("*/model.keras"))
        again = "; a lost run comes back with `mnist sync`, under another id" if is_trained else ""
        forms = f"a run's id, models:/{registry.name}@champion or models:/{registry.name}/3"
        raise UserError(f"The store has no run {reference}: give {forms}{again}.")
    # Its run was deleted, and may have been restored under another id.
    return version, find_run_by_digest(registry.client, project, version.digest)


def _published(project: Project, lineage: Lineage) -> dict[str, str]:
    """Return the SHA-256 that each raw file had to have, by name: of then, or of now if it was not recorded."""
    source = lineage.parameters.get("data.source") or load_data(project).source.model_dump()
    return {name: file["sha256"] for name, file in zip(RAW_FILES, source.get("files", ()), strict=False)}


def _with_sha256(part: Finding, published: str | None) -> Finding:
    """Add the SHA-256 of a raw file that was found, and whether it is the one that was published."""
    if part.state != "verified" or part.path is None:
        return part
    with part.path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    about = "" if published is None else ", as published" if found == published else ", not as published"
    return replace(part, found=f"{part.found}, sha256 {found}{about}")


def _gaps(diff: Path | None) -> str:
    """Say why a commit and a recorded diff may not give the code that was used."""
    text = diff.read_text(encoding="utf-8") if diff else ""
    left_out = [line.rpartition(" b/")[2] for line in text.splitlines() if line.startswith(LEFT_OUT)]
    if left_out:
        return f"the recorded diff was too long for {', '.join(left_out)}"
    if any(secret in text for secret in (f"//{REDACTED}@", f"={REDACTED}")):
        return "secrets in the recorded diff are redacted"
    return "a file there may be one that git ignores"


def show(project: Project, reference: str) -> bool:
    """Print the way back as a tree, each step below the one that was produced from it; return whether all is verified.

    Raises:
        UserError: there is no such run or version.
    """
    from rich.segment import Segments
    from rich.tree import Tree

    with walk(project, reference) as found:
        findings = found.findings
    root = node = Tree("", hide_root=True)
    for finding in findings:
        node = _grow(node, finding)
    # `print` itself would cut the lines, and with them hashes, to the width of the terminal, or to 80 without one.
    out = console()
    out.print(Segments(out.render(root, out.options.update(width=400))), crop=False)
    return all(each.state == "verified" for finding in findings for each in finding.all())


def _grow(node: "Tree", finding: Finding) -> "Tree":
    """Add a finding and its parts below a node; return its own node."""
    from rich.text import Text

    what = " ".join(filter(None, (finding.what, finding.recorded)))
    line = Text.assemble((f"{finding.state:<9}", STYLES[finding.state]), what)
    own = node.add(line.append(f" ({finding.found})", "dim") if finding.found else line)
    for part in finding.parts:
        _grow(own, part)
    return own
