"""Whatever is killed or interrupted when: exactly the trials asked for, and two stores that tell the same."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
from studies import assert_stores_agree, finished, runs_of, trials_of

from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning.plan import Plan, make_plan

COMPLETE = '"state":1'
"""What the journal says of a trial that is done."""
PATIENCE = 120
"""Seconds, for a machine that has other things to do."""


class Zygote:
    """See zygote.py."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # MLflow writes the store that this process uses into its environment.
            env={name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")},
        )
        assert self._line() == "ready"

    def start(self, plan: Plan, *options: str) -> "Command":
        """Start `mnist tune` for a study."""
        log = plan.project.root / f"{plan.study}.txt"
        arguments = ["tune", plan.name, "--study", plan.study, "--trials", str(plan.trials), *options]
        assert self.process.stdin is not None
        self.process.stdin.write(
            json.dumps({"folder": str(plan.project.root), "arguments": arguments, "log": str(log)}) + "\n"
        )
        self.process.stdin.flush()
        return Command(int(self._line()), log)

    def stop(self) -> None:
        self.process.communicate(timeout=PATIENCE)

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()


@dataclass(frozen=True)
class Command:
    """A running `mnist tune`."""

    pid: int
    log: Path

    @property
    def is_running(self) -> bool:
        return psutil.pid_exists(self.pid)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to the whole process group, as a terminal does."""
        os.killpg(self.pid, number)

    def wait(self) -> str:
        """Wait until it has ended, and return what it has printed."""
        give_up = time.monotonic() + PATIENCE
        while self.is_running:
            assert time.monotonic() < give_up, self.log.read_text()
            time.sleep(0.02)
        return self.log.read_text()


@pytest.fixture(scope="module")
def zygote() -> Iterator[Zygote]:
    zygote = Zygote()
    yield zygote
    zygote.stop()


def plan_for(project: Project, study: str, trials: int) -> Plan:
    return make_plan(project, load_params(project.params), "tiny", trials=trials, study=study)


def wait_for(plan: Plan, command: Command, *, done: int, then: str) -> None:
    """Wait until so many trials are done and the journal says `then` after that."""
    before = plan.file.read_text() if plan.file.exists() else ""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        assert command.is_running, f"it ended before it could be killed: {command.log.read_text()}"
        new = plan.file.read_text()[len(before) :] if plan.file.exists() else ""
        if before.count(COMPLETE) + new.count(COMPLETE) >= done and then in new.rpartition(COMPLETE)[2]:
            return
        time.sleep(0.01)
    raise AssertionError(f"it never got that far: {command.log.read_text()}")


def test_four_workers_on_an_empty_store_are_interrupted_and_go_on(empty: Project, zygote: Zygote) -> None:
    plan = plan_for(empty, "four", trials=8)
    command = zygote.start(plan, "--workers", "4")
    wait_for(plan, command, done=2, then='"worker"')
    group = [process for process in psutil.process_iter() if os.getpgid(process.pid) == command.pid]
    assert len(group) >= 5
    command.signal_all(signal.SIGINT)
    said = command.wait()
    assert said.endswith("exit 130\n"), said
    assert "of 8 trials done; the same command goes on from here." in said
    assert "Traceback" not in said
    _, alive = psutil.wait_procs(group, timeout=10)
    assert not alive
    states = Counter(trial.state.name for trial in trials_of(plan))
    assert states["RUNNING"] == 0
    assert 2 <= states["COMPLETE"] < 8
    parent, _ = runs_of(plan)
    assert parent.info.status == "KILLED"

    assert zygote.start(plan, "--workers", "2").wait().endswith("exit 0\n")
    assert len(finished(plan)) == 8
    assert_stores_agree(plan)


def test_a_study_that_is_killed_twice_ends_like_one_that_was_not(empty: Project, zygote: Zygote) -> None:
    plan = plan_for(empty, "killed", trials=4)
    for done, then in ((0, '"worker"'), (2, '"intermediate_value"')):  # just claimed; an epoch reported
        command = zygote.start(plan)
        wait_for(plan, command, done=done, then=then)
        command.signal_all(signal.SIGKILL)
        command.wait()
    zygote.start(plan).wait()
    assert Counter(trial.state.name for trial in trials_of(plan)) == {"COMPLETE": 4, "FAIL": 2}
    assert_stores_agree(plan)
    _, children = runs_of(plan)
    failed = [run for run in children.values() if run.info.status == "FAILED"]
    assert {run.data.tags["error"] for run in failed} == {"the process was killed"}
    undisturbed = plan_for(empty, "undisturbed", trials=4)
    zygote.start(undisturbed).wait()
    assert finished(plan) == finished(undisturbed)


def test_a_study_killed_at_random_moments_ends_with_exactly_its_trials(empty: Project, zygote: Zygote) -> None:
    plan = plan_for(empty, "random", trials=4)
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    for _ in range(6):
        command = zygote.start(plan)
        time.sleep(moments.uniform(0.1, 4))
        if command.is_running:
            command.signal_all(signal.SIGKILL)
        command.wait()
    assert zygote.start(plan).wait().endswith("exit 0\n"), seed
    states = Counter(trial.state.name for trial in trials_of(plan))
    assert states["COMPLETE"] == 4, seed
    assert states.keys() <= {"COMPLETE", "FAIL"}, seed
    tried = [trial.user_attrs["retry_of"] for trial in trials_of(plan) if "retry_of" in trial.user_attrs]
    assert len(tried) == len(set(tried)), "a trial was tried again twice"
    assert_stores_agree(plan)
