"""Where a run comes from: commit, uncommitted changes, environment, machine."""

import os
import platform
import re
import runpy
import shutil
import tempfile
from importlib.metadata import distribution, version
from pathlib import Path

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.git import git
from mnist_pipeline.provenance.redaction import redact

SOURCES = ("*.py", "*.yaml", "*.yml", "*.toml", "*.cfg", "*.lock", "*.sh", "*.json")
"""Files that belong to a recorded diff also when git does not track them yet; ignored ones never do."""
MAX_DIFF = 1_000_000
"""Most characters of a recorded diff; files that do not fit in are left out, and named on top of it."""
OURS = (".", ":(exclude,glob)**/dvc.lock", ":(exclude,glob)**/reports/**")
"""The project, without the files that stages write."""
LEFT_OUT = "Left out, because the diff is longer than "
"""Beginning of a line that names such a file."""
NO_COMMIT = "no commit"
"""In place of a commit in a copy without git."""
UNKNOWN = "unknown commit"
"""In place of the commit of a restored run whose code is not the one at hand."""


def environment(project: Project) -> dict[str, str]:
    """Return the lock, the versions and the machine that a training runs with."""
    return {
        **lock_digest(project),
        "python": platform.python_version(),
        **{package: version(package) for package in ("tensorflow", "keras", "mlflow", "dvc", "numpy")},
        "cuda": cuda_version(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
    }


def lock_digest(project: Project) -> dict[str, str]:
    """Return the MD5 of the lock, as `lock_md5`, if there is one."""
    return {"lock_md5": file_digest(project.lock)} if project.lock.is_file() else {}


def experiment_tags() -> dict[str, str]:
    """Return the DVC experiment that this process runs in, and its baseline; nothing outside of one."""
    variables = {"dvc_experiment": "DVC_EXP_NAME", "dvc_baseline": "DVC_EXP_BASELINE_REV"}
    return {tag: os.environ[variable] for tag, variable in variables.items() if os.environ.get(variable)}


def code_tags(project: Project, diff: str) -> dict[str, str]:
    """Return the commit (or `no commit`), the branch, and whether anything is uncommitted, by what `code_diff` says."""
    root = project.repository
    # Inside somebody else's repository, HEAD says nothing about us.
    commit = git(root, "rev-parse", "HEAD") if git(project.top, "ls-files", "params.yaml") else None
    if not commit:
        return {"git_commit": NO_COMMIT}
    return {
        "mlflow.source.git.commit": commit.strip(),
        "mlflow.source.git.branch": (git(root, "rev-parse", "--abbrev-ref", "HEAD") or "").strip(),
        "git_commit": commit.strip(),
        "git_dirty": str(bool(diff)).lower(),
    }


def code_diff(root: Path) -> str:
    """Return what the project's sources differ by from the commit, as a patch for `git apply`; empty if they do not.

    Source files that git does not track are in it as new files. Secrets in addresses are redacted.
    """
    listed = git(root, "ls-files", "-z", "--others", "--exclude-standard", "--", *SOURCES, *OURS[1:]) or ""
    with tempfile.TemporaryDirectory() as folder:
        environment: dict[str, str] = {}
        index = Path((git(root, "rev-parse", "--absolute-git-dir") or "").strip()) / "index"
        # A repository has none before the first `git add`.
        if (untracked := listed.split("\0")[:-1]) and index.is_file():
            # In a copy of the index, so that the user's own stays as it is; with its time, or git would overlook files
            # that changed right after the commit.
            environment = {"GIT_INDEX_FILE": str(shutil.copy2(index, folder))}
            git(root, "add", "--intent-to-add", "--", *untracked, environment=environment)
        form = (
            "--binary", "--no-relative", "--no-color", "--no-ext-diff", "--no-textconv",
            "--src-prefix=a/", "--dst-prefix=b/",
        )  # fmt: skip
        diff = git(root, "diff", *form, "HEAD", "--", *OURS, environment=environment) or ""
    return cut_diff(redact(diff), MAX_DIFF)


def cut_diff(diff: str, limit: int) -> str:
    """Leave out of a patch the files that do not fit into `limit` characters, and say so on top of it.

    Whole files, so that the rest can be applied; `git apply` skips the lines before the first file.
    """
    if len(diff) <= limit:
        return diff
    mark = "diff --git "
    kept, left_out, left = "", "", limit
    for file in (mark + part for part in diff.removeprefix(mark).split(f"\n{mark}")):
        if len(file) < left:
            kept, left = kept + file.rstrip("\n") + "\n", left - len(file) - 1
        else:
            left_out += f"{LEFT_OUT}{limit:,} characters: {file.splitlines()[0]}\n"
    return left_out + kept


def cpu_model() -> str:
    """Return the name of the processor, as the operating system gives it."""
    return _cpuinfo("model name") or platform.processor() or platform.machine()


def cpu_flags() -> list[str]:
    """Return the processor's sets of instructions, such as `avx512f`; none but on Linux."""
    return _cpuinfo("flags").split()


def _cpuinfo(key: str) -> str:
    """Return what Linux says of the first core; empty if it does not, or is another system."""
    file = Path("/proc/cpuinfo")
    found = re.search(rf"^{key}\s*:\s*(.+)", file.read_text("utf-8", "replace"), re.M) if file.is_file() else None
    return found[1] if found else ""


def cuda_version() -> str:
    """Return the version of CUDA that TensorFlow was built for, or `none`; TensorFlow is not imported for it."""
    build = Path(str(distribution("tensorflow").locate_file("tensorflow/python/platform/build_info.py")))
    info = runpy.run_path(str(build))["build_info"] if build.is_file() else {}
    return str(info.get("cuda_version") or "none")
