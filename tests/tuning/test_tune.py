"""Whole studies with real Ray, Optuna and MLflow; most have workers that follow a script instead of training."""

import os
import signal
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
from studies import (
    artifacts_of,
    assert_stores_agree,
    created,
    curve_of,
    finished,
    plan_for,
    runs_of,
    scripted,
    states_of,
    trials_of,
)

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, load_validation, save_subset
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.devices import choose_device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import Params
from mnist_pipeline.training.trainer import train
from mnist_pipeline.tuning import tune as tuning
from mnist_pipeline.tuning.cluster import Resources
from mnist_pipeline.tuning.params import apply
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import values_of
from mnist_pipeline.tuning.tune import tune
from mnist_pipeline.tuning.worker import Result, Worker

GOOD = [0.7, 0.8, 0.9]


def pruning(plan: Plan) -> Plan:
    tuned = {**plan.params.tune, "pruner": "percentile"}
    return replace(plan, params=plan.params.model_copy(update={"tune": tuned}))


def killed_once(marker: Path) -> type:
    """Return a class of real workers, the first of which is killed in the middle of a trial."""

    class Killed(Worker):
        def go_on(self, stop: bool) -> Epoch | Result:
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            return super().go_on(stop)

    return Killed


def test_a_study_that_really_trains(shared: Project, ray: Resources, tmp_path: Path) -> None:
    """It repeats what the trainer does, also when a worker is killed, and does not train what is too large."""
    plan = plan_for(shared, "real", max_parameters=7_000)  # [8] has 6,370 weights, [16, 8] has 12,786
    tune(plan, ray, killed_once(tmp_path / "marker"))
    assert states_of(plan)[:2] == ["FAIL", "COMPLETE"]
    assert trials_of(plan)[1].user_attrs["retry_of"] == 0
    assert_stores_agree(plan)
    _, children = runs_of(plan)
    large = {number for number, run in children.items() if run.data.tags["outcome"] == "too large"}
    assert {children[number].data.metrics["parameters"] for number in large} == {12_786}
    assert large == {trial.number for trial in trials_of(plan) if values_of(trial)["architecture.hidden_units"] != [8]}
    assert 0 < len(large) < 4
    for trial in [trial for trial in trials_of(plan) if trial.number not in (0, *large)][:2]:
        model, run = apply(plan.model, values_of(trial)), children[trial.number]
        direct = train(model, TrainingData.load(shared), seed=0, device=choose_device("cpu"))
        assert trial.values == [direct.best.val_accuracy]
        assert curve_of(plan, run) == {epoch.epoch: epoch.val_accuracy for epoch in direct.history}
        assert run.data.metrics["best_val_loss"] == direct.best.val_loss
        assert run.data.tags["device"] == "cpu, float32"
        assert run.data.params["architecture.hidden_units"] == "[8]"


def test_a_study_is_resumed_to_the_number_asked_for_and_is_repeatable(shared: Project, ray: Resources) -> None:
    resumed, whole = plan_for(shared, "resumed"), plan_for(shared, "whole")
    tune(plan_for(shared, "resumed", trials=2), ray, scripted())
    tune(resumed, ray, scripted())
    tune(resumed)  # there is nothing left to do: no Ray starts
    tune(whole, ray, scripted())
    assert len(finished(whole)) == 4
    assert finished(resumed) == finished(whole)
    for plan in (resumed, whole):
        assert_stores_agree(plan)


def test_trials_run_at_once_each_in_a_process_and_none_twice(
    shared: Project, ray: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuning, "TRIALS_PER_PROCESS", 3)

    class Told(scripted(before=lambda _: time.sleep(0.2))):
        def prepare(self) -> dict[str, str]:
            return {"host": str(os.getpid())}

    plan = plan_for(shared, "parallel", trials=11)
    tune(plan, replace(ray, workers=3), Told)
    assert states_of(plan) == ["COMPLETE"] * 11
    assert len({str(params) for params, _ in finished(plan)}) == 11
    assert_stores_agree(plan)
    _, children = runs_of(plan)
    processes = Counter(run.data.tags["host"] for run in children.values())
    assert len(processes) > 3
    assert max(processes.values()) == 3  # TensorFlow's memory grows: a fresh process takes over


