"""Whole studies with the real trainer, Optuna and MLflow."""

import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from mlflow.entities import Run
from studies import assert_stores_agree, curve_of, finished, made_up, runs_of, trials_of

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, load_validation, save_subset
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.params import ModelParams, Params, load_params
from mnist_pipeline.training.trainer import TrainingResult
from mnist_pipeline.tuning import trial as running
from mnist_pipeline.tuning.adopt import adopt
from mnist_pipeline.tuning.plan import Plan, make_plan
from mnist_pipeline.tuning.study import create_or_resume
from mnist_pipeline.tuning.tune import tune


def plan_for(project: Project, study: str, trials: int = 4, **options: Any) -> Plan:
    return make_plan(project, load_params(project.params), "tiny", trials=trials, study=study, **options)


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
    assert [first.metrics["best_validation_accuracy"]] == finished(whole)[0][1]
    assert list(curve_of(whole, children[0])) == [1, 2]


def test_another_search_under_the_same_name_is_refused(shared: Project) -> None:
    plan = plan_for(shared, "refused")
    create_or_resume(plan)
    for changed, message in (
        ({"epochs": 1}, r"training\.epochs was 2, is 1\. Go back to that to resume it, or start another study with"),
        ({"objective": "loss"}, r"objective was accuracy, is loss"),
        ({"max_parameters": 9}, r"max_parameters was none, is 9"),
    ):
        with pytest.raises(UserError, match=message):
            tune(plan_for(shared, "refused", trials=1, **changed))


def test_other_data_or_another_space_under_the_same_name_are_refused(project: Project, params: Params) -> None:
    plan = make_plan(project, params, "tiny", trials=1)
    create_or_resume(plan)
    narrow = project.params.read_text().replace("high: 0.4", "high: 0.2")
    project.params.write_text(narrow)
    with pytest.raises(UserError, match=r'space\.architecture\.dropout was .*"high": 0\.4.*, is .*"high": 0\.2'):
        tune(make_plan(project, load_params(project.params), "tiny", trials=1))
    validation = load_validation(project.split)
    save_subset(project.split / "validation.npz", Subset(validation.images[1:], validation.labels[1:]))
    with pytest.raises(UserError, match=r"data\.validation was "):
        tune(plan)


class Training:
    """Stands for the trainer: reports made-up epochs, whose accuracies and losses are the same numbers, or fails."""

    def __init__(self, outcomes: list[list[float] | BaseException]) -> None:
        self.outcomes = iter(outcomes)
        self.trained: list[ModelParams] = []

    def __call__(self, model: ModelParams, _: Any, *, on_epoch: Any, **options: Any) -> TrainingResult:
        self.trained.append(model)
        outcome = next(self.outcomes)
        if isinstance(outcome, BaseException):
            raise outcome
        assert model.architecture.kind == "mlp"
        weights = 1_000 * sum(model.architecture.hidden_units)
        told: list[float] = []
        for epoch in made_up(outcome, weights).history:
            told.append(epoch.validation_accuracy)
            if on_epoch(epoch):
                break
        return made_up(told, weights, model.training.monitor)


