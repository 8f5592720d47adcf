"""Finding again what a run names by its hash: data in the workspace or in DVC's cache, code in git."""

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from mnist_pipeline.files import file_digest
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.git import apply_patch, git, path_from_top, top_folder
from mnist_pipeline.tracking.inputs import listing_digest, object_path, read_listing
from mnist_pipeline.tracking.pipeline import base_folder

State = Literal["verified", "changed", "missing"]


@dataclass(frozen=True)
class Evidence:
    """What became of a search."""

    state: State
    where: str
    """In words."""
    path: Path | None = None
    """What was found."""


def find_data(project: Project, path: str, digest: str) -> Evidence:
    """Look for a file or folder with this DVC hash, first in the workspace, then in DVC's cache; read all of it."""
    here = base_folder(project) / path
    if _has_digest(here, digest):
        return Evidence("verified", "in the workspace", here)
    cached = object_path(dvc_cache(project), digest)
    if not cached.exists():
        return Evidence("changed", "other content in the workspace") if here.exists() else Evidence("missing", "")
    if _object_is_intact(dvc_cache(project), digest):
        return Evidence("verified", "in DVC's cache", cached)
    return Evidence("changed", "damaged in DVC's cache", cached)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def dvc_cache(project: Project) -> Path:
    """Return the folder of DVC's cache, wherever DVC's configuration has it."""
    named = (_dvc(project, "cache", "dir") or "").strip()
    return Path(named) if named else project.home / ".dvc" / "cache"


def fetch_data(project: Project, digest: str, target: Path) -> Evidence:
    """Fetch the file with this DVC hash from the first of DVC's remotes that has it, to `target`."""
    for line in (_dvc(project, "remote", "list") or "").splitlines():
        remote = line.split()[0]
        address = f"remote://{remote}/{object_path(Path(), digest).as_posix()}"
        if _dvc(project, "get-url", "--force", address, str(target)) is not None and _has_digest(target, digest):
            return Evidence("verified", f"on DVC's remote {remote}", target)
    return Evidence("missing", "")


def _dvc(project: Project, *arguments: str) -> str | None:
    """Return what DVC prints, or None if it fails, or there is none."""
    if not (project.home / ".dvc").is_dir():
        return None
    try:
        done = subprocess.run(
            ["dvc", *arguments], cwd=project.home, capture_output=True, text=True, check=False, timeout=600
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout if done.returncode == 0 else None


def rebuild_code(root: Path, commit: str, diff: Path | None, code: Mapping[str, str]) -> Evidence:
    """Take the files of a commit with a patch on top, and compare their MD5 with those in `code`, by path.

    It happens in a copy of git's index: neither the workspace nor the repository changes.
    """
    if not commit or git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        return Evidence("missing", "the commit is not in this repository")
    with tempfile.TemporaryDirectory() as folder:
        objects = (git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects") or "").strip()
        top, prefix = top_folder(root), path_from_top(root)
        (Path(folder) / "objects").mkdir()
        own = {
            "GIT_INDEX_FILE": f"{folder}/index",
            "GIT_OBJECT_DIRECTORY": f"{folder}/objects",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects,
        }
        tree = Path(folder) / "tree"
        git(top, "read-tree", commit, environment=own)
        if diff is not None and not apply_patch(top, diff, "--cached", environment=own):
            return Evidence("changed", "the recorded diff does not apply to the commit", root)
        names = "\0".join((prefix / path).as_posix() for path in code)
        git(top, "checkout-index", "-z", "--stdin", f"--prefix={tree}/", environment=own, text=names)
        other = [path for path, digest in code.items() if not _has_digest(tree / prefix / path, digest)]
    if other:
        return Evidence("changed", f"commit and diff give another {', '.join(other)}", root)
    return Evidence("verified", "from the commit" + (" and the diff" if diff else ""), root)


def _has_digest(path: Path, digest: str) -> bool:
    if path.is_dir():
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return listing_digest({file.relative_to(path).as_posix(): file_digest(file) for file in files}) == digest
    return path.is_file() and file_digest(path) == digest


def _object_is_intact(cache_folder: Path, digest: str) -> bool:
    """Return whether an object of DVC's cache, and those it lists if it is a folder, have the content of their name."""
    path = object_path(cache_folder, digest)
    if not path.is_file() or file_digest(path) != digest.removesuffix(".dir"):
        return False
    listed = read_listing(path).values() if digest.endswith(".dir") else ()
    return all(_object_is_intact(cache_folder, each) for each in listed)
