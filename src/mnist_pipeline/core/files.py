"""Writing files so that nobody ever sees half of one."""

import glob
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import psutil

from mnist_pipeline.core.errors import UserError


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path` to write to; it takes `path`'s name only if the block succeeds.

    The temporary name keeps the suffix, because Keras and matplotlib choose the format by it. Missing parent folders
    are created. If the block raises, the temporary file is removed and whatever stood at `path` is untouched; what a
    killed process left of an earlier attempt is removed by the next.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(path)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-{os.getpid()}-", dir=path.parent) as folder:
        temporary = Path(folder) / path.name
        yield temporary
        temporary.replace(path)


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary folders beside `path` whose process is not alive."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}-*-*"):
        process = folder.name.removeprefix(f".{path.name}-").partition("-")[0]
        if process.isdigit() and not psutil.pid_exists(int(process)):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, atomically, with its keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read_json(path: Path, made_by: str) -> dict[str, Any]:
    """Read the JSON object in `path`.

    Raises:
        UserError: the file is missing or is not JSON; the message names `made_by`, the command that writes it.
    """
    try:
        return json.loads(require(path, made_by).read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}): delete it and run `{made_by}` again.") from error


def require(path: Path, made_by: str) -> Path:
    """Return `path` if it exists.

    Raises:
        UserError: it does not; the message names `made_by`, the command that writes it.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: run `{made_by}` (or `dvc repro`) first.")
    return path


def file_digest(path: Path) -> str:
    """Return the MD5 of a file's bytes: what DVC calls its hash."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def known_digest(path: Path) -> str:
    """Return `file_digest(path)`, reading a file only once in a process while its size and time of change stay."""
    status = path.stat()
    return _digest_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_of(path: Path, *identity: int) -> str:
    del identity  # is only the key
    return file_digest(path)
