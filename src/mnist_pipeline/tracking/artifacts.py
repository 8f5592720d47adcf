"""The files of a run and of its logged model, found again by their MD5s.

A tag of the run has the MD5 of `lineage.json`, which has those of the files beside it; a logged model has its own tag.

`mnist lineage` prints what is found, `mnist reproduce` starts from it, and `mnist sync` restores what is not verified.
"""

import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import upright_bar
from mnist_pipeline.models.model import load_model
from mnist_pipeline.provenance.inputs import Lineage, file_digests
from mnist_pipeline.provenance.search import Finding, compare

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.models import ModelSignature

FILES = "files_md5"
"""Tag of a logged model: the MD5 of each of its files, by name, as JSON."""
DIFF = "uncommitted.diff"
"""Artifact: what the sources differed by from the commit, as a patch."""
LINEAGE = "lineage.json"
"""Artifact: a `Lineage`."""
LINEAGE_DIGEST = "lineage_md5"
"""Tag: MD5 of `lineage.json`."""
PARAMS = "params.yaml"
"""Artifact: all parameters."""
REPORT = "report"
"""Artifact folder: the files of `reports/<model>`."""
MODEL_FILE = "data/model.keras"
"""The `.keras` file among the files of a logged model."""
KEPT_MODEL = "model file"
"""What the finding of a logged model is called."""
MODEL_DIGEST = "model_md5"
"""Tag: MD5 of the model file that the training wrote. It joins the two, for files and store may travel apart."""


@dataclass(frozen=True)
class Kept:
    """What the store still holds of a run, each file compared with its MD5."""

    run: "Run | None"
    """The run; None if it is not in the store any more."""
    folder: Path
    """Temporary folder of all that is fetched."""

    @property
    def tags(self) -> dict[str, str]:
        """Return the tags of the run."""
        return self.run.data.tags if self.run else {}

    @cached_property
    def artifacts(self) -> Path:
        """Return a copy of the folder of the run's artifacts."""
        folder = self.folder / "artifacts"
        return (self.run and download(f"runs:/{self.run.info.run_id}/", folder)) or folder

    @property
    def recorded(self) -> dict[str, str]:
        """Return the MD5s of the files that tell of the run's origin, by name, as far as they are known."""
        own = {LINEAGE: self.tags[LINEAGE_DIGEST]} if LINEAGE_DIGEST in self.tags else {}
        return {**own, **(self.lineage.files if self.lineage else {})}

    def find(self, name: str, digest: str | None = None) -> Finding:
        """Look for a file of the run, with this MD5, or the one that the run has recorded."""
        return _find(name, self.artifacts / name, digest or self.recorded.get(name))

    @cached_property
    def model(self) -> Finding:
        """Look for the model of the run."""
        return find_model(logged_model_id(self.run), self.tags[MODEL_DIGEST], self.folder / "model")

    @cached_property
    def lineage(self) -> Lineage | None:
        """Return what the run says about its inputs; None if it says nothing, or not what it said once."""
        file = _find(LINEAGE, self.artifacts / LINEAGE, self.tags.get(LINEAGE_DIGEST))
        return read_json(file.path, Lineage, "mnist train") if file.path else None

    @property
    def environment(self) -> dict[str, str]:
        """Return versions, machine, lock and device of the run, as far as they are known."""
        return environment_of(self.tags, self.lineage)


def environment_of(tags: Mapping[str, str], lineage: Lineage | None) -> dict[str, str]:
    """Return versions, machine, lock and device of a run with these tags, as far as they are known."""
    device = {"device": tags["device"]} if "device" in tags else {}
    return {**(lineage.environment if lineage else {}), **device}


def log_contents(client: "MlflowClient", run_id: str, contents: Mapping[str, bytes]) -> None:
    """Log what files shall contain, by name, as artifacts of any run."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in contents.items():
            file = Path(folder) / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(content)
        client.log_artifacts(run_id, folder)


def log_model(client: "MlflowClient", run_id: str, name: str, model_file: Path, step: int) -> str:
    """Log a `.keras` file, byte for byte, with the weights of epoch `step`; return the id of the logged model.

    Not by `mlflow.keras.log_model`, which saves the model once more, as a file with another MD5, asks the store for
    the history of every metric, and predicts the example before it is done.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    experiment = client.get_run(run_id).info.experiment_id
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    # One that is not ready yet was begun by somebody who was stopped, or who never got the answer.
    begun = [model for model in found if model.status == LoggedModelStatus.PENDING]
    model_id = (begun or [client.create_logged_model(experiment, name, source_run_id=run_id)])[0].model_id
    upload(client, run_id, model_id, model_file)
    client.finalize_logged_model(model_id, "READY")
    client.log_outputs(run_id, [LoggedModelOutput(model_id, step=step)])
    return model_id


