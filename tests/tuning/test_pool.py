"""Worker processes: a killed one is replaced, a failing one ends the study, and all of them stop when they are told."""

import os
import signal
import threading
from pathlib import Path

import optuna
import pytest

from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.studies import StudyRun, study_run
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.pool import Target, run_workers
from mnist_pipeline.tuning.space import current_values
from mnist_pipeline.tuning.study import claim, create_or_resume, load_study


def quick_worker(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    """Run the trials of the plan without training anything."""
    study = load_study(plan.file)
    record = StudyRun.open(plan.project, run_id)
    while trial := claim(study, plan.file, plan.space, trials=plan.trials, seed=0, worker=worker):
        run = record.start_trial(trial.number, trial.params)
        study.tell(trial, 0.5)
        record.client.set_terminated(run, "FINISHED")


def deadly_first_trial(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    """Be killed in the study's first trial, like a process that is out of memory."""
    study = load_study(plan.file)
    if not study.get_trials(states=(optuna.trial.TrialState.FAIL,)):
        trial = claim(study, plan.file, plan.space, trials=plan.trials, seed=0, worker=worker)
        assert trial is not None
        StudyRun.open(plan.project, run_id).start_trial(trial.number, trial.params)
        os.kill(os.getpid(), signal.SIGKILL)
    quick_worker(plan, worker, run_id, threads)


def failing_worker(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    if worker:
        raise SystemExit(1)
    hanging_worker(plan, worker, run_id, threads)


def hanging_worker(plan: Plan, worker: int, run_id: str, threads: int) -> None:
    claim(load_study(plan.file), plan.file, plan.space, trials=plan.trials, seed=0, worker=worker)
    threading.Event().wait()


def run(plan: Plan, target: Target, count: int) -> tuple[list[str], list[str]]:
    """Run the pool; return the states of the trials and the statuses of their runs, in order."""
    study = create_or_resume(plan.file, plan.definition(), current_values(plan.space, plan.model))
    with study_run(plan.project, plan.study, study.user_attrs["id"], study.user_attrs["definition"], {}) as record:
        try:
            run_workers(plan, study, record, count, target)
        finally:
            runs = sorted(record._children(), key=lambda run: int(run.data.tags["trial"]))
            outcome = [trial.state.name for trial in study.get_trials()], [run.info.status for run in runs]
            (plan.project.root / "outcome").write_text(str(outcome))
    return outcome


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(plan: Plan) -> None:
    states, statuses = run(plan, deadly_first_trial, 1)
    assert states == ["FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert statuses == ["FAILED", "FINISHED", "FINISHED", "FINISHED", "FINISHED"]


def test_four_workers_on_an_empty_store_run_exactly_the_trials_asked_for(plan: Plan) -> None:
    assert run(plan, quick_worker, 4) == (["COMPLETE"] * 4, ["FINISHED"] * 4)


def test_a_failing_worker_ends_the_study_and_leaves_nothing_running(plan: Plan, project: Project) -> None:
    with pytest.raises(UserError, match="Worker 1 of the study tiny failed"):
        run(plan, failing_worker, 2)
    outcome = Path(project.root / "outcome").read_text()
    assert "RUNNING" not in outcome
