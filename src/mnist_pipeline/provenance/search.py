"""Finding data again by their hash: in the workspace, in DVC's cache, on DVC's remotes."""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.inputs import tree_digest
from mnist_pipeline.provenance.pipeline import cached_object, listed_files, open_dvc

State = Literal["verified", "changed", "missing"]
"""Found with the recorded content, found with another one, not found."""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked for, such as a step on the way back from a run."""

    what: str
    """What is looked for, such as a path."""
    state: State
    """Whether it was found, and with the recorded content."""
    recorded: str = ""
    """What is known about it, such as its hash."""
    found: str = ""
    """Where it was found, or what is wrong with it, in words."""
    path: Path | None = None
    """The file or folder that was found."""
    parts: tuple["Finding", ...] = ()
    """What it consists of."""
    is_needed: bool = True
    """Whether the training cannot be repeated without it."""

    def all(self) -> "Iterator[Finding]":
        """Yield it and all its parts."""
        yield self
        for part in self.parts:
            yield from part.all()


def compare(what: str, path: Path, digest: str, verified: str, changed: str, missing: str) -> Finding:
    """Compare a file or folder with its recorded MD5; the last three say in words what came of it."""
    recorded, here = f"md5 {digest}", tree_digest(path)
    if here == digest:
        return Finding(what, "verified", recorded, verified, path)
    return (
        Finding(what, "missing", recorded, missing)
        if here == "missing"
        else Finding(what, "changed", recorded, changed)
    )


def find_data(project: Project, path: str, digest: str, fetch_to: Path | None = None) -> Finding:
    """Look for a file or folder with this DVC hash in the workspace, DVC's cache and its remotes; read all of it.

    The remotes are asked only if `fetch_to` names a file to fetch to. That goes past DVC's cache, because `dvc fetch`
    knows only what the `dvc.lock` of some commit names.
    """
    further = ", nor on a remote of DVC" if fetch_to else ""
    changed = f"other content in the workspace, and not in DVC's cache{further}"
    missing = f"neither in the workspace nor in DVC's cache{further}"
    near = compare(path, project.repository / path, digest, "in the workspace", changed, missing)
    if near.state == "verified":
        return near
    cached = cached_object(project, digest)
    if cached and _is_intact(project, cached, digest):
        return replace(near, state="verified", found="in DVC's cache", path=cached)
    if fetch_to and (remote := _fetch(project, digest, fetch_to)):
        return replace(near, state="verified", found=f"on DVC's remote {remote}", path=fetch_to)
    return replace(near, state="changed", found=f"damaged in DVC's cache{further}") if cached else near


def _fetch(project: Project, digest: str, target: Path) -> str | None:
    """Fetch a file to `target`; return the name of the first of DVC's remotes that has it."""
    with open_dvc(project) as dvc:
        for name in dvc.config["remote"] if dvc else ():
            try:
                remote = dvc.cloud.get_remote_odb(name)
                remote.fs.get(remote.oid_to_path(digest), str(target))
            except Exception:  # noqa: S112 - each kind of storage has its own, and the next may have the file
                continue
            if tree_digest(target) == digest:
                return name
    return None


def copy_data(project: Project, source: Path, digest: str, target: Path) -> None:
    """Copy what `find_data` found; DVC's cache keeps a folder as a list of its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif digest.endswith(".dir"):
        for name, each in listed_files(source).items():
            copy_data(project, cached_object(project, each) or source, each, target / name)
    else:
        shutil.copyfile(source, target)


def _is_intact(project: Project, cached: Path, digest: str) -> bool:
    """Return whether an object of DVC's cache, and those it lists if it is a folder, have the content of their name.

    DVC's own check would delete one that has not.
    """
    if file_digest(cached) != digest.removesuffix(".dir"):
        return False
    listed = listed_files(cached).values() if digest.endswith(".dir") else ()
    objects = {each: cached_object(project, each) for each in listed}
    return all(path and _is_intact(project, path, each) for each, path in objects.items())
