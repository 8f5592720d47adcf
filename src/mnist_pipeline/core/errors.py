"""What users are meant to read: the one error for it, the words for a full disk, the hint for a misspelt name."""

import difflib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_FULL = (
    os.strerror(errno.ENOSPC),
    os.strerror(errno.EDQUOT),
    "database or disk is full",  # SQLite
    "No usable temporary directory",  # Python
)
"""What is said where there is no space left, by whoever wraps it in whatever error."""
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR)
_SPARE = 1 << 26
"""Bytes: a disk with more than that is not the one that is full."""


class UserError(Exception):
    """A mistake or a circumstance that the user can correct.

    The message is one clear sentence: the key or file, the value found, what is allowed and the way out. The command
    line prints it without a traceback and exits with status 1; every other exception is a bug and keeps its traceback.
    """


def explain(error: BaseException) -> str:
    """Return what to tell of an error, if its reader can do something about it; empty for a bug."""
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    if full := [cause for cause in causes if is_full(cause)]:
        named = (cause.filename2 or cause.filename for cause in full if isinstance(cause, OSError) and cause.filename)
        return f"There is no space left for {next(named, None) or _full_place()}: make room, and run the command again."
    if isinstance(error, OSError) and error.errno in _DENIED:
        return f"{error.filename or 'A file'} cannot be written or read: {error.strerror}."
    return str(error) if isinstance(error, UserError) else ""


def is_full(error: BaseException) -> bool:
    """Return whether an error says that there is no space left to write to."""
    return any(words in str(error) for words in _FULL)


def _full_place() -> str:
    folders = [Path.cwd()]
    with suppress(OSError):  # not even for a temporary file
        folders.append(Path(tempfile.gettempdir()))
    free, folder = min((shutil.disk_usage(folder).free, folder) for folder in folders)
    return str(folder) if free < _SPARE else "the MLflow store"


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question after the nearest of the known names, to be put into a sentence; empty if none is near."""
    close = difflib.get_close_matches(name, [*known], n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`? " if close else ""
