"""Studies in MLflow: one run per study, one child run per trial, with statuses that agree with the study's journal."""

import getpass
import time
from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.tracking.contents import (
    ADOPTED,
    DIFF,
    NOTE,
    artifacts_page,
    as_metrics,
    log_split,
    origin_files,
    origin_tags,
    params_digest,
    present_origin,
    table_row,
)
from mnist_pipeline.tracking.outbox import PARENT, STUDY, TRIAL, keeps_delivered, recording, reopen
from mnist_pipeline.tracking.runs import ending, epoch_metrics
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams, Params

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run, RunTag

SHARED = (
    "model", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "git_commit", "git_dirty",
)  # fmt: skip
"""Tags that a trial's run has from the study's."""
FLUSH_SECONDS = 2
"""A trial's epochs are sent to MLflow when the last ones were sent that long ago, and at its end."""


@dataclass(frozen=True)
class TrialEnd:
    """How a trial ended."""

    number: int
    """Number of the trial, from 0."""
    outcome: str
    """In the study's words: complete, pruned, too large, failed."""
    values: Mapping[str, Any]
    """Its parameters, by dotted path."""
    metrics: Mapping[str, float]
    """Its results by name; empty if it failed."""
    curve: Mapping[int, float]
    """The validation number that decides, by epoch, as far as the study knows it."""
    curve_name: str
    """Name of that number as a metric of the run."""
    error: str | None
    """Why it failed."""

    @property
    def status(self) -> str:
        """Status of its run: KILLED if it was stopped or never begun."""
        return {"complete": "FINISHED", "failed": "FAILED"}.get(self.outcome, "KILLED")


@dataclass
class StudyRun:
    """The run of one study."""

    client: "MlflowClient"
    run: "Run"
    """As it was when this session began."""

    @property
    def run_id(self) -> str:
        """Its id."""
        return self.run.info.run_id

    @classmethod
    def find(cls, client: "MlflowClient", project: Project, study_id: str) -> "Self | None":
        """Return the run of a study by the study's id, if the store has it."""
        experiment = client.get_experiment_by_name(tuning_experiment_name(project))
        query, view = f"tags.{STUDY} = '{study_id}'", keeps_delivered(client)
        found = client.search_runs([experiment.experiment_id], query, view, max_results=1)
        return cls(client, found[0]) if found else None

    def log_session(self, project: Project, params: Params, model: str, tags: Mapping[str, str]) -> None:
        """Log what the trials of this session start from, in place of the sessions before, and further tags."""
        from mlflow.entities import RunTag

        origin = present_origin(project, params, ModelId(model))
        every = {**origin_tags(origin), **tags}
        self.client.log_batch(self.run_id, tags=[RunTag(key, value) for key, value in every.items()])
        for name, text in {DIFF: "", **origin_files(origin)}.items():  # also an empty one, in place of an earlier one
            self.client.log_text(self.run_id, text, name)
        self.run = self.client.get_run(self.run_id)  # the trials' runs share its new tags

    def start_trial(self, number: int, values: Mapping[str, Any], tags: Mapping[str, str] | None = None) -> "TrialRun":
        """Create the child run of a trial."""
        study, shared = self.run.info, {key: tag for key, tag in self.run.data.tags.items() if key in SHARED}
        run_id = self.client.create_run(
            study.experiment_id,
            tags={**shared, **(tags or {}), PARENT: self.run_id, TRIAL: str(number)},
            run_name=f"{str(study.run_name).removesuffix(' study')} trial {number}",
        ).info.run_id
        return TrialRun(self.client, run_id, values)

    def untold(self, ends: Iterable[TrialEnd]) -> "list[tuple[TrialEnd, Run | None]]":
        """Return the trials whose run does not tell how they ended, with that run, or that have none."""
        runs = self.trial_runs()
        every = [(end, runs.get(end.number)) for end in ends]
        return [(end, run) for end, run in every if run is None or run.info.status != end.status]

    def reconcile(self, ends: Iterable[TrialEnd]) -> None:
        """Make the child runs agree with how the trials ended, wherever one is missing or its process was killed.

        Of the epochs that MLflow does not know, the study knows the number that decides.
        """
        for end, run in self.untold(ends):
            if run:
                reopen(self.client, run, {})
            child = TrialRun(self.client, run.info.run_id, end.values) if run else None
            child = child or self.start_trial(end.number, end.values)
            history = self.client.get_metric_history(child.run_id, end.curve_name)
            for epoch in end.curve.keys() - {point.step for point in history}:
                child.kept += as_metrics({end.curve_name: end.curve[epoch]}, epoch)
            child.end(end)

    def log_result(self, metrics: Mapping[str, float], files: "Mapping[str, str | Figure]") -> None:
        """Log what the study has come to so far: its numbers, and texts and figures as artifacts, by name."""
        self.client.log_batch(self.run_id, metrics=as_metrics(metrics, 0))
        for name, content in files.items():
            if isinstance(content, str):
                self.client.log_text(self.run_id, content, name)
            else:
                self.client.log_figure(self.run_id, content, name, save_kwargs={"bbox_inches": "tight"})
        self.client.set_tag(self.run_id, NOTE, describe(self.client.get_run(self.run_id)))

    def log_adoption(self, trial: int, adopted: ModelParams | None) -> None:
        """Log which trial was to be adopted, and whether it was.

        If it was, `adopted` are the model's parameters in `params.yaml` by now, and the trial's run is marked so that
        the training with them will find it.
        """
        self.client.set_tag(self.run_id, "adopted", "true" if adopted else "false")
        self.client.set_tag(self.run_id, "adopted_trial", str(trial))
        if adopted and (run := self.trial_runs().get(trial)):
            self.client.set_tag(run.info.run_id, ADOPTED, params_digest(adopted))

    def trial_runs(self) -> "dict[int, Run]":
        """Return the child runs, by the number of their trial."""
        runs = self.client.search_runs(
            [self.run.info.experiment_id],
            f"tags.`{PARENT}` = '{self.run_id}'",
            keeps_delivered(self.client),
            max_results=50_000,  # the most that MLflow allows
        )
        return {int(run.data.tags[TRIAL]): run for run in runs}


