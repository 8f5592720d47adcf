"""The study on disk: exactly the trials asked for, nothing lost, nothing twice, whatever is killed when."""

import signal
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from studies import told

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import (
    ATTEMPTS,
    claim,
    create_or_resume,
    cut_torn_tail,
    load_study,
    mishap_of,
    repair,
    session,
    values_of,
)


def open_study(plan: Plan) -> optuna.Study:
    study = create_or_resume(plan)
    repair(study, plan.file)
    return study


def ask(plan: Plan, study: optuna.Study, worker: int = 0) -> optuna.Trial | None:
    return claim(study, plan, worker)


def quality(trial: optuna.Trial) -> float:
    """Stands for a training: a number that depends on the parameters alone."""
    return trial.params["training.optimizer.learning_rate"] - trial.params["architecture.dropout"]


def run(plan: Plan, killed_at: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Run a study whose process is killed in the trials with these numbers; return what was tried to the end."""
    study = open_study(plan)
    while (trial := ask(plan, study)) is not None:
        if trial.number in killed_at:
            study = open_study(plan)
        else:
            study.tell(trial, quality(trial))
    return [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def states(study: optuna.Study) -> Counter[str]:
    return Counter(trial.state.name for trial in study.get_trials())


def test_the_current_parameters_come_first(plan: Plan) -> None:
    trial = ask(plan, open_study(plan))
    assert trial is not None
    assert values_of(trial) == {
        "architecture.hidden_units": [8],
        "architecture.dropout": 0.0,
        "training.optimizer.learning_rate": 0.01,
    }


def test_lists_survive_the_journal_and_real_numbers_are_tried_to_six_digits(plan: Plan) -> None:
    study = open_study(plan)
    ask(plan, study)
    study.enqueue_trial(
        {
            "architecture.hidden_units": "[16, 8]",
            "architecture.dropout": 0.1 + 0.2,
            "training.optimizer.learning_rate": 0.0123456789,
        }
    )
    ask(plan, study)
    assert values_of(load_study(plan.file).get_trials()[1]) == {
        "architecture.hidden_units": [16, 8],
        "architecture.dropout": 0.3,
        "training.optimizer.learning_rate": 0.0123457,
    }


def test_a_killed_study_tries_what_an_undisturbed_one_tries(plan: Plan, tmp_path: Path) -> None:
    plan.project.studies.mkdir(parents=True)
    undisturbed = run(plan)
    plan.file.unlink()
    killed = run(plan, killed_at=(0, 2, 5))
    assert len(undisturbed) == 4
    assert killed == undisturbed


def test_no_slot_is_handed_out_twice_and_a_failed_one_is_free_again(plan: Plan) -> None:
    first, second = open_study(plan), load_study(plan.file)
    trials = [ask(plan, study, worker) for study, worker in ((first, 0), (second, 1), (first, 0), (second, 1))]
    assert [trial.number for trial in trials if trial] == [0, 1, 2, 3]
    for trial in trials[:3]:
        assert trial is not None
        first.tell(trial, 0.5)
    repair(first, plan.file, worker=1)
    replacement = ask(plan, first)
    assert replacement is not None
    assert trials[3] is not None
    assert replacement.params == trials[3].params
    assert mishap_of(first, first.get_trials()[3]) == "killed"
    first.tell(replacement, state=TrialState.PRUNED)
    assert ask(plan, first) is None
    assert states(first) == {"COMPLETE": 3, "PRUNED": 1, "FAIL": 1}


def test_two_workers_do_not_ask_the_same_question(plan: Plan) -> None:
    study = open_study(plan)
    asked = [ask(plan, study, worker) for worker in (0, 0, 1)]
    assert len({str(trial.params) for trial in asked if trial}) == 3


@pytest.mark.parametrize(("objective", "joint"), [("accuracy", True), ("accuracy,parameters", False)])
def test_parameters_are_sampled_jointly_for_one_objective_and_one_by_one_for_two(
    plan: Plan, objective: str, joint: bool
) -> None:
    plan = told(replace(plan, objective=objective), *[[0.5, 100.0][: 1 + (not joint)]] * 12)
    study = load_study(plan.file)
    trial = ask(replace(plan, trials=13), study)
    assert trial is not None
    assert isinstance(study.sampler, optuna.samplers.TPESampler)
    together = study.sampler.infer_relative_search_space(study, study.get_trials()[trial.number])
    assert together.keys() == (trial.params.keys() if joint else set())


def test_a_lock_is_free_again_when_its_holder_is_killed(plan: Plan) -> None:
    open_study(plan)
    program = f"""
import os, signal
from pathlib import Path
from mnist_pipeline.tuning.study import load_study
study = load_study(Path({str(plan.file)!r}))
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of Optuna's writing
study.set_user_attr("anything", 1)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    started = time.monotonic()
    ask(plan, load_study(plan.file))
    assert time.monotonic() - started < 5  # Optuna's own lock would be waited for half a minute


def test_parameters_that_kill_are_given_up(plan: Plan) -> None:
    for _ in range(ATTEMPTS):
        ask(plan, open_study(plan))
    study = open_study(plan)
    trial = ask(plan, study)
    assert trial is not None
    assert "origin" not in trial.user_attrs
    assert states(study) == {"FAIL": ATTEMPTS, "RUNNING": 1}


def test_an_interruption_is_not_held_against_the_parameters(plan: Plan) -> None:
    study = open_study(plan)
    for _ in range(ATTEMPTS + 1):
        ask(plan, study)
        repair(study, plan.file, 0, mishap="interrupted")
    trial = ask(plan, study)
    assert trial is not None
    assert trial.user_attrs["origin"] == "current parameters"
    assert trial.user_attrs["attempt"] == 1


@pytest.mark.parametrize("tail", [b'{"op_code":4,"wor', b"\0" * 50, b'{"op_code":4}\n\0\0\n'[7:], b"garbage\n"])
def test_a_torn_tail_is_cut_and_nothing_else(plan: Plan, tail: bytes) -> None:
    ask(plan, open_study(plan))
    whole = plan.file.read_bytes()
    plan.file.write_bytes(whole + tail)
    cut_torn_tail(plan.file)
    assert plan.file.read_bytes() == whole


def test_a_journal_torn_anywhere_can_go_on(plan: Plan) -> None:
    first = run(plan, killed_at=(0,))[0]
    records = plan.file.read_bytes().splitlines(keepends=True)
    for count, record in enumerate(records):
        for torn in (b"", record[: len(record) // 2]):
            plan.file.write_bytes(b"".join(records[:count]) + torn)
            completed = run(plan)
            assert len(completed) == 4
            assert completed[0] == first  # the current parameters, tried again after the kill


def test_another_definition_is_refused_with_what_differs(plan: Plan) -> None:
    open_study(plan)
    with pytest.raises(UserError) as error:
        create_or_resume(replace(plan, params=plan.params.with_seed(1), max_parameters=9))
    assert "max_parameters was none, is 9; seed was 0, is 1. " in str(error.value)
    assert "--study NAME" in str(error.value)


def test_what_was_killed_before_it_had_a_definition_may_become_another(plan: Plan, tmp_path: Path) -> None:
    open_study(plan)
    whole = plan.file.read_bytes().splitlines(keepends=True)
    plan.file.write_bytes(whole[0])  # the study, to be maximized, and nothing more
    study = create_or_resume(replace(plan, objective="loss"))
    assert [way.name for way in study.directions] == ["MINIMIZE"]
    assert len(study.get_trials()) == 1


def test_a_study_that_is_not_there_is_named_with_those_that_are(plan: Plan) -> None:
    open_study(plan)
    with pytest.raises(UserError, match=r"no study other in .* \(tiny\)"):
        load_study(plan.file.with_name("other.log"))


def test_a_session_is_alone(plan: Plan) -> None:
    with session(plan.file), pytest.raises(UserError, match="tiny is running in another process"), session(plan.file):
        pass
    with session(plan.file):
        pass
