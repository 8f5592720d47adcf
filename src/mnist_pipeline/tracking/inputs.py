"""What decided a stage's outputs, as DVC sees it: its command, the hashes of its dependencies, its parameters.

The same record can be taken from the files of the workspace, which a running stage does, and from `dvc.lock`, which
tells of stages that ran long ago, elsewhere, or not at all because DVC had their outputs in its cache. Where nothing
was edited in between, both have the same key.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mnist_pipeline.files import known_digest
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.pipeline import Lock, base_folder, load_yaml, recorded_path, stage_entry

CODE = "src"
"""The folder that code is in; all other dependencies are data."""
MISSING = "missing"
"""In place of the hash of a file that is not there."""


@dataclass(frozen=True)
class StageInputs:
    """Everything that DVC compares to decide whether a stage has to run."""

    stage: str
    """Such as `train@cnn`."""
    command: str
    """The same on every host."""
    dependencies: Mapping[str, str]
    """DVC's hashes, by path."""
    parameters: Mapping[str, Any]
    """Values, by dotted key of `params.yaml`."""

    @property
    def key(self) -> str:
        """Return what identifies these inputs: equal inputs have equal keys, on any machine."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def code(self) -> dict[str, str]:
        """Return the dependencies on code."""
        return {path: digest for path, digest in self.dependencies.items() if CODE in Path(path).parts}

    @property
    def data(self) -> dict[str, str]:
        """Return the dependencies on data."""
        return {path: digest for path, digest in self.dependencies.items() if CODE not in Path(path).parts}


@dataclass(frozen=True)
class Trace:
    """A stage's inputs and all that they were made from, as far as `dvc.lock` knows: the artifact `lineage.json`."""

    inputs: StageInputs
    data: Mapping[str, str]
    """DVC's hashes of all data on the way, by path, back to the raw files."""
    parameters: Mapping[str, Any]
    """Of the stage and of those before it."""
    raw_files: Mapping[str, str]
    """MD5 of each raw file, by name."""

    @property
    def folder(self) -> Path:
        """Where the pipeline is, from the top of its copy of the repository: `baselines/tf_mlp`, or nothing."""
        files = (Path(path) for path in self.inputs.data if in_room(path, "split"))
        return next((file.parents[2] for file in files), Path())

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote."""
        content = json.loads(text)
        return cls(**content | {"inputs": StageInputs(**content["inputs"])})

    def to_json(self) -> str:
        """Return the trace as indented JSON."""
        return json.dumps(asdict(self), indent=2)

    def tags(self) -> dict[str, str]:
        """Return what runs are searched by: the key, and the hash of each piece of data."""
        return {"inputs_key": self.inputs.key, **{f"dvc.{path}": digest for path, digest in self.data.items()}}


def recorded_inputs(lock: Lock, stage: str) -> StageInputs | None:
    """Return the inputs of a stage by `dvc.lock`: of the run that made its outputs; None if there was none."""
    if (entry := lock.get(stage)) is None:
        return None
    return StageInputs(stage, entry["cmd"], _hashes(entry, "deps"), entry.get("params", {}).get("params.yaml", {}))


def present_inputs(project: Project, stage: str) -> StageInputs | None:
    """Return the inputs of a stage by `dvc.yaml` and the files as they are now; None if there is no such stage."""
    if (entry := stage_entry(project, stage)) is None:
        return None
    dependencies = {recorded_path(project, Path(path)): project.root / path for path in entry.get("deps", [])}
    return StageInputs(
        stage,
        entry["cmd"],
        {path: tree_digest(dependencies[path]) for path in sorted(dependencies)},
        parameters_in(project.params, entry.get("params", [])),
    )


def parameters_in(path: Path, keys: Sequence[str]) -> dict[str, Any]:
    """Return the values of a params.yaml by dotted key; keys that are not in it are left out."""
    values = load_yaml(path)
    return {key: value for key in keys if (value := _value(values, key)) is not None}


def made(project: Project, lock: Lock, stage: str, path: str, digest: str) -> bool:
    """Return whether `dvc.lock` vouches that a stage made exactly this file, alone or in a folder."""
    outs = _hashes(lock.get(stage, {}), "outs")
    if path in outs:
        return outs[path] == digest
    folder = next((out for out in outs if path.startswith(f"{out}/")), None)
    return folder is not None and _files_of(project, folder, outs[folder]).get(path[len(folder) + 1 :]) == digest


def trace(project: Project, lock: Lock, inputs: StageInputs) -> Trace:
    """Follow the data of a stage through `dvc.lock`, as far as the hashes agree."""
    data, parameters = dict(inputs.data), dict(inputs.parameters)
    for stage in _stages_behind(project, lock, inputs.data):
        data |= stage.data
        parameters |= stage.parameters
    raw = next((path for path in data if in_room(path, "raw")), None)
    return Trace(inputs, data, parameters, _files_of(project, raw, data[raw]) if raw else {})


def in_room(path: str, room: str) -> bool:
    """Return whether a recorded path is that of a room of some project's data, such as `split`, or lies in it."""
    return f"/data/{room}/" in f"/{path}/"


def tree_digest(path: Path) -> str:
    """Return DVC's hash of a file or a folder."""
    if path.is_dir():
        return listing_digest({file.relative_to(path).as_posix(): known_digest(file) for file in _files(path)})
    return known_digest(path) if path.is_file() else MISSING


def listing_digest(files: Mapping[str, str]) -> str:
    """Return DVC's hash of a folder with these files, MD5 by relative path."""
    listing = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return hashlib.md5(json.dumps(listing, sort_keys=True).encode(), usedforsecurity=False).hexdigest() + ".dir"


def read_listing(path: Path) -> dict[str, str]:
    """Return the files of a folder by the listing of it in DVC's cache, MD5 by relative path."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(path.read_text(encoding="utf-8"))}


def object_path(cache: Path, digest: str) -> Path:
    """Return where DVC's cache keeps what has this hash."""
    return cache / "files" / "md5" / digest[:2] / digest[2:]


def _stages_behind(project: Project, lock: Lock, data: Mapping[str, str]) -> Iterator[StageInputs]:
    """Yield the stages that made the data, the last one first."""
    for stage in lock:
        if any(made(project, lock, stage, path, digest) for path, digest in data.items()):
            inputs = recorded_inputs(lock, stage)
            if inputs is not None:
                yield inputs
                yield from _stages_behind(project, lock, inputs.data)


def _files_of(project: Project, path: str, digest: str) -> dict[str, str]:
    """Return the MD5 of each file of a folder: from DVC's listing of them, or from the files themselves."""
    listing, folder = object_path(project.home / ".dvc" / "cache", digest), base_folder(project) / path
    if listing.is_file() and digest.endswith(".dir"):
        return read_listing(listing)
    if folder.is_dir() and tree_digest(folder) == digest:
        return {file.relative_to(folder).as_posix(): known_digest(file) for file in _files(folder)}
    return {}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def _hashes(entry: Mapping[str, Any], role: str) -> dict[str, str]:
    return {item["path"]: item["md5"] for item in sorted(entry.get(role, []), key=lambda item: item["path"])}


def _value(values: Any, key: str) -> Any:
    for part in key.split("."):
        values = values.get(part) if isinstance(values, Mapping) else None
    return values
