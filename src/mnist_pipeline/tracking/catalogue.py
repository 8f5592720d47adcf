"""`mnist models` and `mnist rollback`: what is registered, for people."""

from typing import TYPE_CHECKING

from mnist_pipeline.console import console, say
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.registry import CHAMPION, MODEL, Registry, Version, open_registry
from mnist_pipeline.tracking.store import open_store

if TYPE_CHECKING:
    from rich.table import Table

SHORT = 7
"""Digits of a hash that people read."""


def show_models(project: Project) -> None:
    """Print one row per registered version, newest first; `data` is the hash of its training images.

    Raises:
        UserError: nothing is registered yet.
    """
    versions = Registry(open_store(project)).versions()
    if not versions:
        raise UserError("No model is registered yet: run `mnist register` (or `dvc repro`) first.")
    console().print(versions_table(versions))


def versions_table(versions: list[Version]) -> "Table":
    """Return the table that `mnist models` prints."""
    from rich.table import Table

    table = Table(title=f"Versions of models:/{MODEL}", title_justify="left")
    for heading in ("version", "alias", "model", "validation", "test", "data", "commit"):
        table.add_column(heading, justify="right" if heading in ("version", "validation", "test") else "left")
    for version in versions:
        tags = version.tags
        table.add_row(
            version.number,
            "\n".join([*version.aliases, *(["rolled back"] if version.rolled_back else [])]),
            version.model,
            *(_share(tags.get(key)) for key in ("validation_accuracy", "test_accuracy")),
            tags.get("train_md5", "?")[:SHORT],
            _commit(tags.get("git_commit", "?")),
        )
    return table


def rollback(project: Project) -> None:
    """Make the previous champion the champion again, and say so.

    Raises:
        UserError: there is none.
    """
    with open_registry(project) as registry:
        left, back = registry.rollback()
    undone = "; the earlier rollback is taken back" if back.rolled_back else ""
    say(
        f"models:/{MODEL}@{CHAMPION} is version {back.number} ({back.model}) again, instead of version {left.number} "
        f"({left.model}){undone}. `mnist rollback` once more would undo this."
    )


def _share(value: str | None) -> str:
    return f"{float(value):.2%}" if value else "-"


def _commit(commit: str) -> str:
    return commit if commit == "no commit" else commit[:SHORT]