def test_parameters_that_kill_workers_are_given_up_and_so_is_the_study(
    shared: Project, ray: Resources, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tuning, "DEATHS", 4)
    plan = plan_for(shared, "deadly")
    with pytest.raises(UserError, match=r"^4 workers were killed, most likely for want of memory: run it again with"):
        tune(plan, ray, scripted(before=lambda _: os.kill(os.getpid(), signal.SIGKILL)))
    assert capsys.readouterr().err.count("A worker was killed; another one takes over.\n") == 4
    first, *others = [trial.params for trial in trials_of(plan) if trial.state.name == "FAIL"]
    assert [params == first for params in others] == [True, True, False]
    assert_stores_agree(plan, "FAILED")
    tune(plan, ray, scripted())
    assert states_of(plan) == ["FAIL"] * 4 + ["COMPLETE"] * 4
    errors = {run.data.tags.get("error") for run in runs_of(plan)[1].values()}
    assert errors == {"the process was killed", None}


@pytest.mark.parametrize("failing", ["__init__", "prepare"])
def test_a_worker_that_cannot_work_ends_the_study_with_its_reason(
    shared: Project, ray: Resources, failing: str
) -> None:
    def fail(self: object, *_: object) -> None:
        raise UserError("The node has no such library.")

    plan = plan_for(shared, f"unable-{failing.strip('_')}")
    with pytest.raises(UserError, match="The node has no such library"):
        tune(plan, replace(ray, workers=2), type("Unable", (scripted(),), {failing: fail}))
    assert states_of(plan) == []
    assert_stores_agree(plan, "FAILED")


def test_another_search_under_the_same_name_is_refused(project: Project, params: Params) -> None:
    plan = plan_for(project, "tiny", trials=1)
    created(plan)
    for changed, message in (
        ({"epochs": 1}, r"training\.epochs was 2, is 1\. Go back to that to resume it, or start another study with"),
        ({"objective": "loss"}, r"objective was accuracy, is loss"),
        ({"max_parameters": 9}, r"max_parameters was none, is 9"),
    ):
        with pytest.raises(UserError, match=message):
            tune(plan_for(project, "tiny", trials=1, **changed))
    with pytest.raises(UserError, match=r"seed was 0, is 1\. .* start another study with --study NAME\.$"):
        tune(replace(plan, params=params.with_seed(1)))
    project.params.write_text(project.params.read_text().replace("high: 0.4", "high: 0.2"))
    with pytest.raises(UserError, match=r'space\.architecture\.dropout was .*"high": 0\.4.*, is .*"high": 0\.2'):
        tune(plan_for(project, "tiny", trials=1))
    validation = load_validation(project.split)
    save_subset(project.split / "validation.npz", Subset(validation.images[1:], validation.labels[1:]))
    with pytest.raises(UserError, match=r"data\.validation was "):
        tune(plan)


def test_pruned_and_failed_trials_say_so_in_both_stores(shared: Project, ray: Resources) -> None:
    plan = pruning(plan_for(shared, "pruned", trials=6, epochs=3))
    tune(plan, ray, scripted(*[GOOD] * 5, [UserError("Training diverged in epoch 1.")], [0.75, 0.7, 0.9]))
    assert states_of(plan) == ["COMPLETE"] * 5 + ["FAIL", "PRUNED"]
    assert_stores_agree(plan)
    parent, children = runs_of(plan)
    assert children[5].data.tags["error"] == "UserError: Training diverged in epoch 1."
    assert curve_of(plan, children[6]) == {1: 0.75, 2: 0.7}
    assert parent.data.metrics["trials_pruned"] == 1


def test_a_slow_start_is_not_pruned_in_the_first_fifth(shared: Project, ray: Resources) -> None:
    plan = pruning(plan_for(shared, "slow-start", trials=7, epochs=10))
    usual, late, bad = [0.5] + [0.8] * 9, [0.1] + [0.9] * 9, [0.1] * 10
    tune(plan, ray, scripted(*[usual] * 5, late, bad))
    assert states_of(plan) == ["COMPLETE"] * 6 + ["PRUNED"]
    assert curve_of(plan, runs_of(plan)[1][6]) == {1: 0.1, 2: 0.1}


def test_three_failures_in_a_row_stop_the_study(shared: Project, ray: Resources) -> None:
    plan = plan_for(shared, "failing", trials=9)
    first, second, third = ([UserError(name)] for name in ("first", "second", "third"))
    with pytest.raises(UserError, match=r"^third$"):
        tune(plan, ray, scripted(first, second, GOOD, first, second, third))
    assert states_of(plan) == ["FAIL", "FAIL", "COMPLETE", "FAIL", "FAIL", "FAIL"]
    assert_stores_agree(plan, "FAILED")


