"""Finding again all that a training started from: a recipe by which it can be repeated."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.checks import Evidence, fetch_data, find_data, rebuild_code
from mnist_pipeline.tracking.contents import DIFF, DIFF_DIGEST, PARAMS, TRACE
from mnist_pipeline.tracking.inputs import Trace, parameters_in
from mnist_pipeline.tracking.lineage import LEFT_OUT, NO_COMMIT, UNKNOWN
from mnist_pipeline.tracking.pipeline import base_folder
from mnist_pipeline.tracking.redaction import BLOT
from mnist_pipeline.tracking.reference import Artifacts, compare, resolve
from mnist_pipeline.tracking.runs import MODEL_DIGEST
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import STUDY, TRIAL

if TYPE_CHECKING:
    from mlflow.entities import Run


class ImpossibleError(UserError):
    """A run cannot be rebuilt."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)
        """Everything that is missing."""


@dataclass(frozen=True)
class Recipe:
    """All that a training started from, found and verified, and the model that it made."""

    run_id: str
    folder: Path
    """Where its project is, from the top of the repository's copy."""
    model: str
    """Its name, such as `cnn` or `cnn_seed7`."""
    arguments: tuple[str, ...]
    """Of `mnist`, to train it."""
    commit: str
    diff: Path | None
    """What was not committed."""
    params: Path
    """The params.yaml of that day."""
    data: Mapping[str, tuple[str, Evidence]]
    """Hash and place of each piece of data, by its path in the project."""
    model_file: Path
    """What the run made."""
    tags: Mapping[str, str]
    """Of the run."""


def collect(project: Project, reference: str, folder: Path) -> Recipe:
    """Find all that the training of a run or of a registered version started from.

    Args:
        project: whose store, repository and data.
        reference: a run's id, `models:/mnist@champion` or `models:/mnist/3`.
        folder: for files that have to be fetched.

    Raises:
        ImpossibleError: something is missing; all that is missing is named.
        UserError: there is no such run or version.
    """
    client = open_store(project)
    version, run = resolve(client, reference)
    if run is None:
        raise ImpossibleError([f"run {version.run_id if version else reference} is not in the store any more"])
    if reason := _is_no_training(run):
        raise ImpossibleError([reason])
    search = _Search(project, run, Artifacts(client, run, folder))
    recipe = search.recipe()
    if search.missing or recipe is None:
        raise ImpossibleError(search.missing)
    return recipe


def _is_no_training(run: "Run") -> str:
    """Say why a run is none that could be rebuilt; empty if it is one."""
    tags = run.data.tags
    if TRIAL in tags:
        return (
            f"it is trial {tags[TRIAL]} of a study, and a trial keeps no model to compare with: `mnist adopt` its "
            "parameters and train with them"
        )
    if STUDY in tags:
        return "it is the run of a study, not of a training"
    if MODEL_DIGEST not in tags:
        return f"its training left no model to compare with (the run is {run.info.status})"
    return ""


