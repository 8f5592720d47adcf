"""The `dvc` kind of source of MLflow's data sets: a file that DVC tracks, by its hash.

MLflow finds the class by the entry point `mlflow.dataset_source` in pyproject.toml, so that in any session
`mlflow.data.get_source(dataset).load()` returns the very file that a run has read. `mlflow` imports this module, so it
must be imported first.
"""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from mlflow.data.dataset_source import DatasetSource
from mlflow.exceptions import MlflowException

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import find_project
from mnist_pipeline.provenance.search import find_data


@dataclass(frozen=True)
class DvcSource(DatasetSource):
    """A file of the project, as it was when it had this hash."""

    path: str
    """Where the file is, from the top of the repository."""
    md5: str
    """DVC's hash: MD5 of the content."""

    def load(self) -> str:
        """Return the path of a file with exactly this content: in the workspace, in DVC's cache, or a temporary one.

        Raises:
            UserError: the working directory is not in the project, or the content is nowhere to be found.
        """
        project = find_project()
        found = find_data(project, self.path, self.md5)
        if found.state != "verified":
            target = Path(tempfile.mkdtemp(prefix="mnist-")) / Path(self.path).name
            found = find_data(project, self.path, self.md5, fetch_to=target)
        if found.state != "verified":
            raise UserError(
                f"{self.path} with MD5 {self.md5} cannot be found ({found.found}): add the remote that has it, "
                "or check out the commit that it belongs to and run `dvc repro`."
            )
        return str(found.path)

    def to_dict(self) -> dict[str, Any]:
        """Return what MLflow stores."""
        return asdict(self)

    @classmethod
    def from_dict(cls, source_dict: dict[Any, Any]) -> Self:
        """Read what `to_dict` returned."""
        return cls(**source_dict)

    @staticmethod
    def _get_source_type() -> str:
        return "dvc"

    @staticmethod
    def _can_resolve(raw_source: Any) -> bool:
        return False  # a path alone does not tell which content is meant

    @classmethod
    def _resolve(cls, raw_source: Any) -> Self:
        raise MlflowException(f"{raw_source} does not tell which content is meant: use DvcSource(path, md5).")
