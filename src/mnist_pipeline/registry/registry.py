"""The MLflow model registry: the versions of the model named as the data, and which of them is `champion`.

Whatever moves the champion is written down before it happens, in tags of the versions, and then happens in steps that
may be repeated: `Registry.repair` ends what a killed process began.
"""

import json
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Self, cast
from zipfile import BadZipFile

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import Data, OtherDataError, load_data
from mnist_pipeline.registry.turns import turn
from mnist_pipeline.tracking.artifacts import MODEL_DIGEST, find_model, logged_model_id
from mnist_pipeline.tracking.store import open_store

if TYPE_CHECKING:
    import keras
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CHAMPION = "champion"
"""Alias of the version to use; also a tag of the run that trained it, with the number of the version."""
PREVIOUS = "previous"
"""Alias of the version that was champion before: where `mnist rollback` goes."""
CHALLENGER = "challenger"
"""Alias of the last version that was compared with a champion and is not better."""

REPLACED = "replaced"
"""Tag of a version that is or was champion: the number of the one whose place it took last."""
CLASSES = "classes"
"""Tag of a version: the names of the classes, in the order of its probabilities, as JSON."""
ROLLED_BACK_TO = "rolled_back_to"
"""Tag of a version that somebody took the title from: the number of the one that got it."""

_DESCRIPTION = """\
Tells {data.title}'s {data.items} apart. Takes raw pixels 0-255 (uint8, shape (n, {height}, {width})) and returns the
probabilities of {count} classes (n, {count}), in this order: {classes}. The normalization is inside.

`mlflow.pyfunc.load_model("models:/{data.name}@champion").predict(images)`

* `champion` is the version to use, `previous` the one before it, `challenger` the last that was not better.
* Each version's description is its model card; its tags say by what numbers it was chosen or not.
"""


@dataclass(frozen=True)
class Version:
    """A registered version, as it was when it was read."""

    number: str
    """Number of the version, from `1`."""
    run_id: str
    """Id of the run that trained it."""
    model_id: str
    """Id of the logged model that it is."""
    tags: Mapping[str, str]
    """Tags of the version."""
    aliases: Sequence[str]
    """Aliases of the version, such as `champion`."""

    @property
    def model(self) -> str:
        """Name of the model's folders when it was registered."""
        return self.tags.get("model", "?")

    @property
    def digest(self) -> str:
        """MD5 of the model file."""
        return self.tags.get(MODEL_DIGEST, "")

    @property
    def rolled_back(self) -> bool:
        """Whether somebody took the title from it by `mnist rollback`."""
        return ROLLED_BACK_TO in self.tags


