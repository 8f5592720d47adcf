"""Writing files so that nobody ever sees half of one."""

import glob
import hashlib
import json
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from mnist_pipeline.core.errors import UserError, is_full
from mnist_pipeline.core.processes import identity, is_alive


@contextmanager
def atomic_path(path: Path) -> Generator[Path]:
    """Yield a temporary path beside `path` to write to; it takes `path`'s name only if the block succeeds.

    The temporary name keeps the suffix, because Keras and matplotlib choose the format by it. Missing parent folders
    are created. If the block raises, the temporary file is removed and whatever stood at `path` is untouched; what a
    killed process left of an earlier attempt is removed by the next.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with tempfile.TemporaryDirectory(prefix=f".{path.name}-{identity()}-", dir=path.parent) as folder:
            temporary = Path(folder) / path.name
            yield temporary
            temporary.replace(path)
    except OSError as error:
        if is_full(error):
            error.filename, error.filename2 = str(path), None  # a write itself names no file
        raise


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary folders beside `path` whose process is not alive."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}-*-*"):
        if not is_alive(folder.name.removeprefix(f".{path.name}-").rpartition("-")[0]):
            shutil.rmtree(folder, ignore_errors=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write `content` as indented JSON, atomically, with its keys in the order given."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


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


def content_digest(content: bytes) -> str:
    """Return the MD5 that a file with this content has."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def known_digest(path: Path) -> str:
    """Return `file_digest(path)`, reading a file only once in a process while its size and time of change stay."""
    status = path.stat()
    return _digest_of(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest_of(path: Path, *identity: int) -> str:
    del identity  # is only the key
    return file_digest(path)
