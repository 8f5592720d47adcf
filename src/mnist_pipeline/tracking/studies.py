"""Studies in MLflow: one run per study, one child run per trial, with statuses that agree with the study's journal."""

import getpass
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
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
from mnist_pipeline.tracking.outbox import PARENT, STUDY, TRIAL, keeps_delivered, process_tags, recording, reopen
from mnist_pipeline.tracking.runs import ending
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.params import ModelParams, Params

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

SHARED = (
    "model", "mlflow.source.name", "mlflow.source.type", "mlflow.source.git.commit", "git_commit", "git_dirty",
    "host", "process",
)  # fmt: skip
"""Tags that a trial's run has from the study's."""
MOST = 1_000
"""Metrics in one request, at most: MLflow allows no more."""


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
    epochs: "Sequence[Metric]"
    """Those of its epochs."""
    error: str | None
    """Why it failed."""
    begin: int | None = None
    """When it began, in milliseconds since 1970; None is now."""
    end: int | None = None
    """When it ended."""

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

    def log_trial(self, trial: TrialEnd, tags: Mapping[str, str], run: "Run | None" = None) -> None:
        """Log a trial that has ended as a child run, which is new, or was begun by a process that was killed meanwhile.

        All at once: a request for each epoch would slow down large studies.
        """
        from mlflow.entities import Param

        run = reopen(self.client, run) if run else self._new_trial_run(trial, tags)
        metrics = [*trial.epochs, *as_metrics(trial.metrics, int(trial.metrics.get("best_epoch", 0)))]
        params = [Param(path, str(value)) for path, value in trial.values.items()]
        for first in range(0, len(metrics) or 1, MOST):
            missing = () if run.data.metrics else metrics[first : first + MOST]
            self.client.log_batch(run.info.run_id, missing, params)
        self.client.set_terminated(run.info.run_id, trial.status, trial.end)

    def _new_trial_run(self, trial: TrialEnd, tags: Mapping[str, str]) -> "Run":
        study, shared = self.run.info, {key: tag for key, tag in self.run.data.tags.items() if key in SHARED}
        error = {"error": trial.error[:5_000]} if trial.error else {}
        return self.client.create_run(
            study.experiment_id,
            trial.begin,
            {**shared, **tags, PARENT: self.run_id, TRIAL: str(trial.number), "outcome": trial.outcome, **error},
            f"{str(study.run_name).removesuffix(' study')} trial {trial.number}",
        )

    def untold(self, ends: Iterable[TrialEnd]) -> "list[tuple[TrialEnd, Run | None]]":
        """Return the trials whose run does not tell how they ended, with that run, or that have none."""
        runs = self.trial_runs()
        every = [(end, runs.get(end.number)) for end in ends]
        return [(end, run) for end, run in every if run is None or run.info.status != end.status]

    def reconcile(self, ends: Iterable[TrialEnd]) -> None:
        """Make the child runs agree with how the trials ended, wherever one is missing or its process was killed."""
        for end, run in self.untold(ends):
            self.log_trial(end, {}, run)

    def forget(self, known: int) -> None:
        """Delete the runs of trials from this number on, which the study will use again.

        It has forgotten them where the last line of its journal was lost with the power.
        """
        for number, run in self.trial_runs().items():
            if number >= known:
                self.client.delete_tag(run.info.run_id, PARENT)  # or it would be found in the outbox all the same
                self.client.delete_run(run.info.run_id)

    def log_result(self, metrics: Mapping[str, float], files: Mapping[str, str]) -> None:
        """Log what the study has come to so far: its numbers, and texts as artifacts, by name."""
        self.client.log_batch(self.run_id, metrics=as_metrics(metrics, 0))
        for name, text in files.items():
            self.client.log_text(self.run_id, text, name)
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
        found = StudyRun.find(client, project, study_id)
        run = reopen(client, found.run) if found else _new_run(client, project, name, study_id, definition["model"])
        record = StudyRun(client, run)
        with ending(partial(client.set_terminated, record.run_id)):
            client.log_batch(record.run_id, params=[Param(key, str(value)) for key, value in definition.items()])
            if not client.get_run(record.run_id).inputs.dataset_inputs:
                digests = definition["data.train"], definition["data.validation"]
                log_split(client, project, record.run_id, digests, context="tuning")
            yield record


def _new_run(client: "MlflowClient", project: Project, name: str, study_id: str, model: str) -> "Run":
    """Create the run of a study."""
    tags = {
        STUDY: study_id,
        "model": model,
        "mlflow.source.name": f"mnist tune {model} --study {name}",
        "mlflow.source.type": "PROJECT",
        "mlflow.user": getpass.getuser(),
        **process_tags(),
    }
    experiment = client.get_experiment_by_name(tuning_experiment_name(project))
    return client.create_run(experiment.experiment_id, tags=tags, run_name=f"{name} study")
