"""Reading `dvc.yaml` and `dvc.lock`: what the stages of a pipeline are, and what DVC knows of their last run.

A project's `dvc.yaml` lies in its folder or, as in `baselines/`, one above, where several share it and each has its
`wdir`. What is recorded of their stages names all files from the top of the repository.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_pipeline.project import Project

Lock = Mapping[str, Mapping[str, Any]]
"""The stages of `dvc.lock`, by name."""


def base_folder(project: Project) -> Path:
    """Return where recorded paths start: in the project's folder or, if it shares its `dvc.yaml`, in the repository's.

    Not `project.home`, which in a DVC experiment lies in another copy.
    """
    shared = _pipeline_file(project).parent != project.root
    above = (folder for folder in project.root.parents if (folder / ".dvc").is_dir())
    return next(above, project.root) if shared else project.root


def recorded_path(project: Project, path: Path) -> str:
    """Return what a file is called in a record; a relative path is taken from the project's folder."""
    return Path(os.path.normpath(project.root / path)).relative_to(base_folder(project)).as_posix()


def stage_of(project: Project, stage: str, name: str) -> str:
    """Return what DVC calls a stage of one model, such as `train@cnn`."""
    recipe, _, seed = name.rpartition("_seed")
    return f"{stage}@{recipe}-{seed}" if "seed" in _matrix(_stages(project).get(stage, {})) else f"{stage}@{name}"


def stage_entry(project: Project, stage: str) -> Mapping[str, Any] | None:
    """Return the entry of a stage in `dvc.yaml`, its matrix filled in; None if there is no such stage."""
    return _filled(_stages(project), stage)


def read_lock(project: Project) -> Lock:
    """Return the stages of `dvc.lock` that run in the project's folder; none if there is no such file."""
    file = _pipeline_file(project).with_suffix(".lock")
    known, stages = load_yaml(file).get("stages", {}) if file.is_file() else {}, _stages(project)
    folders = {stage: file.parent / (_filled(stages, stage) or {}).get("wdir", ".") for stage in known}
    return {
        stage: {**entry, **{role: _from_base(project, entry.get(role, [])) for role in ("deps", "outs")}}
        for stage, entry in known.items()
        if folders[stage] == project.root
    }


def load_yaml(path: Path) -> dict[str, Any]:
    """Return the content of a YAML file."""
    from ruamel.yaml import YAML

    return YAML(typ="safe").load(path) or {}


def _pipeline_file(project: Project) -> Path:
    own, shared = project.root / "dvc.yaml", project.root.parent / "dvc.yaml"
    return shared if shared.is_file() and not own.is_file() else own


def _stages(project: Project) -> Mapping[str, Any]:
    file = _pipeline_file(project)
    return load_yaml(file).get("stages", {}) if file.is_file() else {}


def _matrix(entry: Mapping[str, Any]) -> list[str]:
    return list(entry.get("matrix", {}))


def _filled(stages: Mapping[str, Any], stage: str) -> dict[str, Any] | None:
    """Return the entry of a stage, with the values that it is named by in their places."""
    template, _, instance = stage.partition("@")
    if template not in stages:
        return None
    keys, text = _matrix(stages[template]), json.dumps(stages[template])
    for key, value in zip(keys, instance.rsplit("-", max(len(keys) - 1, 0)), strict=False):
        text = text.replace(f"${{item.{key}}}", value)
    return json.loads(text)


def _from_base(project: Project, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**item, "path": recorded_path(project, Path(item["path"]))} for item in items]
