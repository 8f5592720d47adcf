"""Registered versions in the files of other runtimes: for people, and for `mnist serve`."""

from collections.abc import Sequence
from pathlib import Path

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.registry import CHAMPION, Registry
from mnist_pipeline.registry.sync import find_version
from mnist_pipeline.serving.champion import Champion, store_state, write_champion
from mnist_pipeline.serving.export import export, export_and_compare
from mnist_pipeline.serving.formats import NEEDS, SUFFIXES, Format, need
from mnist_pipeline.tracking.store import tracking_uri

EXPORTS = "exports"
"""Folder of a run's artifacts that holds the exports of its model, and the one they are written to by default."""


def export_version(project: Project, reference: str, forms: Sequence[Format], folder: Path | None) -> None:
    """Export a registered version, say how the files compare with Keras, and log them with the version's run.

    Args:
        project: whose version.
        reference: `models:/NAME@champion`, `models:/NAME/3`, or only the alias or the number.
        forms: what to export it as.
        folder: where to; `exports/` of the project by default.

    Raises:
        UserError: there is no such version or its model is lost, a package is missing, or `data/split` is.
    """
    from mlflow.exceptions import MlflowException

    for form in forms:
        need("export", f"`mnist export --format {form}`", *NEEDS[form])
    registry = Registry.open(project)
    version = find_version(project, registry, reference)
    folder = folder or project.home / EXPORTS
    files = {form: folder / f"{registry.name}-{version.number}{SUFFIXES[form]}" for form in forms}
    export_and_compare(project, f"Version {version.number} of models:/{registry.name}", registry.load(version), files)
    for file in files.values():
        say(f"Written: {file}")
        try:
            registry.client.log_artifact(version.run_id, str(file), EXPORTS)
        except MlflowException as error:
            warn(f"{file.name} could not be logged with the run of version {version.number}: {error.message}")


def prepare_champion(project: Project) -> None:
    """Export the champion for `mnist serve`, unless that was done before, and write down who it is.

    Raises:
        UserError: there is no champion, its file is lost, or this version of Keras cannot load it.
    """
    state = store_state(tracking_uri(project))  # before it is asked, so that no change is missed
    registry = Registry.open(project)
    champion = find_version(project, registry, CHAMPION)
    registry.check_classes(champion)
    file = project.serving / f"{champion.digest or champion.model_id}{SUFFIXES[Format.LITERT]}"
    if not file.exists():
        export(registry.load(champion), Format.LITERT, file)
    write_champion(project, Champion(champion.number, champion.digest, file.name, state))
