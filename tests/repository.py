"""A small project as a git repository, for tests of what is recorded of one."""

import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import open_store

MODULE = "src/mnist_pipeline/training/trainer.py"
"""A module of the training stage."""
IGNORED = "/data/\n/models/\n/mlruns/\n/mlflow.db*\n/.checkpoints/\n__pycache__/\n/ignored.py\n"


def environment(**more: str) -> dict[str, str]:
    """Return what programs are started with: those of this Python environment come first."""
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}", **more}


def run(folder: Path, *command: str, **more: str) -> str:
    """Run a program, with more variables, that has to end well; return what it prints."""
    done = subprocess.run(
        command, cwd=folder, env=environment(**more), capture_output=True, text=True, check=False, timeout=900
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints."""
    return run(folder, "git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments)


def commit(folder: Path) -> None:
    """Commit everything that is not ignored, into a new repository if there is none."""
    if not (folder / ".git").exists():
        (folder / ".gitignore").write_text(IGNORED)
        git(folder, "init", "--quiet", "--initial-branch", "main")
    git(folder, "add", "--all")
    git(folder, "commit", "--quiet", "--message", "a step")


def dvc(folder: Path, *commands: str) -> None:
    """Run DVC's commands in one process, which takes a second or two to start."""
    code = "import sys; from dvc.cli import main; sys.exit(any(main(command.split()) for command in sys.argv[1:]))"
    run(folder, sys.executable, "-c", code, *commands)


@contextmanager
def rewritten(project: Project, run_id: str, old: str, new: str) -> Generator[None]:
    """Let a run have recorded another lineage for a while."""
    (file,) = project.artifacts.rglob(f"{run_id}/artifacts/lineage.json")
    client, text = open_store(project), file.read_text(encoding="utf-8")
    file.write_text(text.replace(old, new), encoding="utf-8")
    client.set_tag(run_id, "lineage_md5", file_digest(file))
    try:
        yield
    finally:
        file.write_text(text, encoding="utf-8")
        client.set_tag(run_id, "lineage_md5", file_digest(file))
