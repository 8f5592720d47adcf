"""Reading `dvc.yaml` and `dvc.lock`: what the stages of a pipeline are, and what DVC knows of their last run.

Files are named from the top folder of the repository, so that the pipelines at the root and in `baselines/` speak of
the same file by the same name.

The two files are read here and not by DVC's own `Repo`, for which 0.6 s were measured against 0.07 s, and which knows
the models in the matrix alone, while any entry of `models` can be trained by hand, with any seed.
"""

import json
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_yaml, reading

if TYPE_CHECKING:
    from dvc.repo import Repo

Lock = Mapping[str, Mapping[str, Any]]
"""The stages of `dvc.lock`, by name: `cmd`, `params` (of params.yaml, by dotted key), `deps` and `outs` (by path)."""


def recorded_path(project: Project, path: Path) -> str:
    """Return what a file is called in a record, from the top of the repository; a relative path starts at `root`.

    One outside of the repository, as a folder of pictures may be, keeps its absolute path.
    """
    absolute, top = Path(os.path.normpath(project.root / path)), project.repository
    return (absolute.relative_to(top) if absolute.is_relative_to(top) else absolute).as_posix()


def stage_of(project: Project, stage: str, model: ModelId) -> str:
    """Return what DVC calls a stage of one model: `train@cnn`, or `train@cnn-0` where seeds are in the matrix."""
    with _pipeline(project) as stages:
        has_seeds = "seed" in stages.get(stage, {}).get("matrix", {})
    return f"{stage}@{model.entry}-{model.seed}" if has_seeds else f"{stage}@{model.entry}"


def stage_entry(project: Project, stage: str, model: ModelId) -> dict[str, Any] | None:
    """Return cmd, deps and params of a stage in `dvc.yaml`, filled in for a model, also one that is not in the matrix.

    None if there is no such stage, or if its matrix has seeds and the model has none.
    """
    with _pipeline(project) as stages:
        if (template := stages.get(stage)) is None:
            return None
        has_seeds = "seed" in template.get("matrix", {})
        if has_seeds and model.seed is None:
            return None
        text = json.dumps(template).replace("${item.model}", model.entry).replace("${item.seed}", str(model.seed))
        entry = json.loads(text)
        return {
            "cmd": entry["cmd"] + ("" if model.seed is None or has_seeds else f" --seed {model.seed}"),
            "deps": sorted(map(str, entry.get("deps", []))),
            "params": [key for key in entry.get("params", []) if isinstance(key, str)],  # the others have another file
        }


def read_lock(project: Project) -> Lock:
    """Return the stages of `dvc.lock`, and of that at the top of the repository, where the data come from."""
    lock: dict[str, Mapping[str, Any]] = {}
    for folder in (project.top, project.root):
        file = folder / "dvc.lock"
        with reading(file, "delete it and run `dvc repro`"):
            for name, entry in _stages(file).items():
                lock[name] = {"cmd": entry["cmd"], "params": dict(entry.get("params", {}).get("params.yaml", {}))} | {
                    role: {recorded_path(project, folder / item["path"]): item["md5"] for item in entry.get(role, [])}
                    for role in ("deps", "outs")
                }
    return lock


def make_ready(project: Project) -> str:
    """Check that DVC can start: read its files, and remove its list of locks if a full disk has cut that off.

    Returns:
        What was done, in a sentence; empty if all is well.

    Raises:
        UserError: `dvc.yaml` or `dvc.lock` cannot be used, or DVC is running with the list that is cut off.
    """
    read_lock(project)
    with _pipeline(project):
        pass
    path = project.home / ".dvc" / "tmp" / "rwlock"
    with suppress(ValueError):
        json.loads(path.read_bytes() if path.is_file() else b"{}")
        return ""
    for process in psutil.process_iter(["cmdline", "cwd"]):
        program = {Path(word).name for word in (process.info["cmdline"] or ())[:3]}
        if program & {"dvc", "dvc.exe"} and Path(process.info["cwd"] or "/").is_relative_to(project.home):
            raise UserError(f"{path} is cut off while DVC is running (process {process.pid}): end that one first.")
    path.unlink()
    return f"{path} was cut off, as by a full disk, and DVC would not start any more: it is removed."


@contextmanager
def open_dvc(project: Project) -> "Generator[Repo | None]":
    """Open DVC's cache and remotes; None in a copy of the project without DVC."""
    from dvc.repo import Repo

    if not (project.home / ".dvc").is_dir():
        yield None
        return
    with Repo(str(project.home), uninitialized=True) as repo:  # uninitialized: also in a copy without git
        yield repo


def cached_object(project: Project, digest: str) -> Path | None:
    """Return where DVC's cache, wherever its configuration has it, keeps what has this hash; None if it does not."""
    with open_dvc(project) as dvc:
        path = Path(dvc.cache.local.oid_to_path(digest)) if dvc else None
    return path if path and path.is_file() else None


def listed_files(listing: Path) -> dict[str, str]:
    """Return the files of a folder by the list of them in DVC's cache, MD5 by relative path."""
    return {entry["relpath"]: entry["md5"] for entry in json.loads(listing.read_text(encoding="utf-8"))}


@contextmanager
def _pipeline(project: Project) -> Generator[Mapping[str, Any]]:
    """Yield the stages of `dvc.yaml`, by name."""
    file = project.root / "dvc.yaml"
    with reading(file):
        yield _stages(file)


def _stages(file: Path) -> Mapping[str, Any]:
    return read_yaml(file)["stages"] if file.is_file() else {}