@dataclass(frozen=True)
class Registry:
    """The versions, and what may be done with them; every step may be repeated."""

    client: "MlflowClient"
    data: Data
    """What the models tell apart."""

    @classmethod
    def open(cls, project: Project) -> Self:
        """Open the registry of a project, to look at."""
        return cls(open_store(project), load_data(project))

    @property
    def name(self) -> str:
        """Name of the registered model."""
        return self.data.name

    def versions(self, query: str = "", newest: int = 10_000) -> list[Version]:
        """Return the versions, or those of them that a query of MLflow finds, the newest first."""
        aliases, query = self.aliases(), " and ".join(filter(None, (f"name = '{self.name}'", query)))
        found = self.client.search_model_versions(query, newest, ["version_number DESC"])
        return [_version(each, [alias for alias in aliases if aliases[alias] == str(each.version)]) for each in found]

    def of_file(self, digest: str) -> list[Version]:
        """Return the versions of the model file with this MD5 and of the present classes, the newest first."""
        return [each for each in self.versions(f"tags.{MODEL_DIGEST} = '{digest}'") if self._has_classes(each)]

    def aliases(self) -> dict[str, str]:
        """Return the aliases, each with the number of the version that bears it."""
        # Not by `get_registered_model`, which reads every version.
        found = self.client.search_registered_models(f"name = '{self.name}'")
        return {alias: str(number) for model in found for alias, number in sorted(model.aliases.items())}

    def borne(self) -> list[Version]:
        """Return the versions that bear an alias, the newest first."""
        numbers = sorted({*self.aliases().values()}, key=int, reverse=True)
        return [version for number in numbers if (version := self.find(number))]

    def find(self, reference: str) -> Version | None:
        """Find a version by `models:/NAME@champion`, `models:/NAME/3`, or only the alias or the number."""
        from mlflow.exceptions import MlflowException

        wanted = reference.removeprefix(f"models:/{self.name}").lstrip("@/")
        ask = self.client.get_model_version if wanted.isdecimal() else self.client.get_model_version_by_alias
        try:
            return _version(found := ask(self.name, wanted), sorted(found.aliases))
        except MlflowException as error:
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
            return None

    def create(self) -> None:
        """Create the registered model if it is not there yet."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(self.name, description=_describe(self.data))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def add(self, run_id: str, digest: str, *, description: str, tags: Mapping[str, str]) -> Version:
        """Register the model file, of this MD5, that a run logged last; nobody's champion yet."""
        self.create()
        tags = {**tags, MODEL_DIGEST: digest, CLASSES: json.dumps(self.data.classes)}
        model_id = logged_model_id(self.client.get_run(run_id))
        version = self.client.create_model_version(
            self.name,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            description=description,
            tags=tags,
            await_creation_for=0,  # it is there when the call returns; waiting only prints a line about it
        )
        return Version(str(version.version), run_id, model_id, tags, ())

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Set tags of a version, in their order."""
        for key, value in tags.items():
            self.client.set_model_version_tag(self.name, version.number, key, value)

    def promote(self, version: Version) -> None:
        """Make a version the champion, and the champion `previous`."""
        self._crown(version, over=self.find(CHAMPION) or self.find(PREVIOUS))

    def challenge(self, version: Version) -> None:
        """Call a version the challenger."""
        self.client.set_registered_model_alias(self.name, CHALLENGER, version.number)

    def rollback(self) -> tuple[Version, Version]:
        """Give the title back to the previous champion, or, after a rollback, take the rollback back.

        Return the version that was champion, and the one that is now, both as they were before; a UserError says that
        there is no champion, or none before it.
        """
        champion, previous = self.find(CHAMPION), self.find(PREVIOUS)
        if champion is None or previous is None:
            raise UserError(
                f"There is no previous champion of models:/{self.name} to go back to: `mnist models` lists what there "
                "is."
            )
        marks = {"rolled_back_at": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", ROLLED_BACK_TO: previous.number}
        if not previous.rolled_back:
            self.tag(champion, marks)
        self._crown(previous, over=champion)
        if previous.rolled_back:
            for key in reversed(marks):  # the one that `repair` acts on goes first
                self.client.delete_model_version_tag(self.name, previous.number, key)
        return champion, previous

    def repair(self) -> None:
        """End what a killed process began: a rollback that was written down, and what follows from who is champion."""
        champion = self.find(CHAMPION)
        heir = champion and self.find(champion.tags.get(ROLLED_BACK_TO, ""))
        if heir and not heir.rolled_back:
            self._crown(heir, over=champion)
        else:
            self._align()

    def run_of(self, version: Version) -> "Run | None":
        """Return the run that trained a version, which may outlive it."""
        from mlflow.exceptions import MlflowException

        with suppress(MlflowException):
            return self.client.get_run(version.run_id)
        return None

    def load(self, version: Version) -> "keras.Model":
        """Load the model of a version: raw pixels, uint8 (n, height, width), to probabilities (n, classes).

        Raises:
            UserError: the store has lost its file, this version of Keras cannot load it, or it is for other data.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        uri = f"models:/{self.name}/{version.number}"
        self.check_classes(version)
        with tempfile.TemporaryDirectory() as folder:
            kept = find_model(version.model_id, version.digest, Path(folder))
        if version.digest and kept.state != "verified":
            raise UserError(
                f"The files of {uri} are lost or damaged in the MLflow store: `mnist sync --all` restores them if the "
                "workspace or DVC's cache has the model; if not, delete that version in MLflow and register another."
            )
        try:
            with quiet_native_logs():
                model = cast("keras.Model", mlflow.keras.load_model(uri, load_model_kwargs={"compile": False}))
        except (MlflowException, OSError, ValueError, TypeError, KeyError, BadZipFile) as error:
            raise UserError(
                f"The model of {uri} cannot be loaded by this version of Keras: install the version that wrote it, or "
                "delete that version in MLflow and run `mnist register` again."
            ) from error
        self.data.check_fit(uri, model.input_shape[1:], model.output_shape[-1])
        return model

    def check_classes(self, version: Version) -> None:
        """Raise an OtherDataError if a version gives its classes other names, or another order, than `params.yaml`."""
        if not self._has_classes(version):
            raise OtherDataError(
                f"models:/{self.name}/{version.number} tells {', '.join(json.loads(version.tags[CLASSES]))} apart, in "
                "this order, but data.classes in params.yaml is another list: restore that one, or run `dvc repro`."
            )

    def _has_classes(self, version: Version) -> bool:
        present = json.dumps(self.data.classes)
        return version.tags.get(CLASSES, present) == present  # earlier versions of this project did not write it

    def _crown(self, version: Version, over: Version | None) -> None:
        """Move the title; what follows from it comes last and can be done again by `repair`."""
        if over and over.number != version.number:
            self.tag(version, {REPLACED: over.number})
        self.client.set_registered_model_alias(self.name, CHAMPION, version.number)
        self._align()

    def _align(self) -> None:
        """Make the other aliases and the tags of the runs agree with who is champion."""
        if (champion := self.find(CHAMPION)) is None:
            return
        replaced = self.find(champion.tags.get(REPLACED, ""))
        if replaced and PREVIOUS not in replaced.aliases:
            self.client.set_registered_model_alias(self.name, PREVIOUS, replaced.number)
        elif PREVIOUS in champion.aliases and not replaced:
            self.client.delete_registered_model_alias(self.name, PREVIOUS)
        if CHALLENGER in champion.aliases:
            self.client.delete_registered_model_alias(self.name, CHALLENGER)
        self._label_runs(champion)

    def _label_runs(self, champion: Version) -> None:
        """Let the champion's run say so, and no other."""
        label = f"version {champion.number}"
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        for run in self.client.search_runs(experiments, f"tags.{CHAMPION} LIKE '%'"):
            if run.info.run_id != champion.run_id:
                self.client.delete_tag(run.info.run_id, CHAMPION)
        # A search, because somebody may have deleted its run, which a version outlives.
        for run in self.client.search_runs(experiments, f"attributes.run_id = '{champion.run_id}'"):
            if run.data.tags.get(CHAMPION) != label:
                self.client.set_tag(champion.run_id, CHAMPION, label)


def _describe(data: Data) -> str:
    """Return the description of the registered model, in Markdown; MLflow holds 5,000 characters of it."""
    height, width = data.image_size
    classes = shorten(", ".join(data.classes), 4_000)
    return _DESCRIPTION.format(data=data, height=height, width=width, count=len(data.classes), classes=classes)


def _version(found: "ModelVersion", aliases: Sequence[str]) -> Version:
    source = (found.source or "").removeprefix("models:/")  # on SQLite, `model_id` is empty
    return Version(str(found.version), found.run_id or "", source, found.tags, aliases)


@contextmanager
def open_registry(project: Project) -> Generator[Registry]:
    """Open the registry to change it, one process at a time, after ending what a killed one began."""
    registry = Registry.open(project)
    registry.create()
    with turn(registry.client, registry.name):
        registry.repair()
        yield registry
