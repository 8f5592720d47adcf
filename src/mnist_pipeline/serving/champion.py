"""The champion's export, as one process leaves it in `.serving/` for another: the server, which knows no MLflow."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest, write_json
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_json

RECORD = "champion.json"


@dataclass(frozen=True)
class Champion:
    """Which version was champion, and where its export is."""

    version: str
    """Number of the version."""
    model_md5: str
    """MD5 of the model file."""
    file: str
    """Name of its export in `.serving/`."""
    store_state: str
    """What `store_state` said before MLflow was asked."""


def store_state(uri: str) -> str:
    """Return what changes whenever the store is written, if it is a local file; empty if only MLflow can tell."""
    file = Path(uri.removeprefix("sqlite:///").partition("?")[0])
    if uri.startswith("sqlite:///"):
        with suppress(OSError):  # nobody has made it yet
            return content_digest(f"{uri} {file.stat().st_size} {file.stat().st_mtime_ns}".encode())
    return ""


def read_champion(project: Project) -> Champion | None:
    """Return what was written down last, if its file is still there."""
    with suppress(UserError):
        champion = read_json(project.serving / RECORD, Champion, "mnist serve")
        if (project.serving / champion.file).is_file():
            return champion
    return None


def write_champion(project: Project, champion: Champion) -> None:
    """Write down who is champion."""
    write_json(project.serving / RECORD, asdict(champion))
