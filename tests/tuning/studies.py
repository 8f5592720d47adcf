"""What the tests of whole studies ask of the journal and of MLflow."""

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import keras
import optuna
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch, Monitor, best_epoch
from mnist_pipeline.training.trainer import TrainingResult
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import claim, create_or_resume, load_study

IN_MLFLOW = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def made_up(numbers: Sequence[float], weights: int, monitor: Monitor = "accuracy") -> TrainingResult:
    """Return the result of a training whose epochs had these numbers, as accuracies and losses alike."""
    history = [Epoch(index, 1.0, 0.5, number, number, 0.01) for index, number in enumerate(numbers, start=1)]
    model = cast("keras.Model", SimpleNamespace(count_params=lambda: weights))
    return TrainingResult(model, history, best_epoch(history, monitor), 0.1)


def told(plan: Plan, *values: list[float]) -> Plan:
    """Make a study whose trials came to these values."""
    plan = replace(plan, trials=len(values))
    study = create_or_resume(plan)
    for numbers in values:
        trial = claim(study, plan, 0)
        assert trial is not None
        study.tell(trial, numbers)
    return plan


def trials_of(plan: Plan) -> list[optuna.trial.FrozenTrial]:
    return load_study(plan.file).get_trials()


def finished(plan: Plan) -> list[tuple[dict[str, Any], list[float] | None]]:
    """Return parameters and values, without the trials that a mishap ended."""
    return [(trial.params, trial.values) for trial in trials_of(plan) if trial.state is not TrialState.FAIL]


def runs_of(plan: Plan) -> tuple[Run, dict[int, Run]]:
    """Return the study's run and its child runs by trial."""
    client: MlflowClient = open_store(plan.project)
    experiment = client.get_experiment_by_name(tuning_experiment_name())
    (parent,) = client.search_runs(
        [experiment.experiment_id], f"tags.study_id = '{load_study(plan.file).user_attrs['id']}'"
    )
    children = client.search_runs(
        [experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'", max_results=1000
    )
    numbers = [int(child.data.tags["trial"]) for child in children]
    assert len(numbers) == len(set(numbers)), "a trial has two runs"
    return parent, dict(zip(numbers, children, strict=True))


def curve_of(plan: Plan, run: Run, metric: str = "validation_accuracy") -> dict[int, float]:
    """Return a trial's curve, by epoch; each was logged once."""
    history = open_store(plan.project).get_metric_history(run.info.run_id, metric)
    curve = {point.step: point.value for point in history}
    assert len(curve) == len(history), "an epoch was logged twice"
    return curve


def assert_stores_agree(plan: Plan) -> None:
    """Check statuses, curves and the study's own run."""
    parent, children = runs_of(plan)
    trials = trials_of(plan)
    in_journal = {trial.number: IN_MLFLOW[trial.state.name] for trial in trials}
    assert {number: run.info.status for number, run in children.items()} == in_journal
    assert parent.info.status == "FINISHED"
    for trial in trials:
        curve = curve_of(plan, children[trial.number], f"validation_{'loss' if _is_loss(plan) else 'accuracy'}")
        assert trial.intermediate_values.items() <= curve.items()
        assert list(curve) == list(range(1, len(curve) + 1))


def _is_loss(plan: Plan) -> bool:
    return plan.goal.number == "loss"
