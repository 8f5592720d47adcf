"""Running git."""

import os
import shutil
import subprocess
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mnist_pipeline.core.errors import UserError


def git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> str | None:
    """Return what a git command prints in `folder`, with more variables set; None if it fails, or there is no git."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


@contextmanager
def checked_out(folder: Path, commit: str, place: Path) -> Generator[Path]:
    """Yield where a folder of a repository is as it was in a commit, in a temporary worktree at `place`, a new folder.

    Nothing is there if the repository does not have the commit; afterwards git knows nothing of the worktree.

    Raises:
        UserError: git cannot do it.
    """
    if not commit or git(folder, "cat-file", "-e", f"{commit}^{{commit}}") is None:
        yield place
        return
    # Without hooks: DVC's would check out data, and nobody else's is meant for this.
    quietly = ("-c", f"core.hooksPath={os.devnull}")
    try:
        if git(folder, *quietly, "worktree", "add", "--detach", str(place), commit) is None:
            raise UserError(f"git cannot check commit {commit} out into {place}: is there space?")
        yield place / (git(folder, "rev-parse", "--show-prefix") or "").strip()
    finally:
        if git(folder, "worktree", "remove", "--force", str(place)) is None:
            shutil.rmtree(place, ignore_errors=True)
            git(folder, "worktree", "prune")