@dataclass
class TrialRun:
    """The run of one trial. Epochs are sent together, once in a while: a request each would slow down large studies."""

    client: "MlflowClient"
    run_id: str
    values: Mapping[str, Any]
    """The trial's parameters, by dotted path."""
    kept: "list[Metric]" = field(default_factory=list["Metric"])
    """What goes with the next request."""
    _sent: float = field(default_factory=time.monotonic)

    def log_epoch(self, epoch: Epoch) -> None:
        """Log an epoch's metrics at its step."""
        self.kept += epoch_metrics(epoch)
        if time.monotonic() - self._sent > FLUSH_SECONDS:
            self._send()

    def end(self, end: TrialEnd) -> None:
        """Close the run with what the trial came to. Doing it twice changes nothing."""
        from mlflow.entities import RunTag

        self.kept += as_metrics(end.metrics, int(end.metrics.get("best_epoch", 0)))
        self._send(RunTag("outcome", end.outcome), *([RunTag("error", end.error[:5_000])] if end.error else []))
        self.client.set_terminated(self.run_id, end.status)

    def _send(self, *tags: "RunTag") -> None:
        from mlflow.entities import Param

        params = [Param(path, str(value)) for path, value in self.values.items()]
        self.client.log_batch(self.run_id, metrics=self.kept, params=params, tags=tags)
        self.kept, self._sent = [], time.monotonic()


def describe(study: "Run") -> str:
    """Return the description of a study's run, in Markdown: what it has come to, and how it looks for better."""
    tags, metrics, page = study.data.tags, study.data.metrics, artifacts_page(study)
    cells = {key.replace("_val_", " validation "): f"{value:.4f}" for key, value in metrics.items() if "_val_" in key}
    cells["complete trials"] = f"{metrics.get('trials_complete', 0):.0f}"
    cells["more"] = f"[figures to be explored]({page}/figures.html), [all trials]({page}/trials.csv)"
    how = "".join(f"; {key}: {tags[key]}" for key in ("budget", "objective", "sampler", "pruner") if key in tags)
    return f"{table_row(cells)}\n\nA study of `{tags['model']}`{how}.\n"


@contextmanager
def study_run(
    project: Project, name: str, study_id: str, definition: Mapping[str, Any], *, directly: bool = False
) -> Generator[StudyRun]:
    """Open the run of a study, or go on with it; it ends FINISHED, FAILED by an exception or KILLED by an interruption.

    Its parameters are the study's definition: all that the trials share, and what varies and how, by dotted path. A
    server is told later by what `recording` keeps, or `directly`.
    """
    from mlflow.entities import Param

    with nullcontext(open_store(project)) if directly else recording(project) as client:
        if record := StudyRun.find(client, project, study_id):
            reopen(client, record.run, {})
        else:
            record = _new_study_run(client, project, name, study_id, definition["model"])
        client.update_run(record.run_id, "RUNNING")
        with ending(partial(client.set_terminated, record.run_id)):
            client.log_batch(record.run_id, params=[Param(key, str(value)) for key, value in definition.items()])
            if not client.get_run(record.run_id).inputs.dataset_inputs:
                digests = definition["data.train"], definition["data.validation"]
                log_split(client, project, record.run_id, digests, context="tuning")
            yield record


def _new_study_run(client: "MlflowClient", project: Project, name: str, study_id: str, model: str) -> StudyRun:
    """Create the run of a study."""
    tags = {
        STUDY: study_id,
        "model": model,
        "mlflow.source.name": f"mnist tune {model} --study {name}",
        "mlflow.source.type": "PROJECT",
        "mlflow.user": getpass.getuser(),
    }
    experiment = client.get_experiment_by_name(tuning_experiment_name(project))
    return StudyRun(client, client.create_run(experiment.experiment_id, tags=tags, run_name=f"{name} study"))
