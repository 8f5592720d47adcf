"""Making the registry agree with the workspace: no version without its model, its card and a record of its images."""

import tempfile
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest, known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import load_train, train_file
from mnist_pipeline.provenance.inputs import tree_digest
from mnist_pipeline.provenance.pipeline import recorded_path
from mnist_pipeline.provenance.search import find_data
from mnist_pipeline.registry.candidate import DIGESTS, read_best, read_candidate, write_card
from mnist_pipeline.registry.contest import TRAINED_ON, trained_on
from mnist_pipeline.registry.registry import CHAMPION, Registry, Version
from mnist_pipeline.tracking.artifacts import KEPT_MODEL, Kept, find_model, log_contents, upload
from mnist_pipeline.tracking.sync import Agreement

if TYPE_CHECKING:
    from mnist_pipeline.training.params import Params

WAY_OUT = (
    "neither the workspace nor DVC's cache can replace it: `dvc fetch --all-commits` and `mnist sync --all` if a "
    "remote has the model, or delete the version in MLflow."
)


def sync_versions(project: Project, params: "Params", found: Agreement, *, everything: bool = False) -> None:
    """Restore what registered versions have lost, and add to `found` what that came to.

    These are the versions that bear an alias and those of the models in the workspace, or, to check `everything`, all.
    A model comes from the workspace or from DVC's cache, by its MD5, everything else from the workspace.
    """
    registry = Registry.open(project)
    files = [file for name in params.models if (file := project.model_file(name)).is_file()]
    present = (version for file in files for version in registry.of_file(known_digest(file)))
    chosen = {each.number: each for each in (*registry.borne(), *present)}.values()
    for version in registry.versions() if everything else chosen:
        found.mend(
            f"version {version.number} ({version.model})",
            partial(_lacking, registry, version),
            partial(_restore, project, params, registry, version),
            WAY_OUT,
        )


def lacks_best(project: Project) -> bool:
    """Return whether the registry has no champion, or no version of the model that `reports/best.json` names."""
    if (best := read_best(project)) is None:
        return False
    file = project.model_file(best.model)
    if not file.is_file() or known_digest(file) != best.model_md5:
        return False
    registry = Registry.open(project)
    return not (registry.find(CHAMPION) and registry.of_file(best.model_md5))


def way_out(project: Project) -> str:
    """Say what brings a version into the registry, as the end of a sentence."""
    if lacks_best(project):
        return "run `mnist sync`, which registers the best model of the workspace"
    return "run `mnist register` (or `dvc repro`) first"


def find_version(project: Project, registry: Registry, reference: str) -> Version:
    """Find a version as `Registry.find` does; a UserError says that there is none, and the way out."""
    if version := registry.find(reference):
        return version
    there = "`mnist models` lists those that there are" if registry.versions(newest=1) else way_out(project)
    wanted = reference.removeprefix(f"models:/{registry.name}").lstrip("@/")
    raise UserError(f"There is no version {wanted} of models:/{registry.name}: {there}.")


def _lacking(registry: Registry, version: Version) -> list[str]:
    """Return what the store has lost or damaged of what belongs to a version that `mnist register` made."""
    with tempfile.TemporaryDirectory() as folder:
        kept = Kept(registry.run_of(version), Path(folder))
        found = [kept.find(name, version.tags.get(tag)) for name, tag in DIGESTS.items()]
        if version.digest:
            found.insert(0, find_model(version.model_id, version.digest, Path(folder) / "model"))
        return [each.what for each in found if each.state != "verified"]


def _restore(project: Project, params: "Params", registry: Registry, version: Version, lacking: list[str]) -> None:
    """Write what a version lacks again, as far as the workspace or DVC's cache still has what it was made from."""
    from mlflow.exceptions import MlflowException

    for name in lacking:
        with suppress(UserError, MlflowException):  # the run or the logged model was deleted
            if name != KEPT_MODEL:
                content = _content(project, params, registry, version, name)
                if content_digest(content) == version.tags.get(DIGESTS[name], content_digest(content)):
                    log_contents(registry.client, version.run_id, {name: content})
                continue
            path = recorded_path(project, project.model_file(version.model))
            if file := find_data(project, path, version.digest).path:
                upload(registry.client, version.run_id, version.model_id, file)


def _content(project: Project, params: "Params", registry: Registry, version: Version, name: str) -> bytes:
    """Return what an artifact of a version would be; a UserError if the workspace lacks what it was made from."""
    gone = UserError(f"The workspace does not have what {name} of version {version.number} was made from.")
    if name == TRAINED_ON:
        if tree_digest(train_file(project.split)) != version.tags.get("train_md5"):
            raise gone
        return trained_on(load_train(project.split).images)
    candidate, run = read_candidate(project, ModelId(version.model)), registry.client.get_run(version.run_id)
    if candidate.digest != version.digest:
        raise gone
    return write_card(project, params, candidate, run)[1].encode()
