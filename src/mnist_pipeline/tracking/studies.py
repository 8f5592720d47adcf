"""Studies in MLflow: one run per study, one child run per trial, with statuses that agree with the study's journal."""

import getpass
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

from mnist_pipeline.params import ModelParams, Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.contents import (
    DIFF,
    PARAMS,
    TRACE,
    as_metrics,
    log_split,
    origin_tags,
    present_origin,
)
from mnist_pipeline.tracking.links import mark_winner
from mnist_pipeline.tracking.redaction import redact
from mnist_pipeline.tracking.runs import closing, epoch_metrics
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Run

STUDY = "study_id"
"""Tag that joins a study's run to the study; names can be used again, these are unique."""
TRIAL = "trial"
"""Tag with the number of a child run's trial."""
SHARED = (
    "model", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "git_commit", "git_dirty",
)  # fmt: skip
"""Tags that a trial's run has from the study's."""
MAX_RUNS = 50_000
"""The most that one search may return."""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended."""

    number: int
    """From 0."""
    status: Literal["FINISHED", "KILLED", "FAILED"]
    """Trained to the end, stopped or never begun, failed."""
    outcome: str
    """The same in the study's words: complete, pruned, too large, failed."""
    values: Mapping[str, Any]
    """Its parameters, by dotted path."""
    metrics: Mapping[str, float]
    """What it came to; empty if it failed."""
    error: str | None
    """Why it failed."""


@dataclass(frozen=True)
class Adoption:
    """What became of the wish to take a trial's parameters over."""

    trial: int
    """Its number."""
    model: ModelParams
    """The parameters of the model, with those of the trial in place."""
    metrics: Mapping[str, float]
    """The means of the confirmation; empty if there was none."""
    table: str
    """The confirmation seed by seed, as CSV."""
    adopted: bool
    """Whether `params.yaml` has them now."""