@dataclass
class _Search:
    """Looks for all that a run started from, and remembers what it did not find."""

    project: Project
    run: "Run"
    artifacts: Artifacts
    missing: list[str] = field(default_factory=list[str])

    def recipe(self) -> Recipe | None:
        """Return what was found; None, or with `missing` filled, if it is not all."""
        text, tags = self.artifacts.text(TRACE), self.run.data.tags
        trace = Trace.from_json(text) if text else None
        if trace is None:
            self.missing.append(f"{TRACE}: the run does not say which code and data it used")
        diff = self._diff()
        # Without its diff the code is another, of course: whether the commit is there is still worth knowing.
        complete = diff is not None or DIFF_DIGEST not in tags
        self._check_code(diff, trace.inputs.code if trace and complete else {})
        params = self._params(trace.parameters if trace else {})
        data = self._data(trace.inputs.data if trace else {})
        folder = trace.folder if trace else Path()
        model_file = self._model_file(folder)
        if params is None or model_file is None:
            return None
        run_id, name, commit = self.run.info.run_id, tags["model"], tags.get("git_commit", "")
        arguments = training_arguments(name, parameters_in(params, ["models"])["models"])
        return Recipe(run_id, folder, name, arguments, commit, diff, params, data, model_file, tags)

    def _diff(self) -> Path | None:
        """Return the recorded patch; None if there was nothing uncommitted."""
        digest = self.run.data.tags.get(DIFF_DIGEST)
        if digest is None:
            return None
        file = self.artifacts.path(DIFF)
        if compare(file, digest) != "verified":
            lack = "is not among the artifacts of the run" if file is None else "is not the recorded one any more"
            self.missing.append(f"{DIFF}: what was not committed {lack} (md5 {digest})")
        return file

    def _check_code(self, diff: Path | None, code: Mapping[str, str]) -> None:
        commit = self.run.data.tags.get("git_commit", "")
        if commit == NO_COMMIT:
            self.missing.append("the code: it was trained in a copy without git")
        elif commit in (UNKNOWN, ""):
            self.missing.append("the code: the run was restored from files, and from which commit nobody knows")
        else:
            found = rebuild_code(base_folder(self.project), commit, diff, code)
            if found.state == "missing":
                self.missing.append(f"commit {commit}: it is not in this repository (`git fetch --all` may bring it)")
            elif found.state == "changed":
                self.missing.append(f"the code: {found.where}{_gaps(diff)}")

    def _params(self, values: Mapping[str, object]) -> Path | None:
        file = self.artifacts.path(PARAMS)
        if file is None:
            self.missing.append(f"{PARAMS}: it is not among the artifacts of the run")
        elif parameters_in(file, list(values)) != dict(values):
            self.missing.append(f"{PARAMS}: the one among the artifacts of the run has other values than its training")
        return file

    def _data(self, wanted: Mapping[str, str]) -> dict[str, tuple[str, Evidence]]:
        found = {path: (digest, self._find(path, digest)) for path, digest in wanted.items()}
        for path, (digest, evidence) in found.items():
            if evidence.state != "verified":
                also = f" ({evidence.where})" if evidence.where else ""
                self.missing.append(
                    f"{path}: md5 {digest} is neither in the workspace nor in DVC's cache nor on a remote of DVC{also}"
                )
        return found

    def _find(self, path: str, digest: str) -> Evidence:
        """Look for a piece of data near, then far."""
        near = find_data(self.project, path, digest)
        if near.state == "verified":
            return near
        far = fetch_data(self.project, digest, self.artifacts.folder / digest)
        return far if far.state == "verified" else near

    def _model_file(self, folder: Path) -> Path | None:
        """Return the model that the run made: from the store or, if it is lost there, from wherever data may be."""
        digest = self.run.data.tags[MODEL_DIGEST]
        file = self.artifacts.model_file()
        if compare(file, digest) == "verified":
            return file
        place = self.project.model_file(self.run.data.tags["model"]).relative_to(self.project.root)
        found = self._find((folder / place).as_posix(), digest)
        if found.state == "verified":
            return found.path
        self.missing.append(f"the model that it made: md5 {digest} is not in the store, so nothing can be compared")
        return None


def _gaps(diff: Path | None) -> str:
    """Say why a recorded patch may not give the recorded code."""
    text = diff.read_text(encoding="utf-8") if diff else ""
    left_out = [line.rpartition(" b/")[2] for line in text.splitlines() if line.startswith(LEFT_OUT)]
    cut = f"; the recorded diff was too long for {', '.join(left_out)}" if left_out else ""
    secrets = any(blotted in text for blotted in (f"//{BLOT}@", f"={BLOT}"))
    return cut + ("; secrets in the recorded diff are blotted out" if secrets else "")


def training_arguments(name: str, models: Mapping[str, object]) -> tuple[str, ...]:
    """Return what is typed after `mnist` to train a model, which may be the sibling of another with its own seed."""
    sibling = re.fullmatch(r"(.+)_seed(\d+)", name)
    if name in models or sibling is None:
        return ("train", name)
    return ("train", sibling[1], "--seed", sibling[2])
