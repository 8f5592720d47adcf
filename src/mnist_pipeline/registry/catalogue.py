"""What people and commands ask of the registry: its versions, its champion, and the one before it."""

from functools import partial
from typing import TYPE_CHECKING

from mnist_pipeline.core.console import console, say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.registry import CHAMPION, Registry, open_registry
from mnist_pipeline.registry.sync import way_out
from mnist_pipeline.tracking.contents import short_commit

if TYPE_CHECKING:
    import keras

    from mnist_pipeline.serving.demo import Offer

NEWEST = 20
"""Versions without an alias that are printed, unless all are asked for."""


def show_models(project: Project, *, everything: bool = False) -> None:
    """Print one row per registered version, newest first; `data` is the hash of its training images.

    Unless it shall be `everything`, these are the newest and those that bear an alias.

    Raises:
        UserError: nothing is registered yet.
    """
    from rich.table import Table

    registry = Registry.open(project)
    if not (versions := registry.versions() if everything else registry.versions(newest=NEWEST)):
        raise UserError(f"No model is registered yet: {way_out(project)}.")
    if is_cut := len(versions) == NEWEST and not everything:
        versions += (each for each in registry.borne() if int(each.number) < int(versions[-1].number))
    table = Table(title=f"Versions of models:/{registry.name}", title_justify="left")
    for heading in ("version", "alias", "model", "validation", "test", "data", "commit"):
        table.add_column(heading, justify="right" if heading in ("version", "validation", "test") else "left")
    for version in versions:
        tags = version.tags
        table.add_row(
            version.number,
            "\n".join([*version.aliases, *(["rolled back"] if version.rolled_back else [])]),
            version.model,
            *(f"{float(tags[key]):.2%}" if key in tags else "-" for key in ("validation_accuracy", "test_accuracy")),
            tags.get("train_md5", "?")[:7],
            short_commit(tags.get("git_commit", "?")),
        )
    console().print(table)
    if is_cut:
        say(f"The newest {NEWEST} and those with an alias: `mnist models --all` prints all.")


def rollback(project: Project) -> None:
    """Make the previous champion the champion again, and say so.

    Raises:
        UserError: there is none.
    """
    with open_registry(project) as registry:
        if registry.find(CHAMPION) is None:
            raise UserError(f"There is no models:/{registry.name}@{CHAMPION} to roll back: {way_out(project)}.")
        left, back = registry.rollback()
    undone = "; the earlier rollback is taken back" if back.rolled_back else ""
    say(
        f"models:/{registry.name}@{CHAMPION} is version {back.number} ({back.model}) again, instead of version "
        f"{left.number} ({left.model}){undone}. `mnist rollback` once more would undo this."
    )


def offers(project: Project) -> "dict[str, Offer]":
    """Return the versions for the page of `mnist demo`, by number, the champion first.

    Raises:
        UserError: nothing is registered yet.
    """
    from mnist_pipeline.serving.demo import Offer

    registry = Registry.open(project)
    versions = sorted(registry.versions(), key=lambda version: CHAMPION not in version.aliases)
    if not versions:
        raise UserError(f"No model is registered yet: {way_out(project)}.")
    return {
        version.number: Offer(
            f"{', '.join([*version.aliases, f'version {version.number}'])}: {version.model}, "
            f"{float(version.tags.get('test_accuracy', 'nan')):.2%} on test",
            version.model,
            partial(registry.load, version),
        )
        for version in versions
    }


def load_champion(project: Project) -> "keras.Model":
    """Load the registered model that is champion.

    Raises:
        UserError: there is no champion, its file is lost, or this version of Keras cannot load it.
    """
    registry = Registry.open(project)
    if (champion := registry.find(CHAMPION)) is None:
        raise UserError(
            f"There is no models:/{registry.name}@{CHAMPION} yet: {way_out(project)}, or name a trained model with "
            "--model."
        )
    return registry.load(champion)
