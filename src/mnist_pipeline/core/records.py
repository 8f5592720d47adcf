"""Reading the small files that stages, DVC and people write: whatever is wrong with one is said in one sentence."""

import csv
from collections.abc import Generator
from contextlib import contextmanager
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import require

T = TypeVar("T")


def read_json(path: Path, kind: type[T], made_by: str) -> T:
    """Read a JSON file that holds a `kind`, such as a dataclass, and perhaps other keys.

    Raises:
        UserError: the file is missing or holds something else; the message names `made_by`, the command that writes it.
    """
    with reading(require(path, made_by), _again(made_by)):
        return TypeAdapter(kind).validate_json(path.read_bytes(), strict=True)


def read_table(path: Path, kind: type[T], made_by: str) -> list[T]:
    """Read a CSV file whose columns are the fields of the dataclass `kind`, at least one row.

    Raises:
        UserError: the file is missing or holds something else; the message names `made_by`, the command that writes it.
    """
    row = TypeAdapter(kind)
    with reading(require(path, made_by), _again(made_by)), path.open(encoding="utf-8", newline="") as file:
        rows = [row.validate_python(each) for each in csv.DictReader(file, restkey="")]
        if not rows:
            raise ValueError("it has no rows")
        return rows


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds."""
    return deepcopy(_parse(path.read_bytes()))


@lru_cache(maxsize=8)
def _parse(content: bytes) -> Any:
    # Remembered, because a training reads `params.yaml` and `dvc.lock` 17 times, at 15 to 30 ms each.
    return YAML(typ="safe").load(content)


@contextmanager
def reading(path: Path, way_out: str = "") -> Generator[None]:
    """Turn whatever makes the content of a file unusable into a sentence with the way out.

    Args:
        path: the file that is read inside `with`.
        way_out: what to do about it; by default, what there is to do about a file that people write.

    Raises:
        UserError: the block failed, for another reason than the file system's.
    """
    try:
        yield
    except (OSError, UserError):
        raise
    except Exception as error:  # each parser has its own, and none of them is a bug of ours
        if b"\n<<<<<<< " in b"\n" + path.read_bytes():
            raise UserError(
                f"{path} holds both sides of a git merge: keep yours with `git checkout --ours {path}` or the other "
                f"with `git checkout --theirs {path}`, then run `dvc repro`."
            ) from error
        way_out = way_out or f"correct it, or restore it with `git checkout {path.name}`"
        raise UserError(f"{path} cannot be used ({_reason(error)}): {way_out}.") from error


def _again(made_by: str) -> str:
    return f"delete it and run `{made_by}` again, or `dvc repro`"


def _reason(error: Exception) -> str:
    match error:
        case ValidationError():
            first = error.errors()[0]
            words = "is missing" if first["type"] == "missing" else first["msg"].replace("Input should", "must")
            return " ".join([".".join(map(str, first["loc"])), words]).strip()
        case RecursionError():
            return "nested too deeply"
        case KeyError():
            return f"{error} is missing"
        case TypeError() | AttributeError():
            return "another shape than it must have"
        case _:
            return " ".join(str(error).split())