def upload(client: "MlflowClient", run_id: str, model_id: str, model_file: Path) -> None:
    """Write the files of a logged model, also in place of those that the store has lost."""
    import mlflow
    from mlflow.models import Model

    with quiet_native_logs(), tempfile.TemporaryDirectory() as temporary:
        file, folder = Path(temporary) / "model.keras", Path(temporary) / "logged"
        folder.mkdir()
        shutil.copyfile(model_file, file)  # because DVC's cache knows no suffixes, by which Keras tells the format
        model = load_model(file)
        mlflow.keras.save_model(
            model,
            str(folder),
            mlflow_model=Model(run_id=run_id, model_id=model_id, model_uuid=model_id),
            signature=_signature(model),
            input_example=_drawn_one(model),
            pip_requirements=[
                f"{package}=={version(package)}" for package in ("mlflow", "tensorflow", "keras", "numpy")
            ],
        )
        shutil.copyfile(file, folder / MODEL_FILE)  # in place of what MLflow has saved
        client.log_model_artifacts(model_id, str(folder))
        client.set_logged_model_tags(model_id, {FILES: json.dumps(file_digests(folder))})


def find_model(model_id: str, digest: str, folder: Path) -> Finding:
    """Copy a logged model to a folder and look for its files; the finding's path is its `.keras` file, of this MD5."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    recorded: dict[str, str] = {}
    with suppress(MlflowException):  # somebody has deleted it
        recorded = json.loads(MlflowClient().get_logged_model(model_id).tags.get(FILES, "{}"))
    kept = download(f"models:/{model_id}", folder) or folder
    wanted = {MODEL_FILE: digest} | recorded | {MODEL_FILE: digest}  # in this order
    found = [_find(KEPT_MODEL, kept / name, each) for name, each in wanted.items()]
    return next((each for each in found if each.state != "verified"), found[0])


def logged_model_id(run: "Run | None") -> str:
    """Return the id of the model of a run, the newest that nobody has deleted; empty if it never had one."""
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    ids = [output.model_id for output in (run.outputs.model_outputs if run and run.outputs else [])]
    created: dict[int, str] = {}
    for model_id in ids if len(ids) > 1 else ():  # in no order
        with suppress(MlflowException):
            created[MlflowClient().get_logged_model(model_id).creation_timestamp] = model_id
    return created[max(created)] if created else next(iter(ids), "")


def download(uri: str, folder: Path, store: str | None = None) -> Path | None:
    """Return a copy of an artifact, such as `runs:/<id>/<name>`, in `folder`; None if there is no such artifact."""
    import mlflow
    from mlflow.exceptions import MlflowException

    folder.mkdir(exist_ok=True)
    with suppress(MlflowException, OSError):
        return Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder), tracking_uri=store))
    return None


def _find(what: str, file: Path, digest: str | None) -> Finding:
    """Look for something that the store should hold.

    A file whose MD5 nothing tells counts as it is.
    """
    if digest is None and not file.is_file():
        return Finding(what, "missing", found="not in the store, and nothing tells its MD5")
    way_out = "any more; `mnist sync` may restore it"
    changed, missing = f"not the recorded one {way_out}", f"not in the store {way_out}"
    return compare(what, file, digest or file_digest(file), "in the store", changed, missing)


def _signature(model: "keras.Model") -> "ModelSignature":
    """Return what goes into the model and what comes out; MLflow refuses other types and shapes."""
    from mlflow.models import ModelSignature
    from mlflow.types import Schema, TensorSpec

    pixels, probabilities = ((-1, *shape[1:]) for shape in (model.input_shape, model.output_shape))
    return ModelSignature(
        inputs=Schema([TensorSpec(np.dtype(np.uint8), pixels, "pixels")]),
        outputs=Schema([TensorSpec(np.dtype(np.float32), probabilities, "probabilities")]),
    )


def _drawn_one(model: "keras.Model") -> NDArray[np.uint8]:
    """Return an example of an input, one image of an upright bar: uint8 (1, height, width)."""
    _, height, width = model.input_shape
    return upright_bar(height, width)[np.newaxis]
