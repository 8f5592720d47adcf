"""Worker processes: a killed one is replaced, a failing one ends the study, and all of them stop when they are told."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import optuna
import pytest
from studies import runs_of

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning import pool
from mnist_pipeline.tuning.plan import Plan, make_plan
from mnist_pipeline.tuning.study import claim, create_or_resume, load_study
from mnist_pipeline.tuning.tune import tune


def deadly_first_trial(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    """Be killed in the study's first trial, like a process that is out of memory."""
    study = load_study(plan.file)
    while trial := claim(study, plan, worker):
        if trial.number == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        study.tell(trial, 0.5)


def failing_worker(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    if worker:
        raise SystemExit(1)
    hanging_worker(plan, worker, run_id, threads)


def hanging_worker(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    claim(load_study(plan.file), plan, worker)
    threading.Event().wait()


@pytest.fixture
def plan(shared: Project, request: pytest.FixtureRequest) -> Plan:
    """A study of 4 trials, named after the test."""
    name = request.node.name.replace("_", "-")[:60]
    return make_plan(shared, load_params(shared.params), "tiny", trials=4, study=name)


@pytest.fixture
def study(plan: Plan) -> optuna.Study:
    return create_or_resume(plan)


@pytest.fixture
def record(plan: Plan, study: optuna.Study) -> Iterator[StudyRun]:
    with study_run(plan.project, plan.study, study.user_attrs["id"], study.user_attrs["definition"]) as record:
        yield record


def states(study: optuna.Study) -> list[str]:
    return [trial.state.name for trial in study.get_trials()]


def statuses(record: StudyRun) -> dict[int, str]:
    return {number: run.info.status for number, run in record.trial_runs().items()}


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(
    plan: Plan, study: optuna.Study, record: StudyRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "work", deadly_first_trial)
    pool.run_workers(plan, study, record, 1)
    assert states(study) == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert study.get_trials()[1].user_attrs["retry_of"] == 0
    assert statuses(record) == {0: "FAILED"}  # told for the dead worker; these workers tell nothing themselves


def test_a_failing_worker_ends_the_study_and_leaves_nothing_running(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "work", failing_worker)
    with pytest.raises(UserError, match=r"Worker 1 of the study .* failed"):
        tune(plan, workers=2)
    assert not multiprocessing.active_children()
    assert "RUNNING" not in states(load_study(plan.file))
    parent, children = runs_of(plan)
    assert "RUNNING" not in {run.info.status for run in (parent, *children.values())}
