"""The study on disk: exactly the trials asked for, nothing lost, nothing twice, whatever is killed when."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from mnist_pipeline.errors import UserError
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.space import current_values
from mnist_pipeline.tuning.study import (
    ATTEMPTS,
    claim,
    create_or_resume,
    cut_torn_tail,
    decode,
    encode,
    load_study,
    mend,
    session_lock,
)


def open_study(plan: Plan) -> optuna.Study:
    study = create_or_resume(plan.file, plan.definition(), current_values(plan.space, plan.model))
    mend(study, plan.file)
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
    assert decode(plan.space, trial.params) == {
        "architecture.hidden_units": [8],
        "architecture.dropout": 0.0,
        "training.optimizer.learning_rate": 0.01,
    }


def test_encoding_survives_the_journal(plan: Plan) -> None:
    values = {"architecture.hidden_units": [16, 8], "architecture.dropout": 0.1}
    assert decode(plan.space, json.loads(json.dumps(encode(values)))) == values


def test_real_numbers_are_tried_to_six_digits(plan: Plan) -> None:
    tried = decode(plan.space, {"architecture.dropout": 0.1 + 0.2, "training.optimizer.learning_rate": 0.0123456789})
    assert tried == {"architecture.dropout": 0.3, "training.optimizer.learning_rate": 0.0123457}


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
    mend(first, plan.file, worker=1)
    replacement = ask(plan, first)
    assert replacement is not None
    assert trials[3] is not None
    assert replacement.params == trials[3].params
    first.tell(replacement, state=TrialState.PRUNED)
    assert ask(plan, first) is None
    assert states(first) == {"COMPLETE": 3, "PRUNED": 1, "FAIL": 1}


def test_two_workers_do_not_ask_the_same_question(plan: Plan) -> None:
    study = open_study(plan)
    asked = [ask(plan, study, worker) for worker in (0, 0, 1)]
    assert len({str(trial.params) for trial in asked if trial}) == 3


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
        mend(study, plan.file, 0, mishap="interrupted")
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
    run(plan)
    whole = plan.file.read_bytes()
    for cut in range(0, len(whole), 97):
        plan.file.write_bytes(whole[:cut])
        assert len(run(plan)) == 4


def test_another_definition_is_refused_with_what_differs(plan: Plan) -> None:
    open_study(plan)
    with pytest.raises(UserError) as error:
        create_or_resume(plan.file, {**plan.definition(), "seed": 1, "data.train": "abc"}, {})
    assert "data.train was " in str(error.value)
    assert "seed was 0, is 1" in str(error.value)
    assert "--study NAME" in str(error.value)


def test_what_was_killed_before_it_had_a_definition_may_become_another(plan: Plan, tmp_path: Path) -> None:
    open_study(plan)
    whole = plan.file.read_bytes().splitlines(keepends=True)
    plan.file.write_bytes(whole[0])  # the study, to be maximized, and nothing more
    by_loss = {**plan.definition(), "objective": "loss"}
    study = create_or_resume(plan.file, by_loss, current_values(plan.space, plan.model))
    assert [way.name for way in study.directions] == ["MINIMIZE"]
    assert len(study.get_trials()) == 1


def test_a_study_that_is_not_there_is_named_with_those_that_are(plan: Plan) -> None:
    open_study(plan)
    with pytest.raises(UserError, match=r"no study other in .* \(tiny\)"):
        load_study(plan.file.with_name("other.log"))


def test_a_session_is_alone(plan: Plan) -> None:
    with session_lock(plan.file):
        assert not _can_lock(plan.file)
    assert _can_lock(plan.file)


def _can_lock(file: Path) -> bool:
    from filelock import Timeout

    try:
        with session_lock(file).acquire(timeout=0):
            return True
    except Timeout:
        return False
