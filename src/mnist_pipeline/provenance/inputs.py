"""What decided a stage's outputs, as DVC sees it: its command, the hashes of its dependencies, its parameters.

The same record can be taken from the files of the workspace, which a running stage does, and from `dvc.lock`, which
tells of stages that ran long ago, elsewhere, or not at all because DVC had their outputs in its cache. Where nothing
was edited in between, both have the same key.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mnist_pipeline.core.files import content_digest, file_digest, known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_yaml, reading
from mnist_pipeline.provenance.pipeline import (
    Lock,
    cached_object,
    listed_files,
    recorded_path,
    stage_entry,
    stage_of,
)

CODE = "src/"
"""Where code is; all other dependencies are data."""


@dataclass(frozen=True)
class StageInputs:
    """Everything that DVC compares to decide whether a stage has to run."""

    stage: str
    """Name of the stage, such as `train@cnn`."""
    command: str
    """What the stage runs; the same on every host."""
    dependencies: Mapping[str, str]
    """DVC's hashes of files and folders, by path."""
    parameters: Mapping[str, Any]
    """Values, by dotted key of `params.yaml`."""

    @property
    def key(self) -> str:
        """Return what identifies these inputs: equal inputs have equal keys, on any machine."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def code(self) -> dict[str, str]:
        """Return the dependencies on code."""
        return {path: digest for path, digest in self.dependencies.items() if path.startswith(CODE)}

    @property
    def data(self) -> dict[str, str]:
        """Return the dependencies on data."""
        return {path: digest for path, digest in self.dependencies.items() if not path.startswith(CODE)}


@dataclass(frozen=True)
class Lineage:
    """A stage's inputs and all that they were produced from, as far as `dvc.lock` knows; artifact `lineage.json`."""

    inputs: StageInputs
    """What the stage read."""
    data: Mapping[str, str]
    """DVC's hashes of all data on the way back to the raw files, by path."""
    parameters: Mapping[str, Any]
    """Values by dotted key of `params.yaml`, of the stage and of those before it."""
    raw_files: Mapping[str, str]
    """MD5 of each raw file, by name."""
    folder: str = ""
    """Folder of the pipeline, from the top of the repository: `baselines`, or empty."""
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    """Versions, machine and lock, as far as they are known."""
    files: Mapping[str, str] = field(default_factory=dict[str, str])
    """MD5 of the files beside this one: parameters, uncommitted changes."""

    def to_json(self) -> str:
        """Return the lineage as indented JSON."""
        return json.dumps(asdict(self), indent=2)


def recorded_inputs(lock: Lock, stage_name: str) -> StageInputs | None:
    """Return the inputs of a stage's last run by `dvc.lock`; None if it knows of none."""
    if (entry := lock.get(stage_name)) is None:
        return None
    return StageInputs(stage_name, entry["cmd"], entry["deps"], entry["params"])


def present_inputs(project: Project, stage: str, model: ModelId) -> StageInputs | None:
    """Return the inputs of a model's stage by `dvc.yaml` and the files as they are now; None if there is no such stage.

    A seed that the matrix does not have is one of the parameters.
    """
    if (entry := stage_entry(project, stage, model)) is None:
        return None
    with reading(project.params):
        values = read_yaml(project.params)
    parameters = {key: value for key in entry["params"] if (value := _value(values, key)) is not None}
    return StageInputs(
        stage_of(project, stage, model),
        entry["cmd"],
        {recorded_path(project, Path(path)): tree_digest(project.root / path) for path in entry["deps"]},
        parameters if model.seed is None or "seed" not in parameters else parameters | {"seed": model.seed},
    )


def produced(lock: Lock, stage_name: str, path: str, digest: str) -> bool:
    """Return whether `dvc.lock` says that a stage produced exactly this file or folder."""
    return lock.get(stage_name, {}).get("outs", {}).get(path) == digest


def trace_lineage(project: Project, lock: Lock, inputs: StageInputs) -> Lineage:
    """Follow the data of a stage through `dvc.lock`, as far as the hashes agree."""
    data, parameters = dict(inputs.data), dict(inputs.parameters)
    for stage in _stages_behind(lock, inputs.data):
        data |= stage.data
        parameters |= stage.parameters
    raw = data.get(recorded_path(project, project.raw), "")
    if tree_digest(project.raw) == raw:
        raw_files = file_digests(project.raw)
    else:
        listing = cached_object(project, raw) if raw.endswith(".dir") else None
        intact = listing and file_digest(listing) == raw.removesuffix(".dir")
        raw_files = listed_files(listing) if listing and intact else {}
    folder = "" if project.root == project.repository else recorded_path(project, project.root)
    return Lineage(inputs, data, parameters, raw_files, folder)


def tree_digest(path: Path) -> str:
    """Return DVC's hash of a file or a folder; `missing` if it is not there."""
    if path.is_dir():
        listing = [{"md5": digest, "relpath": name} for name, digest in file_digests(path).items()]
        return content_digest(json.dumps(listing, sort_keys=True).encode()) + ".dir"
    return known_digest(path) if path.is_file() else "missing"


def _stages_behind(lock: Lock, data: Mapping[str, str]) -> Iterator[StageInputs]:
    """Yield the stages that produced the data, the last one first."""
    for stage in lock:
        inputs = recorded_inputs(lock, stage)
        if inputs and any(produced(lock, stage, path, digest) for path, digest in data.items()):
            yield inputs
            yield from _stages_behind(lock, inputs.data)


def file_digests(folder: Path) -> dict[str, str]:
    """Return the MD5 of each file by its relative path, without what running code writes (see `.dvcignore`)."""
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    ours = (name for name in names if "__pycache__" not in name.split("/") and not name.endswith(".pyc"))
    return {name: known_digest(folder / name) for name in ours}


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
