"""Workers that follow a script, and what the tests of whole studies ask of the study and of MLflow."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch, best_epoch
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import ask, create_or_resume, load_study
from mnist_pipeline.tuning.worker import Result

IN_MLFLOW = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def scripted(*script: Sequence[float | Exception], before: Callable[[int], object] = id) -> type:
    """Return a class of workers that do not train, but follow a script.

    Args:
        script: for one trial of a worker after the other, its epochs: numbers, as accuracies and losses alike, or an
            error. Without any, all trials have one epoch, whose number follows from the parameters.
        before: called when a worker starts a trial, with the number of those that it has begun before.
    """

    class Scripted:
        # Local, because Ray sends the code of such a class: the workers cannot import the tests.
        def __init__(self, plan: Plan, *_: object) -> None:
            self.training, self.trials = plan.model.training, 0

        def prepare(self) -> dict[str, str]:
            return {"host": "here"}

        def start(self, values: Mapping[str, Any]) -> Epoch | Result:
            before(self.trials)
            self.left = [*(script[self.trials] if script else [0.9 - values["architecture.dropout"]])]
            self.trials, self.history = self.trials + 1, list[Epoch]()
            self.weights = 1_000 * sum(values["architecture.hidden_units"])
            return self.go_on(stop=False)

        def go_on(self, stop: bool) -> Epoch | Result:
            if stop or not self.left:
                return Result(self.weights, best_epoch(self.history, self.training.monitor), len(self.history), 0.1)
            number = self.left.pop(0)
            if isinstance(number, Exception):
                raise number
            self.history.append(Epoch(len(self.history) + 1, 1.0, 0.5, number, number, 0.01))
            return self.history[-1]

    return Scripted


def plan_for(project: Project, study: str, trials: int = 4, **options: Any) -> Plan:
    """Return the plan of a study of the project's only model."""
    return Plan(project, load_params(project.params), "tiny", study, trials, **options)


def study_of(plan: Plan) -> optuna.Study:
    return load_study(find_studies(plan.project), plan.study)


def created(plan: Plan) -> optuna.Study:
    """Create or resume a study outside a session."""
    return create_or_resume(plan, find_studies(plan.project, plan.storage).open(plan.study))


def told(plan: Plan, *values: list[float]) -> Plan:
    """Make a study whose trials came to these values."""
    plan = replace(plan, trials=len(values))
    study = created(plan)
    for numbers in values:
        study.tell(ask(study, plan), numbers)
    return plan


def trials_of(plan: Plan) -> list[FrozenTrial]:
    return study_of(plan).get_trials()


def states_of(plan: Plan) -> list[str]:
    return [trial.state.name for trial in trials_of(plan)]


def finished(plan: Plan) -> list[tuple[dict[str, Any], list[float] | None]]:
    """Return parameters and values, without the trials that a mishap ended."""
    return [(trial.params, trial.values) for trial in trials_of(plan) if trial.state is not TrialState.FAIL]


def runs_of(plan: Plan) -> tuple[Run, dict[int, Run]]:
    """Return the study's run and its child runs by trial."""
    client: MlflowClient = open_store(plan.project)
    experiment = client.get_experiment_by_name(tuning_experiment_name(plan.project))
    (parent,) = client.search_runs([experiment.experiment_id], f"tags.study_id = '{study_of(plan).user_attrs['id']}'")
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
    )
    numbers = [int(child.data.tags["trial"]) for child in children]
    assert len(numbers) == len(set(numbers)), "a trial has two runs"
    return parent, dict(zip(numbers, children, strict=True))


def curve_of(plan: Plan, run: Run) -> dict[int, float]:
    """Return the number that decides in a trial, by epoch; each was logged once."""
    history = open_store(plan.project).get_metric_history(run.info.run_id, f"val_{plan.goal.number}")
    curve = {point.step: point.value for point in history}
    assert len(curve) == len(history), "an epoch was logged twice"
    return curve


def assert_stores_agree(plan: Plan, status: str = "FINISHED") -> None:
    """Check that the study's own run has this status, and those of its trials their status and their curve."""
    parent, children = runs_of(plan)
    assert parent.info.status == status
    in_study = {trial.number: IN_MLFLOW[trial.state.name] for trial in trials_of(plan) if trial.state.is_finished()}
    assert {number: run.info.status for number, run in children.items()} == in_study
    for trial in trials_of(plan):
        if trial.state.is_finished():
            curve = curve_of(plan, children[trial.number])
            assert trial.intermediate_values.items() <= curve.items()
            assert list(curve) == list(range(1, len(curve) + 1))


def artifacts_of(project: Project, run: Run, folder: str = "") -> Iterator[str]:
    """Return the paths of all that was logged with a run."""
    for entry in open_store(project).list_artifacts(run.info.run_id, folder):
        yield from artifacts_of(project, run, entry.path) if entry.is_dir else [entry.path]
