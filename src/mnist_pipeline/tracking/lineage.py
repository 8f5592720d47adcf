"""Where a run comes from: commit, data, environment, machine."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from mnist_pipeline.files import file_digest
from mnist_pipeline.project import Project

PACKAGES = ("tensorflow", "keras", "mlflow", "dvc", "numpy")
"""Whose versions are recorded with each run."""


def code_state(root: Path) -> dict[str, str]:
    """Return the git commit, the branch and whether tracked files were changed; `no commit` in a copy without git."""
    # Inside somebody else's repository, HEAD says nothing about us.
    commit = _git(root, "rev-parse", "HEAD") if _git(root, "ls-files", "params.yaml") else ""
    if not commit:
        return {"git_commit": "no commit"}
    return {
        "mlflow.source.git.commit": commit,
        "git_commit": commit,
        "git_branch": _git(root, "rev-parse", "--abbrev-ref", "HEAD"),
        "git_dirty": str(bool(_git(root, "status", "--porcelain", "--untracked-files=no"))).lower(),
    }


def code_diff(root: Path) -> str:
    """Return what the tracked files of the project differ by from the commit, as a patch; empty if they do not."""
    return _git(root, "diff", "HEAD", "--", ".", ":(exclude)dvc.lock")


def lineage_tags(project: Project) -> dict[str, str]:
    """Return the tags that every run carries."""
    tags = {
        **code_state(project.root),
        "python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "machine": platform.processor() or platform.machine(),
    }
    if project.lock.is_file():
        tags["environment_lock_md5"] = file_digest(project.lock)
    for variable, tag in (("DVC_EXP_NAME", "dvc_experiment"), ("DVC_EXP_BASELINE_REV", "dvc_baseline")):
        if value := os.environ.get(variable):
            tags[tag] = value
    return tags


def _git(root: Path, *arguments: str) -> str:
    """Return what git prints, or nothing where there is no git, no repository or no commit yet."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