def test_a_trial_may_end_after_the_time_is_up_but_none_starts(
    shared: Project, ray: Resources, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_for(shared, "timeout", trials=5, timeout="1h")
    with monkeypatch.context() as patch:
        patch.setattr(Plan, "is_time_up", property(lambda plan: states_of(plan) != []))  # as soon as a trial has begun
        tune(plan, ray, scripted())
    assert states_of(plan) == ["COMPLETE"]
    assert_stores_agree(plan)
    plan.until = time.monotonic()
    tune(plan, ray, scripted())
    assert states_of(plan) == ["COMPLETE"]


def test_by_loss_less_is_better(shared: Project, ray: Resources, capsys: pytest.CaptureFixture[str]) -> None:
    plan = pruning(plan_for(shared, "loss", trials=7, epochs=3, objective="loss"))
    tune(plan, ray, scripted(*[[0.5, 0.4, 0.45]] * 5, [0.6, 0.3, 0.2], [0.4, 0.3, 0.35]))
    assert states_of(plan) == ["COMPLETE"] * 5 + ["PRUNED", "COMPLETE"]
    assert trials_of(plan)[6].values == [0.3]
    assert_stores_agree(plan)
    parent, _ = runs_of(plan)
    assert parent.data.metrics["best_val_loss"] == 0.3
    assert parent.data.metrics["current_val_loss"] == 0.4
    assert "Best: trial 6, validation loss 0.3000." in capsys.readouterr().out


def test_a_study_by_two_values_prunes_nothing_and_keeps_its_front(
    shared: Project, ray: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = pruning(plan_for(shared, "pareto", trials=12, objective="accuracy,parameters"))
    tune(plan, ray, scripted(*([0.8 - 0.01 * trial] for trial in range(12))))
    assert set(states_of(plan)) == {"COMPLETE"}
    assert {trial.values[1] for trial in trials_of(plan)} == {8_000, 24_000}
    parent, _ = runs_of(plan)
    assert parent.data.metrics["best_val_accuracy"] == 0.8  # trial 0, and the smaller network: it beats all
    assert parent.data.metrics["pareto_front_size"] == 1
    assert {*artifacts_of(shared, parent)} >= {
        "pareto_front.csv",
        "trials.csv",
        "figures.html",
    }
    assert "Pareto front" in capsys.readouterr().out


def test_a_study_without_a_network_small_enough_says_so(
    shared: Project, ray: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    class TooLarge(scripted()):
        def start(self, values: dict[str, Any]) -> Result:
            return Result(12_786)

    plan = plan_for(shared, "nothing", trials=2, max_parameters=100, objective="accuracy,parameters")
    tune(plan, ray, TooLarge)
    said = capsys.readouterr().out
    assert "2/2 done (2 too large)" in said
    assert "No trial is complete yet (2 too large)." in said
    assert_stores_agree(plan)


def test_the_run_of_a_study_says_where_it_comes_from(shared: Project, ray: Resources) -> None:
    plan = plan_for(shared, "lineage", trials=12, timeout="2h")
    tune(plan, ray, scripted(*([0.5 + 0.01 * trial] for trial in range(12))))
    parent, children = runs_of(plan)
    assert {entry.dataset.name: entry.dataset.digest for entry in parent.inputs.dataset_inputs} == {
        f"mnist-{name}": file_digest(shared.split / f"{name}.npz") for name in ("train", "validation")
    }
    assert not (shared.split / "test.npz").exists()  # no study could have opened it
    tags = parent.data.tags
    assert {"git_commit", "sampler"} <= tags.keys()
    assert tags["budget"] == "12 trials, 2 epochs each at most, 2h at most, 1 at once"
    assert f"; budget: {tags['budget']}; objective: accuracy; " in tags["mlflow.note.content"]
    assert (parent.info.run_name, children[3].info.run_name) == ("lineage study", "lineage trial 3")
    assert {*artifacts_of(shared, parent)} >= {"params.yaml", "best.yaml", "trials.csv"}
    page = mlflow.artifacts.load_text(f"runs:/{parent.info.run_id}/figures.html")
    assert page.count("Plotly.newPlot(") == 4
    assert "learning_rate" in page
    assert 'src="http' not in page  # all that it needs is in it


def test_what_a_kill_kept_from_mlflow_comes_in_with_the_next_session(shared: Project, ray: Resources) -> None:
    plan = plan_for(shared, "last", trials=2)
    tune(plan, ray, scripted(GOOD, GOOD))
    parent, children = runs_of(plan)
    client = open_store(shared)
    for run in (parent, children[0]):  # as if killed after the study's last word
        client.update_run(run.info.run_id, "RUNNING")
    client.delete_run(children[1].info.run_id)
    tune(plan)
    assert_stores_agree(plan)
    assert curve_of(plan, runs_of(plan)[1][1]) == dict(enumerate(GOOD, start=1))
