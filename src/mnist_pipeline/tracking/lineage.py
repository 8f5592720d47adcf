"""Where a run comes from: commit, uncommitted changes, environment, machine."""

import os
import platform
import runpy
import shutil
import tempfile
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from mnist_pipeline.files import file_digest
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.git import git
from mnist_pipeline.tracking.pipeline import base_folder
from mnist_pipeline.tracking.redaction import redact

PACKAGES = ("tensorflow", "keras", "mlflow", "dvc", "numpy")
"""Whose versions are recorded with each run."""
SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "*.cfg", "*.lock", "*.sh", "*.json")
"""Files that belong to a recorded diff also when git does not track them yet; ignored ones never do."""
MAX_DIFF = 1_000_000
"""Characters of a recorded diff; files for which there is no more room are left out, and named on top of it."""
OURS = (".", ":(exclude,glob)**/dvc.lock")
"""The project, without the files that follow from all others."""
LEFT_OUT = "Left out, because the diff is longer than "
"""Beginning of a line that names such a file."""
NO_COMMIT = "no commit"
"""In place of a commit in a copy without git."""
UNKNOWN = "unknown commit"
"""In place of the commit of a restored run whose code is not the one at hand."""


def lineage_tags(project: Project) -> dict[str, str]:
    """Return the tags that every run carries: code, environment, machine, DVC experiment."""
    tags = {
        **code_tags(project),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "cuda": cuda_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
    }
    for variable, tag in (("DVC_EXP_NAME", "dvc_experiment"), ("DVC_EXP_BASELINE_REV", "dvc_baseline")):
        if value := os.environ.get(variable):
            tags[tag] = value
    return tags


def code_tags(project: Project) -> dict[str, str]:
    """Return the state of the code, and the hash of the lock that pins its environment."""
    lock = {"environment_lock_md5": file_digest(project.lock)} if project.lock.is_file() else {}
    return code_state(base_folder(project)) | lock


def code_state(root: Path) -> dict[str, str]:
    """Return the git commit, the branch and whether anything is uncommitted; `no commit` in a copy without git.

    Uncommitted is what `code_diff` shows: changes of tracked files, and source files that git does not track.
    """
    # Inside somebody else's repository, HEAD says nothing about us.
    commit = git(root, "rev-parse", "HEAD") if git(root, "ls-files", "params.yaml") else None
    if not commit:
        return {"git_commit": NO_COMMIT}
    dirty = bool(git(root, "status", "--porcelain", "--untracked-files=no", "--", *OURS) or _untracked(root))
    return {
        "mlflow.source.git.commit": commit.strip(),
        "git_commit": commit.strip(),
        "git_branch": (git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "git_dirty": str(dirty).lower(),
    }


def code_diff(root: Path) -> str:
    """Return what the project's sources differ by from the commit, as a patch for `git apply`; empty if they do not.

    Source files that git does not track are in it as new files. Secrets in addresses are blotted out.
    """
    untracked = _untracked(root)
    with tempfile.TemporaryDirectory() as folder:
        environment: dict[str, str] = {}
        if untracked:
            # In a copy of the index, so that the user's own stays as it is.
            index = Path((git(root, "rev-parse", "--absolute-git-dir") or "").strip()) / "index"
            environment = {"GIT_INDEX_FILE": str(shutil.copy(index, folder))}
            git(root, "add", "--intent-to-add", "--", *untracked, environment=environment)
        form = (
            "--binary", "--no-relative", "--no-color", "--no-ext-diff", "--no-textconv",
            "--src-prefix=a/", "--dst-prefix=b/",
        )  # fmt: skip
        diff = git(root, "diff", *form, "HEAD", "--", *OURS, environment=environment) or ""
    return cut_diff(redact(diff), MAX_DIFF)


def cut_diff(diff: str, limit: int) -> str:
    """Leave out of a patch the files for which there is no room in `limit` characters, and say so on top of it.

    Whole files, so that the rest can be applied; `git apply` skips the lines before the first file.
    """
    if len(diff) <= limit:
        return diff
    mark = "diff --git "
    kept, left_out, room = "", "", limit
    for file in (mark + part for part in diff.removeprefix(mark).split(f"\n{mark}")):
        if len(file) < room:
            kept, room = kept + file.rstrip("\n") + "\n", room - len(file) - 1
        else:
            left_out += f"{LEFT_OUT}{limit:,} characters: {file.splitlines()[0]}\n"
    return left_out + kept


def cpu_model() -> str:
    """Return the name of the processor, as the operating system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def cuda_version() -> str:
    """Return the version of CUDA that TensorFlow was built for, or `none`; TensorFlow is not imported for it."""
    package = find_spec("tensorflow")
    for folder in package.submodule_search_locations or () if package else ():
        path = Path(folder) / "python" / "platform" / "build_info.py"
        if path.is_file():
            return str(runpy.run_path(str(path))["build_info"].get("cuda_version") or "none")
    return "none"


def _untracked(root: Path) -> list[str]:
    """Return the source files that git neither tracks nor ignores."""
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES, *OURS[1:])
    return [name for name in (listed or "").split("\0") if name]
