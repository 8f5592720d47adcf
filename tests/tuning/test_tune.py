"""Whole studies with the real trainer, Optuna and MLflow."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from optuna.trial import TrialState

from mnist_pipeline.errors import UserError
from mnist_pipeline.params import load_params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning import workers
from mnist_pipeline.tuning.launch import tune
from mnist_pipeline.tuning.objective import Score
from mnist_pipeline.tuning.plan import Plan, make_plan
from mnist_pipeline.tuning.study import load_study

COMPLETE = '"state":1'
"""What the journal says of a trial that is done."""
IN_MLFLOW = {"COMPLETE": "FINISHED", "PRUNED": "KILLED", "FAIL": "FAILED"}


def plan_for(project: Project, study: str, trials: int = 4, **options: Any) -> Plan:
    return make_plan(project, load_params(project.params), "tiny", trials=trials, study=study, **options)


def trials_of(plan: Plan) -> list[optuna.trial.FrozenTrial]:
    return load_study(plan.file).get_trials()


def finished(plan: Plan) -> list[tuple[dict[str, Any], float | None]]:
    """Return parameters and values, without the trials that a mishap ended."""
    return [(trial.params, trial.value) for trial in trials_of(plan) if trial.state is not TrialState.FAIL]


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


def assert_stores_agree(plan: Plan) -> None:
    parent, children = runs_of(plan)
    in_journal = {trial.number: IN_MLFLOW[trial.state.name] for trial in trials_of(plan)}
    assert {number: run.info.status for number, run in children.items()} == in_journal
    assert parent.info.status == "FINISHED"


def test_a_study_is_resumed_to_the_number_asked_for_and_is_repeatable(shared: Project) -> None:
    resumed, whole = plan_for(shared, "resumed"), plan_for(shared, "whole")
    tune(plan_for(shared, "resumed", trials=2))
    tune(resumed)
    tune(resumed)  # there is nothing left to do
    tune(whole)
    assert len(finished(whole)) == 4
    assert finished(resumed) == finished(whole)
    for plan in (resumed, whole):
        assert_stores_agree(plan)
    _, children = runs_of(whole)
    first = children[0].data
    assert first.params["architecture.hidden_units"] == "[8]"
    assert first.metrics["best_validation_accuracy"] == finished(whole)[0][1]
    history = open_store(shared).get_metric_history(children[0].info.run_id, "validation_accuracy")
    assert [metric.step for metric in history] == [1, 2]


def test_another_search_under_the_same_name_is_refused(shared: Project) -> None:
    tune(plan_for(shared, "refused", trials=1))
    with pytest.raises(UserError, match=r"training\.epochs was 2, is 1\."):
        tune(plan_for(shared, "refused", trials=1, epochs=1))


def test_a_study_that_is_killed_twice_ends_like_one_that_was_not(shared: Project) -> None:
    plan = plan_for(shared, "killed", trials=4)
    _kill_when(plan, done=0, then='"worker"')  # a trial has just been claimed
    _kill_when(plan, done=2, then='"intermediate_value"')  # an epoch has been reported
    tune(plan)
    states = [trial.state.name for trial in trials_of(plan)]
    assert states.count("COMPLETE") == 4
    assert states.count("FAIL") == 2
    assert len(states) == 6
    assert_stores_agree(plan)
    _, children = runs_of(plan)
    failed = [run for run in children.values() if run.info.status == "FAILED"]
    assert {run.data.tags["error"] for run in failed} == {"the process was killed"}
    undisturbed = plan_for(shared, "undisturbed", trials=4)
    tune(undisturbed)
    assert finished(plan) == finished(undisturbed)


def _kill_when(plan: Plan, *, done: int, then: str) -> None:
    """Start `mnist tune`; kill it once so many trials are done and `then` is in the journal."""
    command = [sys.executable, "-c", "from mnist_pipeline.cli import main; main()", "tune", "tiny"]
    process = subprocess.Popen(
        [*command, "--trials", str(plan.trials), "--study", plan.study],
        cwd=plan.project.root,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    _wait_for(plan, process, done=done, then=then)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _wait_for(plan: Plan, process: "subprocess.Popen[bytes]", *, done: int, then: str) -> None:
    before = plan.file.read_text() if plan.file.exists() else ""
    give_up = time.monotonic() + 90
    while time.monotonic() < give_up:
        assert process.poll() is None, "it ended before it could be killed"
        new = plan.file.read_text()[len(before) :] if plan.file.exists() else ""
        if before.count(COMPLETE) + new.count(COMPLETE) >= done and then in new.rpartition(COMPLETE)[2]:
            return
        time.sleep(0.02)
    raise AssertionError("it never got that far")


class Training:
    """Stands for the trainer: reports made-up epochs, or fails."""

    def __init__(self, outcomes: list[list[float] | BaseException]) -> None:
        self.outcomes = iter(outcomes)

    def __call__(self, _model: Any, _data: Any, report: Any, **_: Any) -> Score:
        outcome = next(self.outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        epochs: list[Epoch] = []
        for accuracy in outcome:
            epochs.append(Epoch(len(epochs) + 1, 1.0, 0.5, 1.0, accuracy, 0.01, 0.1))
            if report(epochs[-1]):
                break
        return Score(max(epochs, key=lambda epoch: epoch.rank("accuracy")), parameters=10, seconds=0.1)


def test_pruned_and_failed_trials_say_so_in_both_stores(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "pruned", trials=6, epochs=3)
    tuned = plan.params.tune.model_copy(update={"pruner": "percentile"})
    plan = _with(plan, params=plan.params.model_copy(update={"tune": tuned}))
    good: list[list[float] | BaseException] = [[0.7, 0.8, 0.9]] * 5
    failure = UserError("Training diverged in epoch 1.")
    monkeypatch.setattr(workers, "score", Training([*good, failure, [0.75, 0.7, 0.9]]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE"] * 5 + ["FAIL", "PRUNED"]
    assert_stores_agree(plan)
    parent, children = runs_of(plan)
    assert children[5].data.tags["error"] == "UserError: Training diverged in epoch 1."
    history = open_store(shared).get_metric_history(children[6].info.run_id, "validation_accuracy")
    assert [metric.value for metric in history] == [0.75, 0.7]
    assert parent.data.metrics["trials_pruned"] == 1


def test_an_interrupted_study_leaves_nothing_running_and_goes_on(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for(shared, "interrupted", trials=2)
    monkeypatch.setattr(workers, "score", Training([[0.5], KeyboardInterrupt()]))
    with pytest.raises(KeyboardInterrupt):
        tune(plan)
    assert "1 of 2 trials done; the same command goes on from here." in capsys.readouterr().err
    parent, children = runs_of(plan)
    assert parent.info.status == "KILLED"
    assert [children[number].info.status for number in (0, 1)] == ["FINISHED", "FAILED"]
    monkeypatch.setattr(workers, "score", Training([[0.6]]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert_stores_agree(plan)


def test_three_failures_in_a_row_stop_the_study(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "failing", trials=9)
    monkeypatch.setattr(workers, "score", Training([UserError("first"), UserError("second"), UserError("third")]))
    with pytest.raises(UserError, match="third"):
        tune(plan)
    parent, children = runs_of(plan)
    assert parent.info.status == "FAILED"
    assert {run.info.status for run in children.values()} == {"FAILED"}


def test_no_trial_starts_after_the_time_is_up(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "late", trials=5)
    monkeypatch.setattr(workers, "score", Training([[0.5]]))
    tune(_with(plan, until=time.time() - 1))
    assert [trial.state.name for trial in trials_of(plan)] == ["WAITING"]


def _with(plan: Plan, **changed: Any) -> Plan:
    from dataclasses import replace

    return replace(plan, **changed)


def test_the_projects_have_no_test_split_that_a_study_could_have_opened(shared: Project) -> None:
    assert not (shared.split / "test.npz").exists()
    assert not Path(shared.normalized / "test.npz").exists()
