"""`mnist tune` interrupted, killed and run twice: exactly the trials asked for, two stores that agree, and no noise.

Most of these commands start a Ray of their own.
"""

import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from commands import Command, processes_in, wait_until
from studies import assert_stores_agree, finished, plan_for, scripted, states_of, trials_of

from mnist_pipeline.core.project import Project
from mnist_pipeline.tuning.cluster import Resources

SESSIONS = 10
"""Random moments of a run of the tests; the next run draws others."""
OWN = 3
"""So many of these sessions start a Ray of their own, which takes seconds; the others join one that is there."""


@pytest.fixture(scope="module")
def empty(shared: Project) -> Iterator[Project]:
    """A project, and the demand that nobody works in its folder in the end."""
    yield shared
    # Ray's agents notice only after a minute that all others were killed.
    wait_until(lambda: not processes_in(shared.root))


def slow(seconds: float) -> type:
    return scripted(before=lambda _: time.sleep(seconds))


def killed_once(marker: Path) -> type:
    def before(trials: int) -> None:
        if trials == 1 and not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return scripted(before=before)


def test_a_driver_killed_at_random_moments_ends_with_exactly_its_trials(empty: Project, ray: Resources) -> None:
    plan = plan_for(empty, "random", trials=40)
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    for session in range(SESSIONS):
        address = [] if session < OWN else ["--address", str(ray.address)]
        command = Command(plan, "--workers", "2", *address, workers=partial(slow, 0.3))
        if session % 2:
            command.wait_for("trials done")
        time.sleep(moments.uniform(0, 1.5 if session % 2 else 4))
        command.process.kill()
        command.wait()
    command = Command(plan, "--workers", "2", workers=partial(slow, 0.0))
    assert command.wait() == 0, (seed, command.said)
    states = Counter(states_of(plan))
    assert states["COMPLETE"] == 40, seed
    assert states.keys() <= {"COMPLETE", "FAIL"}, seed
    begun = [trial for trial in trials_of(plan) if trial.params.keys() == plan.space.keys()]
    tried = Counter(trial.user_attrs.get("retry_of") for trial in begun)
    assert [number for number, times in tried.items() if number is not None and times > 1] == [], seed
    assert_stores_agree(plan)
    left = " ".join(processes_in(empty.root))
    assert not re.search("gcs_server|raylet/raylet|log_monitor|ray::Scripted", left), seed


@pytest.mark.parametrize(
    ("number", "when"), [(signal.SIGINT, "2/8 done"), (signal.SIGTERM, "1/8 done"), (signal.SIGTERM, "starting")]
)
def test_an_interrupted_command_says_so_leaves_nothing_running_and_goes_on(
    empty: Project, number: signal.Signals, when: str
) -> None:
    plan = plan_for(empty, f"{number.name}-{when[0]}", trials=8)
    command = Command(plan, "--workers", "2", workers=partial(slow, 1))
    if when == "starting":
        wait_until(lambda: "raylet/raylet" in " ".join(processes_in(empty.root)))
    else:
        command.wait_for(when)
        second = Command(plan)
        assert second.wait() == 1
        assert re.fullmatch(
            rf"error: The study {plan.study} is running in process {command.process.pid} since [-\d]+ [:+\d]+: "
            "wait for it, or start another with --study NAME.\n",
            second.said,
        )
    command.signal_all(number)
    assert command.wait() == 130, command.said
    done = 0 if when == "starting" else Counter(states_of(plan))["COMPLETE"]
    last = f"Study {plan.study} of tiny: {done} of 8 trials done; the same command goes on from here.\nInterrupted.\n"
    assert command.said.endswith(last), command.said
    lines = command.said.removesuffix(last).splitlines()
    assert [line for line in lines if not line.startswith(("Study ", "trial "))] == []
    assert "RUNNING" not in states_of(plan)
    assert_stores_agree(plan, "KILLED")
    assert not any("ray::Scripted" in line for line in processes_in(empty.root))
    if when == "2/8 done":
        assert Command(plan, "--workers", "2", workers=scripted).wait() == 0
        assert len(finished(plan)) == 8
        assert_stores_agree(plan)


def test_the_screen_shows_the_study_and_nothing_else(empty: Project) -> None:
    plan = plan_for(empty, "screen", trials=3)
    command = Command(plan, workers=partial(killed_once, empty.root / "killed"))
    assert command.wait() == 0, command.said
    said = re.sub(r"\d+:\d\d:\d\d", "0:00:00", command.said)
    expected = """\
Study screen of tiny: 0 of 3 trials done, 2 epochs each at most, 1 at once.
trial 0  complete    90.00%  best 90.00% (trial 0)  1/3 done, 0:00:00 left
A worker was killed; another one takes over.
trial 1  failed              best 90.00% (trial 0)  1/3 done (1 failed), 0:00:00 left
trial 2  complete    50.00%  best 90.00% (trial 0)  2/3 done (1 failed), 0:00:00 left
trial 3  complete    50.00%  best 90.00% (trial 0)  3/3 done (1 failed)
Study screen of tiny: 3 of 3 trials done
Best: trial 0, validation accuracy 90.00%.
That is the current parameters: no trial did better.
"""
    assert said == expected
