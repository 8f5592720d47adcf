"""The MLflow model registry: the versions of the model `mnist`, and which of them is `champion`.

Whatever moves the champion is written down before it happens, in tags of the versions, and then happens in steps that
may be repeated: `Registry.mend` ends what a killed process began.
"""

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnist_pipeline.console import warn
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.contents import logged_model_id
from mnist_pipeline.tracking.runs import MODEL_DIGEST
from mnist_pipeline.tracking.store import open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

MODEL = "mnist"
"""Name of the registered model."""
CHAMPION = "champion"
"""Alias of the version to use; tag, with its number, of the run that made it."""
PREVIOUS = "previous"
"""Alias of the version that was champion before: where `mnist rollback` goes."""
CHALLENGER = "challenger"
"""Alias of the last version that was compared with a champion and is not better."""

DESCRIPTION_LIMIT = 5_000
"""Characters that MLflow's column for a version's description holds."""

REPLACED = "replaced"
"""Tag of a version that is or was champion: the number of the one whose place it took last."""
ROLLED_BACK_TO = "rolled_back_to"
"""Tag of a version that somebody took the title from: the number of the one that got it."""
ROLLED_BACK_AT = "rolled_back_at"
"""Tag beside it: when."""

_DESCRIPTION = """\
Reads handwritten digits. Takes raw pixels 0-255 (uint8 or float, shape (n, 28, 28), light ink on dark paper) and
returns ten class probabilities (n, 10); the normalization is inside.

`mlflow.pyfunc.load_model("models:/mnist@champion").predict(images)`

* `champion` is the version to use, `previous` the one before it, `challenger` the last that was not better.
* Each version's description is its model card; its tags say by what numbers it was chosen or not.
"""


@dataclass(frozen=True)
class Version:
    """A registered version, as it was when it was read."""

    number: str
    """From `1`."""
    run_id: str
    """Of the run that made it."""
    tags: Mapping[str, str]
    """What was said about it."""
    aliases: Sequence[str]
    """Which names it bears, such as `champion`."""

    @property
    def model(self) -> str:
        """Its name under `models` in the params.yaml of its day."""
        return self.tags.get("model", "?")

    @property
    def digest(self) -> str:
        """MD5 of its model file."""
        return self.tags.get(MODEL_DIGEST, "")

    @property
    def rolled_back(self) -> bool:
        """Whether somebody took the title from it by `mnist rollback`."""
        return ROLLED_BACK_TO in self.tags


@dataclass(frozen=True)
class Source:
    """What is known of the run that made a model."""

    run_id: str
    experiment_id: str
    tags: Mapping[str, str]
    datasets: Mapping[str, str]
    """Name and digest of the data sets that it read."""