def test_pruned_and_failed_trials_say_so_in_both_stores(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _pruning(plan_for(shared, "pruned", trials=6, epochs=3))
    good: list[list[float] | BaseException] = [[0.7, 0.8, 0.9]] * 5
    failure = UserError("Training diverged in epoch 1.")
    monkeypatch.setattr(running, "train", Training([*good, failure, [0.75, 0.7, 0.9]]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE"] * 5 + ["FAIL", "PRUNED"]
    assert_stores_agree(plan)
    parent, children = runs_of(plan)
    assert children[5].data.tags["error"] == "UserError: Training diverged in epoch 1."
    assert curve_of(plan, children[6]) == {1: 0.75, 2: 0.7}
    assert parent.data.metrics["trials_pruned"] == 1


def test_a_slow_start_is_not_pruned_in_the_first_fifth(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = _pruning(plan_for(shared, "slow-start", trials=7, epochs=10))
    usual, late, bad = [0.5] + [0.8] * 9, [0.1] + [0.9] * 9, [0.1] * 10
    monkeypatch.setattr(running, "train", Training([*[usual] * 5, late, bad]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE"] * 6 + ["PRUNED"]
    assert curve_of(plan, runs_of(plan)[1][6]) == {1: 0.1, 2: 0.1}


def test_an_interrupted_study_leaves_nothing_running_and_goes_on(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for(shared, "interrupted", trials=2)
    monkeypatch.setattr(running, "train", Training([[0.5], KeyboardInterrupt()]))
    with pytest.raises(KeyboardInterrupt):
        tune(plan)
    assert "1 of 2 trials done; the same command goes on from here." in capsys.readouterr().err
    parent, children = runs_of(plan)
    assert parent.info.status == "KILLED"
    assert [children[number].info.status for number in (0, 1)] == ["FINISHED", "FAILED"]
    monkeypatch.setattr(running, "train", Training([[0.6]]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert_stores_agree(plan)


def test_three_failures_in_a_row_stop_the_study(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "failing", trials=9)
    monkeypatch.setattr(running, "train", Training([UserError("first"), UserError("second"), UserError("third")]))
    with pytest.raises(UserError, match="third"):
        tune(plan)
    parent, children = runs_of(plan)
    assert parent.info.status == "FAILED"
    assert {run.info.status for run in children.values()} == {"FAILED"}


def test_no_trial_starts_after_the_time_is_up(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "late", trials=5)
    monkeypatch.setattr(running, "train", Training([[0.5]]))
    tune(replace(plan, until=time.time() - 1))
    assert [trial.state.name for trial in trials_of(plan)] == ["WAITING"]


def test_a_trial_may_end_after_the_time_is_up_but_none_starts(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "timeout", trials=5, timeout="1h")

    class Slow(Training):
        def __call__(self, *arguments: Any, **options: Any) -> TrainingResult:
            object.__setattr__(plan, "until", time.time())  # the hour is over while it trains
            return super().__call__(*arguments, **options)

    monkeypatch.setattr(running, "train", Slow([[0.5], [0.6]]))
    tune(plan)
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE"]
    assert_stores_agree(plan)


def test_by_loss_less_is_better(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _pruning(plan_for(shared, "loss", trials=7, epochs=3, objective="loss"))
    training = Training([*[[0.5, 0.4, 0.45]] * 5, [0.6, 0.3, 0.2], [0.4, 0.3, 0.35]])
    monkeypatch.setattr(running, "train", training)
    tune(plan)
    assert {model.training.monitor for model in training.trained} == {"loss"}
    assert [trial.state.name for trial in trials_of(plan)] == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert trials_of(plan)[6].values == [0.3]
    assert_stores_agree(plan)
    parent, _ = runs_of(plan)
    assert parent.data.metrics["best_validation_loss"] == 0.3
    assert parent.data.metrics["current_validation_loss"] == 0.4
    assert "Best: trial 6, validation loss 0.3000." in capsys.readouterr().out


def test_a_study_by_two_values_prunes_nothing_and_keeps_its_front(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = _pruning(plan_for(shared, "pareto", trials=12, objective="accuracy,parameters"))
    training = Training([[0.8 - 0.01 * trial] for trial in range(12)])
    monkeypatch.setattr(running, "train", training)
    tune(plan)
    assert {trial.state.name for trial in trials_of(plan)} == {"COMPLETE"}
    assert {trial.values[1] for trial in trials_of(plan)} == {8_000, 24_000}
    parent, _ = runs_of(plan)
    assert parent.data.metrics["best_validation_accuracy"] == 0.8  # trial 0, and the smaller network: it beats all
    assert parent.data.metrics["pareto_front_size"] == 1
    assert _artifacts(shared, parent) >= {
        "pareto_front.csv", "trials.csv", "figures.html", "figures/pareto_front.png", "figures/importances.png",
    }  # fmt: skip
    assert "Pareto front" in capsys.readouterr().out


def test_networks_that_are_too_large_are_not_trained(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for(shared, "small", trials=8, max_parameters=7_000)  # [8] has 6,370 weights, [16, 8] has 12,786
    training = Training([[0.5]] * 8)
    monkeypatch.setattr(running, "train", training)
    tune(plan)
    trained = [model.architecture for model in training.trained]
    assert {architecture.hidden_units for architecture in trained if architecture.kind == "mlp"} == {(8,)}
    states = Counter(trial.state.name for trial in trials_of(plan))
    assert states.total() == 8
    assert states["PRUNED"] > 0
    assert states["COMPLETE"] == len(trained)
    assert_stores_agree(plan)
    _, children = runs_of(plan)
    large = [run for run in children.values() if run.data.tags["outcome"] == "too large"]
    assert {run.data.metrics["parameters"] for run in large} == {12_786}
    assert len(large) == states["PRUNED"]
    assert f"8/8 done ({len(large)} too large)" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"max_parameters was 7000, is none"):
        tune(plan_for(shared, "small", trials=12))


def test_a_study_without_a_network_small_enough_says_so(
    shared: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = plan_for(shared, "nothing", trials=2, max_parameters=100, objective="accuracy,parameters")
    monkeypatch.setattr(running, "train", Training([]))
    tune(plan)
    assert "No trial is complete yet (2 too large)." in capsys.readouterr().out
    with pytest.raises(UserError, match="has no complete trial"):
        adopt(shared, plan.params, "nothing", 0)


def test_the_run_of_a_study_says_where_it_comes_from(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_for(shared, "lineage", trials=12, timeout="2h")
    monkeypatch.setattr(running, "train", Training([[0.5 + 0.01 * trial] for trial in range(12)]))
    tune(plan)
    parent, children = runs_of(plan)
    assert {entry.dataset.name: entry.dataset.digest for entry in parent.inputs.dataset_inputs} == {
        f"mnist-{name}": file_digest(shared.split / f"{name}.npz") for name in ("train", "validation")
    }
    tags = parent.data.tags
    assert {"git_commit", "python", "tensorflow", "dvc", "machine", "sampler"} <= tags.keys()
    assert tags["budget"] == "12 trials, 2 epochs each at most, 2h at most, 1 at once"
    assert children[0].data.tags["device_kind"] == "cpu"
    assert _artifacts(shared, parent) >= {"params.yaml", "best.yaml", "trials.csv"} | {
        f"figures/{name}.png" for name in ("optimization_history", "parallel_coordinate", "slice", "importances")
    }
    page = Path(
        mlflow.artifacts.download_artifacts(run_id=parent.info.run_id, artifact_path="figures.html")
    ).read_text()
    assert page.count("Plotly.newPlot(") == 4
    assert "learning_rate" in page
    assert 'src="http' not in page  # all that it needs is in it


def _artifacts(project: Project, run: Run, folder: str = "") -> set[str]:
    listed = open_store(project).list_artifacts(run.info.run_id, folder)
    return {entry.path for entry in listed} | {
        path for entry in listed if entry.is_dir for path in _artifacts(project, run, entry.path)
    }


def test_what_a_kill_kept_from_mlflow_comes_in_with_the_next_session(
    shared: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(shared, "last", trials=1)
    monkeypatch.setattr(running, "train", Training([[0.5]]))
    tune(plan)
    parent, children = runs_of(plan)
    client = open_store(shared)
    for run in (parent, children[0]):  # as if killed after the journal's last word
        client.update_run(run.info.run_id, "RUNNING")
    tune(plan)
    assert_stores_agree(plan)


def _pruning(plan: Plan) -> Plan:
    tuned = {**plan.params.tune, "pruner": "percentile"}
    return replace(plan, params=plan.params.model_copy(update={"tune": tuned}))


def test_the_projects_have_no_test_split_that_a_study_could_have_opened(shared: Project) -> None:
    assert not (shared.split / "test.npz").exists()
