"""A small project as a git repository, for tests of what is recorded of one."""

import subprocess
import sys
from pathlib import Path

MODULE = "src/mnist_pipeline/training/trainer.py"
"""A module of the training stage."""
IGNORED = "/data/\n/models/\n/mlruns/\n/mlflow.db*\n/.checkpoints/\n__pycache__/\n/ignored.py\n"


def git(folder: Path, *arguments: str) -> str:
    """Return what a git command prints."""
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


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
    subprocess.run([sys.executable, "-c", code, *commands], cwd=folder, capture_output=True, check=True)