@dataclass(frozen=True)
class StudyRun:
    """The run of one study, from any process."""

    client: "MlflowClient"
    run_id: str

    @classmethod
    def find(cls, project: Project, study_id: str) -> "Self | None":
        """Return the run of a study by the study's id, if the store has it."""
        client = open_store(project)
        run_id = _find_run(client, study_id)
        return cls(client, run_id) if run_id else None

    @classmethod
    def open(cls, project: Project, run_id: str) -> Self:
        """Connect to the run of a study that another process has opened."""
        return cls(open_store(project), run_id)

    def log_session(self, project: Project, params: Params, model: str, tags: Mapping[str, str]) -> None:
        """Log where the trials of this session come from, in place of those before, and what else is to be said."""
        from mlflow.entities import RunTag

        origin = present_origin(project, params, model)
        every = {**origin_tags(origin), **tags}
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in every.items()])
        self.client.log_text(self.run_id, redact(origin.params_text), PARAMS)
        self.client.log_text(self.run_id, origin.diff, DIFF)  # also an empty one, in place of an earlier session's
        if origin.trace:
            self.client.log_text(self.run_id, origin.trace.to_json(), TRACE)

    def start_trial(self, number: int, values: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> str:
        """Create the child run of a trial and return its id."""
        from mlflow.entities import Param

        study = self.client.get_run(self.run_id)
        shared = {key: study.data.tags[key] for key in SHARED if key in study.data.tags}
        run_id = self.client.create_run(
            study.info.experiment_id,
            tags={**shared, **(tags or {}), "mlflow.parentRunId": self.run_id, TRIAL: str(number)},
            run_name=f"{study.info.run_name} {number}",
        ).info.run_id
        self.client.log_batch(run_id, params=[Param(path, str(value)) for path, value in values.items()])
        return run_id

    def log_epoch(self, run_id: str, epoch: Epoch) -> None:
        """Log an epoch's metrics at its step, in one request."""
        self.client.log_batch(run_id, metrics=epoch_metrics(epoch))

    def end_trial(self, run_id: str, end: TrialEnd) -> None:
        """Close a child run. Doing it twice changes nothing."""
        self._log_metrics(run_id, end.metrics, int(end.metrics.get("best_epoch", 0)))
        self.client.set_tag(run_id, "outcome", end.outcome)
        if end.error is not None:
            self.client.set_tag(run_id, "error", end.error[:5_000])
        self.client.set_terminated(run_id, end.status)

    def reconcile(self, ends: Iterable[TrialEnd]) -> None:
        """Make the child runs agree with how the trials ended, wherever a process was killed between the two."""
        runs = {int(run.data.tags[TRIAL]): run for run in self._children()}
        for end in ends:
            run = runs.get(end.number)
            if run is None or run.info.status != end.status:
                self.end_trial(run.info.run_id if run else self.start_trial(end.number, end.values), end)

    def log_result(self, metrics: Mapping[str, float], best: Mapping[str, Any], tables: Mapping[str, str]) -> None:
        """Log what the study has come to so far: its numbers, its best values and its tables as CSV, by name."""
        self._log_metrics(self.run_id, metrics, 0)
        self.client.log_dict(self.run_id, dict(best), "best.yaml")
        for name, text in tables.items():
            self.client.log_text(self.run_id, text, f"{name}.csv")

    def log_figures(self, figures: "Mapping[str, Figure]", page: str | None) -> None:
        """Log figures as `figures/<name>.png`, and `figures.html`, the page that has them all to explore offline."""
        for name, figure in figures.items():
            self.client.log_figure(self.run_id, figure, f"figures/{name}.png", save_kwargs={"bbox_inches": "tight"})
        if page:
            self.client.log_text(self.run_id, page, "figures.html")

    def log_adoption(self, adoption: Adoption) -> None:
        """Log which trial was to be adopted, what the confirmation said, and whether it was.

        If it was, the trial's run is marked so that the training with these parameters will find it.
        """
        self._log_metrics(self.run_id, adoption.metrics, 0)
        self.client.log_text(self.run_id, adoption.table, "confirmation.csv")
        self.client.set_tag(self.run_id, "adopted", str(adoption.adopted).lower())
        self.client.set_tag(self.run_id, "adopted_trial", str(adoption.trial))
        runs = [run.info.run_id for run in self._children() if run.data.tags[TRIAL] == str(adoption.trial)]
        for run_id in runs if adoption.adopted else ():
            mark_winner(self.client, run_id, adoption.model)

    def _children(self) -> "list[Run]":
        return self.client.search_runs(
            [self.client.get_run(self.run_id).info.experiment_id],
            filter_string=f"tags.`mlflow.parentRunId` = '{self.run_id}'",
            max_results=MAX_RUNS,
        )

    def _log_metrics(self, run_id: str, metrics: Mapping[str, float], step: int) -> None:
        self.client.log_batch(run_id, metrics=as_metrics(metrics, step))


@contextmanager
def study_run(project: Project, name: str, study_id: str, definition: Mapping[str, Any]) -> Generator[StudyRun]:
    """Open the run of a study, or go on with it; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    Args:
        project: whose store and files.
        name: of the study.
        study_id: unique to the study.
        definition: all that its trials share, and what varies and how, by dotted path; `model` is the model's name.
    """
    from mlflow.entities import Param

    client = open_store(project)
    run_id = _find_run(client, study_id) or _start(client, name, study_id, definition["model"])
    client.update_run(run_id, "RUNNING")
    with closing(client, run_id):
        client.log_batch(run_id, params=[Param(key, str(value)) for key, value in definition.items()])
        if not client.get_run(run_id).inputs.dataset_inputs:
            log_split(client, project, run_id, None, context="tuning")
        yield StudyRun(client, run_id)


def _start(client: "MlflowClient", name: str, study_id: str, model: str) -> str:
    """Start the run of a study; return its id."""
    tags = {
        STUDY: study_id,
        "model": model,
        "mlflow.source.name": f"mnist tune {model} --study {name}",
        "mlflow.source.type": "PROJECT",
        "mlflow.user": getpass.getuser(),
    }
    experiment = client.get_experiment_by_name(tuning_experiment_name())
    return client.create_run(experiment.experiment_id, tags=tags, run_name=name).info.run_id


def _find_run(client: "MlflowClient", study_id: str) -> str | None:
    """Return the id of the study's run, if there is one."""
    experiment = client.get_experiment_by_name(tuning_experiment_name())
    found = client.search_runs([experiment.experiment_id], f"tags.{STUDY} = '{study_id}'", max_results=1)
    return found[0].info.run_id if found else None
