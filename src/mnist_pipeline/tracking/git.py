"""Asking git."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path


def git(folder: Path, *arguments: str, environment: Mapping[str, str] | None = None, text: str = "") -> str | None:
    """Return what a git command prints in `folder`; None if it fails, or there is no git.

    Args:
        folder: where it is run.
        arguments: of `git`.
        environment: variables to set for it.
        text: for its standard input.
    """
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            env={**os.environ, **(environment or {})},
            input=text.encode(),
            capture_output=True,
            check=False,
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.decode("utf-8", errors="replace") if done.returncode == 0 else None


def top_folder(folder: Path) -> Path:
    """Return the top of the repository's copy that `folder` lies in."""
    return Path((git(folder, "rev-parse", "--show-toplevel") or "").strip())


def path_from_top(folder: Path) -> Path:
    """Return where in the repository `folder` is."""
    return Path((git(folder, "rev-parse", "--show-prefix") or "").strip())


def apply_patch(folder: Path, patch: Path, *options: str, environment: Mapping[str, str] | None = None) -> bool:
    """Apply a patch to the files of the repository whose top is `folder`; return whether it fits."""
    # Whatever the user's settings are, not a blank of it may change.
    return git(folder, "apply", "--whitespace=nowarn", *options, str(patch), environment=environment) is not None
