"""The study by itself: exactly the trials asked for, nothing lost, nothing twice, whatever is killed when."""

from collections import Counter
from dataclasses import replace
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from studies import created, states_of, study_of, told, trials_of

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tuning import study as study_module
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.storage import Journals, find_studies
from mnist_pipeline.tuning.study import ATTEMPTS, ask, create_or_resume, load_study, recover, values_of, wants_more


def open_study(plan: Plan) -> optuna.Study:
    """Open a study as a session does."""
    with find_studies(plan.project).session(plan.study) as storage:
        study = create_or_resume(plan, storage)
        recover(study)
        return study


def run(plan: Plan, killed_at: tuple[int, ...] = ()) -> list[dict[str, Any]]:
    """Run a study whose process is killed in the trials with these numbers; return what was tried to the end."""
    study = open_study(plan)
    while wants_more(study, plan):
        trial = ask(study, plan)
        if trial.number in killed_at:
            study = open_study(plan)
        else:
            study.tell(trial, trial.params["training.optimizer.learning_rate"] - trial.params["architecture.dropout"])
    return [trial.params for trial in study.get_trials(states=(TrialState.COMPLETE,))]


def test_the_current_parameters_come_first(plan: Plan) -> None:
    """Lists survive the storage, and real numbers are tried to six digits."""
    study = open_study(plan)
    assert values_of(ask(study, plan)) == {
        "architecture.hidden_units": [8],
        "architecture.dropout": 0.0,
        "training.optimizer.learning_rate": 0.01,
    }
    study.enqueue_trial(
        {
            "architecture.hidden_units": "[16, 8]",
            "architecture.dropout": 0.1 + 0.2,
            "training.optimizer.learning_rate": 0.0123456789,
        }
    )
    ask(study, plan)
    assert values_of(trials_of(plan)[1]) == {
        "architecture.hidden_units": [16, 8],
        "architecture.dropout": 0.3,
        "training.optimizer.learning_rate": 0.0123457,
    }


def test_a_killed_study_tries_what_an_undisturbed_one_tries(plan: Plan) -> None:
    killed, undisturbed = run(plan, killed_at=(0, 2, 5)), run(replace(plan, study="undisturbed"))
    assert len(undisturbed) == 4
    assert killed == undisturbed


def test_no_slot_is_handed_out_twice_and_a_failed_one_is_free_again(plan: Plan) -> None:
    study = open_study(plan)
    trials = [ask(study, plan) for _ in range(4)]
    assert len({str(trial.params) for trial in trials}) == 4
    assert not wants_more(study, plan)
    for trial in trials[:3]:
        study.tell(trial, 0.5)
    study.tell(trials[3], state=TrialState.FAIL)  # its worker was killed
    replacement = ask(study, plan)
    assert replacement.params == trials[3].params
    study.tell(replacement, state=TrialState.PRUNED)
    assert not wants_more(study, plan)
    assert Counter(states_of(plan)) == {"COMPLETE": 3, "PRUNED": 1, "FAIL": 1}


@pytest.mark.parametrize(("objective", "joint"), [("accuracy", True), ("accuracy,parameters", False)])
def test_parameters_are_sampled_jointly_for_one_objective_and_one_by_one_for_two(
    plan: Plan, objective: str, joint: bool
) -> None:
    plan = told(replace(plan, objective=objective), *[[0.5, 100.0][: 1 + (not joint)]] * 12)
    study = study_of(plan)
    trial = ask(study, replace(plan, trials=13))
    assert isinstance(study.sampler, optuna.samplers.TPESampler)
    together = study.sampler.infer_relative_search_space(study, study.get_trials()[trial.number])
    assert together.keys() == (trial.params.keys() if joint else set())


@pytest.mark.parametrize(("latest", "alike"), [(5, True), (1_000, False)])
def test_the_sampler_goes_by_the_latest_trials_only(
    plan: Plan, monkeypatch: pytest.MonkeyPatch, latest: int, alike: bool
) -> None:
    """By five it goes at random, whatever they and those before them came to."""
    monkeypatch.setattr(study_module, "LATEST", latest)
    values = [[0.05 * trial] for trial in range(13)]
    one, other = told(replace(plan, study="one"), *values), told(replace(plan, study="other"), *reversed(values))
    studies = study_of(one), study_of(other)
    asked = [[ask(study, each).params for _ in range(3)] for study, each in zip(studies, (one, other), strict=True)]
    assert (asked[0] == asked[1]) == alike


def test_parameters_that_kill_are_given_up(plan: Plan) -> None:
    for _ in range(ATTEMPTS):
        ask(open_study(plan), plan)
    assert "origin" not in ask(open_study(plan), plan).user_attrs
    assert states_of(plan) == ["FAIL"] * ATTEMPTS + ["RUNNING"]


def test_an_interruption_is_not_held_against_the_parameters(plan: Plan) -> None:
    study = open_study(plan)
    for _ in range(ATTEMPTS + 1):
        trial = ask(study, plan)
        recover(study, {trial.number: trial})
    trial = ask(study, plan)
    assert trial.user_attrs["origin"] == "current parameters"
    assert trial.user_attrs["attempt"] == 1


def test_a_journal_torn_anywhere_can_go_on(plan: Plan) -> None:
    first = run(plan, killed_at=(0,))[0]
    journal = Journals(plan.project.studies).file(plan.study)
    records = journal.read_bytes().splitlines(keepends=True)
    for count, record in enumerate(records):
        for torn in (b"", record[: len(record) // 2]):
            journal.write_bytes(b"".join(records[:count]) + torn)
            completed = run(plan)
            assert len(completed) == 4
            assert completed[0] == first  # the current parameters, tried again after the kill


def test_what_was_killed_before_it_had_a_definition_may_become_another(plan: Plan) -> None:
    open_study(plan)
    journal = Journals(plan.project.studies).file(plan.study)
    journal.write_bytes(journal.read_bytes().splitlines(keepends=True)[0])  # the study, to be maximized, and no more
    study = created(replace(plan, objective="loss"))
    assert [way.name for way in study.directions] == ["MINIMIZE"]


def test_a_study_that_is_not_there_is_named_with_those_that_are(plan: Plan) -> None:
    open_study(plan)
    with pytest.raises(UserError, match=r"no study other in .* \(tiny\)"):
        load_study(find_studies(plan.project), "other")
