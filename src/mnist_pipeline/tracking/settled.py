"""Whether anything has changed since the last `mnist sync`: answered without MLflow, which takes seconds to load."""

import hashlib
import json
from pathlib import Path

from mnist_pipeline.files import atomic_path, file_digest
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.store import experiment_name, tracking_uri

SQLITE = "sqlite:///"


def is_settled(project: Project) -> bool:
    """Return whether store and workspace are the ones that the last sync left; False where only the store can tell."""
    state = _state(project)
    return state != "" and _note(project).is_file() and _note(project).read_text(encoding="utf-8") == state


def settle(project: Project) -> None:
    """Remember that the store agrees with the workspace as they are now."""
    if state := _state(project):
        with atomic_path(_note(project)) as temporary:
            temporary.write_text(state, encoding="utf-8")


def _note(project: Project) -> Path:
    return project.artifacts / ".synced"


def _state(project: Project) -> str:
    """Return what identifies store and workspace together; nothing if the store is not a file of this machine.

    Of the database it takes size and time of change, which every write moves; of the workspace the content.
    """
    uri = tracking_uri(project)
    database = Path(uri.removeprefix(SQLITE).partition("?")[0])
    if not uri.startswith(SQLITE) or not database.is_file():
        return ""
    stores = [database, database.with_name(f"{database.name}-wal")]
    status = [path.stat() for path in stores if path.is_file()]
    single = [project.params, project.root / "dvc.lock", project.root / "dvc.yaml", project.champion]
    folders = [project.root / "models", project.root / "reports"]
    files = [path for path in (*single, *(file for folder in folders for file in folder.rglob("*"))) if path.is_file()]
    about = {
        "store": [hashlib.sha256(uri.encode()).hexdigest(), experiment_name()],
        "database": [[each.st_ino, each.st_size, each.st_mtime_ns] for each in status],
        "files": {path.relative_to(project.root).as_posix(): file_digest(path) for path in sorted(files)},
    }
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()