@dataclass(frozen=True)
class Registry:
    """The versions, and what may be done with them; every step may be repeated."""

    client: "MlflowClient"

    def versions(self) -> list[Version]:
        """Return all versions, newest first."""
        bearers = self._aliases()
        found = self.client.search_model_versions(f"name = '{MODEL}'")
        versions = [
            Version(
                number=str(version.version),
                run_id=version.run_id or "",
                tags=version.tags,
                # A search returns no aliases.
                aliases=sorted(alias for alias, number in bearers.items() if number == str(version.version)),
            )
            for version in found
        ]
        return sorted(versions, key=lambda version: int(version.number), reverse=True)

    def bearer(self, alias: str) -> Version | None:
        """Return the version that bears `alias`."""
        return next((version for version in self.versions() if alias in version.aliases), None)

    def version_of(self, digest: str) -> Version | None:
        """Return the version made from exactly this model file: the champion if it is that, else the newest."""
        same = [version for version in self.versions() if version.digest == digest]
        return next((version for version in same if CHAMPION in version.aliases), same[0] if same else None)

    def source(self, run_id: str) -> Source:
        """Return what is known of a run."""
        run = self.client.get_run(run_id)
        datasets = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
        return Source(run_id, run.info.experiment_id, run.data.tags, datasets)

    def add(self, run_id: str, digest: str, *, description: str, tags: Mapping[str, str]) -> Version:
        """Register the model that a run logged last; nobody's champion yet.

        Args:
            run_id: of the run.
            digest: MD5 of the model file.
            description: Markdown, at most `DESCRIPTION_LIMIT` characters.
            tags: to find and compare it by.
        """
        self._ensure_model()
        model_id = logged_model_id(run_id)
        version = self.client.create_model_version(
            MODEL,
            source=f"models:/{model_id}",
            run_id=run_id,
            model_id=model_id,
            description=description,
            tags={**tags, MODEL_DIGEST: digest},
            await_creation_for=0,  # it is there when the call returns; waiting only prints a line about it
        )
        return Version(str(version.version), run_id, {**tags, MODEL_DIGEST: digest}, ())

    def tag(self, version: Version, tags: Mapping[str, str]) -> None:
        """Say more about a version."""
        for key, value in tags.items():
            self.client.set_model_version_tag(MODEL, version.number, key, value)

    def promote(self, version: Version) -> None:
        """Make a version the champion, and the champion `previous`."""
        self._crown(version, over=self.bearer(CHAMPION) or self.bearer(PREVIOUS))

    def challenge(self, version: Version) -> None:
        """Call a version the challenger."""
        self.client.set_registered_model_alias(MODEL, CHALLENGER, version.number)

    def rollback(self) -> tuple[Version, Version]:
        """Give the title back to the previous champion, or, after a rollback, take the rollback back.

        Returns:
            The version that was champion, and the one that is now.

        Raises:
            UserError: there is no champion, or none before it.
        """
        champion, previous = self.bearer(CHAMPION), self.bearer(PREVIOUS)
        if champion is None or previous is None:
            raise UserError(
                f"There is no previous champion of models:/{MODEL} to go back to: `mnist models` lists what there is."
            )
        marks = {ROLLED_BACK_AT: f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC", ROLLED_BACK_TO: previous.number}
        if not previous.rolled_back:
            self.tag(champion, marks)
        self._crown(previous, over=champion)
        if previous.rolled_back:
            for key in reversed(marks):  # the one that `mend` acts on goes first
                self.client.delete_model_version_tag(MODEL, previous.number, key)
        return champion, previous

    def mend(self) -> None:
        """End what a killed process began: a rollback that was written down, and what follows from who is champion."""
        champion = self.bearer(CHAMPION)
        if champion is None:
            return
        target = champion.tags.get(ROLLED_BACK_TO)
        heir = next((version for version in self.versions() if version.number == target), None)
        if heir is not None and not heir.rolled_back:
            self._crown(heir, over=champion)
        else:
            self._align(champion)

    def download(self, version: Version, file: str, folder: Path) -> Path | None:
        """Return a local copy of an artifact of the version's run; None if the run has none of that name.

        Args:
            version: whose run.
            file: name of the artifact.
            folder: where a copy may be put, if the store is not on this machine.
        """
        from mlflow.exceptions import MlflowException

        try:
            names = {artifact.path for artifact in self.client.list_artifacts(version.run_id)}
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None  # a version may outlive its run
        return Path(self.client.download_artifacts(version.run_id, file, str(folder))) if file in names else None

    def download_model(self, version: Version, folder: Path) -> Path:
        """Return a local copy of the version's `.keras` file.

        Args:
            version: whose model.
            folder: where a copy may be put, if the store is not on this machine.

        Raises:
            UserError: the store has lost it.
        """
        import mlflow
        from mlflow.exceptions import MlflowException

        uri = f"models:/{MODEL}/{version.number}"
        try:
            model = Path(mlflow.artifacts.download_artifacts(uri, dst_path=str(folder)))
            return next(model.rglob("*.keras"))
        except (MlflowException, OSError, StopIteration) as error:
            raise UserError(
                f"The model file of {uri} is not in the MLflow store any more, so nothing can be compared with it: "
                "bring the artifacts back, or delete that version in MLflow, and run `mnist register` again."
            ) from error

    def _crown(self, version: Version, over: Version | None) -> None:
        """Move the title; what follows from it comes last and can be done again by `mend`."""
        tags = dict(version.tags)
        if over is not None and over.number != version.number:
            tags[REPLACED] = over.number
            self.tag(version, {REPLACED: over.number})
        self.client.set_registered_model_alias(MODEL, CHAMPION, version.number)
        self._align(Version(version.number, version.run_id, tags, version.aliases))

    def _align(self, champion: Version) -> None:
        """Make the other aliases and the tags of the runs agree with who is champion."""
        bearers = self._aliases()
        replaced = champion.tags.get(REPLACED)
        if replaced in {version.number for version in self.versions()} - {champion.number, bearers.get(PREVIOUS)}:
            self.client.set_registered_model_alias(MODEL, PREVIOUS, replaced)
        elif bearers.get(PREVIOUS) == champion.number:
            self.client.delete_registered_model_alias(MODEL, PREVIOUS)
        if bearers.get(CHALLENGER) == champion.number:
            self.client.delete_registered_model_alias(MODEL, CHALLENGER)
        self._tag_runs(champion)

    def _tag_runs(self, champion: Version) -> None:
        """Let the champion's run say so, and no other."""
        label = f"version {champion.number}"
        experiments = [experiment.experiment_id for experiment in self.client.search_experiments()]
        tagged = self.client.search_runs(experiments, f"tags.{CHAMPION} LIKE '%'")
        labels = {run.info.run_id: run.data.tags[CHAMPION] for run in tagged}
        for run_id in labels.keys() - {champion.run_id}:
            self.client.delete_tag(run_id, CHAMPION)
        if labels.get(champion.run_id) != label and self._is_active(champion.run_id):
            self.client.set_tag(champion.run_id, CHAMPION, label)

    def _is_active(self, run_id: str) -> bool:
        """Say whether the run is there: somebody may have deleted it, and a version outlives its run."""
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_run(run_id).info.lifecycle_stage == "active"
        except MlflowException:
            return False

    def _aliases(self) -> dict[str, str]:
        """Return the number of the version that each alias points to; empty if nothing was ever registered."""
        from mlflow.exceptions import MlflowException

        try:
            aliases: Mapping[str, Any] = self.client.get_registered_model(MODEL).aliases
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return {}
        return {alias: str(number) for alias, number in aliases.items()}

    def _ensure_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self.client.create_registered_model(MODEL, description=_DESCRIPTION)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise


@contextmanager
def open_registry(project: Project) -> Generator[Registry]:
    """Open the registry to change it, one process of a project at a time, after ending what a killed one began."""
    from filelock import FileLock, Timeout

    client = open_store(project)
    lock = FileLock(project.artifacts / ".registry.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        warn("Another process of this project is at work in the registry: waiting for it.")
        lock.acquire()
    try:
        registry = Registry(client)
        registry.mend()
        yield registry
    finally:
        lock.release()
