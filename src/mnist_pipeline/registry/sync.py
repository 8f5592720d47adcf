"""Making the registry agree with the workspace: no version without its model, its card and a record of its images."""

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest, known_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import load_train, train_file
from mnist_pipeline.provenance.inputs import tree_digest
from mnist_pipeline.provenance.pipeline import recorded_path
from mnist_pipeline.provenance.search import find_data
from mnist_pipeline.registry.candidate import RECORDS, log_records, read_best, read_candidate, write_card
from mnist_pipeline.registry.contest import TRAINED_ON, trained_on
from mnist_pipeline.registry.registry import CHAMPION, Registry, Version
from mnist_pipeline.tracking.logged_model import is_whole, upload
from mnist_pipeline.tracking.store import download, open_store
from mnist_pipeline.tracking.sync import Agreement

if TYPE_CHECKING:
    from mnist_pipeline.training.params import Params

THE_MODEL = "the model"


def sync_versions(project: Project, params: "Params", found: Agreement) -> None:
    """Restore what the registered versions have lost, and add to `found` what that came to.

    A model comes from the workspace or from DVC's cache, by its MD5, everything else from the workspace.
    """
    registry = Registry(open_store(project))
    for version in registry.versions():
        lacking = [name for name in (THE_MODEL, *RECORDS) if _lacks(registry, version, name)]
        restored = [name for name in lacking if _restore(project, params, registry, version, name)]
        lost = [name for name in lacking if name not in restored]
        about = f"version {version.number} ({version.model})"
        if restored:
            found.restored.append(f"{about}: the store had lost or damaged {', '.join(restored)}; restored")
        if lost:
            found.lost.append(
                f"{about}: the store has lost {', '.join(lost)}, which neither the workspace nor DVC's cache can "
                "replace: `dvc fetch --all-commits` and sync again if a remote has the model, or delete the version in "
                "MLflow."
            )


def lacks_best(project: Project) -> bool:
    """Return whether the registry has no champion, or no version of the model that `reports/best.json` names."""
    if (best := read_best(project)) is None:
        return False
    file = project.model_file(best.model)
    if not file.is_file() or known_digest(file) != best.model_md5:
        return False
    registry = Registry(open_store(project))
    return registry.bearer(CHAMPION) is None or registry.version_of(best.model_md5) is None


def way_out(project: Project) -> str:
    """Say what brings a version into the registry, as the end of a sentence."""
    if lacks_best(project):
        return "run `mnist sync`, which registers the best model of the workspace"
    return "run `mnist register` (or `dvc repro`) first"


def _lacks(registry: Registry, version: Version, name: str) -> bool:
    """Return whether the store has lost or damaged what belongs to a version that `mnist register` made."""
    if name == THE_MODEL:
        return bool(version.digest) and not is_whole(registry.client, version.model_id, version.digest)
    with tempfile.TemporaryDirectory() as folder:
        file = download(f"runs:/{version.run_id}/{name}", Path(folder))
        # Versions of earlier versions of this project do not tell the MD5.
        return file is None or tree_digest(file) != version.tags.get(RECORDS[name], tree_digest(file))


def _restore(project: Project, params: "Params", registry: Registry, version: Version, name: str) -> bool:
    """Restore something that a version lacks; return whether that could be done."""
    from mlflow.exceptions import MlflowException

    try:
        if name == THE_MODEL:
            file = find_data(project, recorded_path(project, project.model_file(version.model)), version.digest)
            if file.state == "verified" and file.path:
                upload(registry.client, version.run_id, version.model_id, file.path)
                return True
            return False
        content = _content(project, params, registry, version, name)
        if content is None or version.tags.get(RECORDS[name], content_digest(content)) != content_digest(content):
            return False
        registry.tag(version, log_records(registry, version.run_id, {name: content}))
    except (UserError, MlflowException):  # the run or the logged model was deleted
        return False
    return True


def _content(project: Project, params: "Params", registry: Registry, version: Version, name: str) -> bytes | None:
    """Return what an artifact of a version would be, if the workspace still has what it was made from."""
    if name == TRAINED_ON:
        is_same = tree_digest(train_file(project.split)) == version.tags.get("train_md5")
        return trained_on(load_train(project.split).images) if is_same else None
    candidate = read_candidate(project, ModelId(version.model))
    run = registry.client.get_run(version.run_id)
    return write_card(project, params, candidate, run).encode() if candidate.digest == version.digest else None
