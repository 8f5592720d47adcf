"""Studies on several nodes: what is lost is made up for, and who must not or cannot take part is refused."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import Any

import psutil
import pytest
from commands import processes_in, wait_until
from studies import assert_stores_agree, plan_for, scripted, states_of, trials_of

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.tuning import cluster as cluster_module
from mnist_pipeline.tuning.cluster import Hire, Resources, ray_workers
from mnist_pipeline.tuning.tune import tune
from mnist_pipeline.tuning.worker import Worker, code_here

JOIN = """
import sys
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tuning.cluster import Resources, ray_workers
class Idle:
    digest = lambda data: ""
    def __init__(self, *shared): ...
    def prepare(self): ...
try:
    with ray_workers(Resources(cpus=1, address=sys.argv[1]), Idle, None, Idle()):
        print("joined")
except UserError as error:
    print(error)
"""
"""A program that joins a cluster as `mnist tune --address` does."""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A cluster whose head trains nothing, and one node with two cores."""
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or Ray prints 20 lines about each lost node
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "num_gpus": 0, "include_dashboard": False})
    found.add_node(num_cpus=2, num_gpus=0)
    yield found
    found.shutdown()


@pytest.fixture
def resources(cluster: Any) -> Resources:
    """One worker on that cluster."""
    return Resources(cpus=1, address=cluster.address)


def any_workers(project: Project, resources: Resources, worker: type) -> AbstractContextManager[Hire]:
    """Start workers of this class for a study."""
    return ray_workers(resources, worker, plan_for(project, "any"), TrainingData.load(project))


def test_a_node_that_is_lost_in_mid_study_costs_no_trial(
    shared: Project, resources: Resources, cluster: Any, tmp_path: Path
) -> None:
    doomed = cluster.add_node(num_cpus=1, num_gpus=0)

    def take_a_second(trial: int) -> None:
        from ray import get_runtime_context

        (tmp_path / get_runtime_context().get_node_id()).touch()
        time.sleep(1)

    def lose_it() -> None:
        wait_until((tmp_path / doomed.node_id).exists)
        cluster.remove_node(doomed, allow_graceful=False)

    plan, loss = plan_for(shared, "lost-node", trials=8), Thread(target=lose_it)
    loss.start()
    tune(plan, replace(resources, workers=3), scripted(before=take_a_second))
    loss.join()
    assert sorted(states_of(plan)) == [*["COMPLETE"] * 8, "FAIL"]
    lost = states_of(plan).index("FAIL")
    (again,) = (trial for trial in trials_of(plan) if trial.user_attrs.get("retry_of") == lost)
    assert again.params == trials_of(plan)[lost].params
    assert_stores_agree(plan)


@pytest.mark.parametrize(
    ("wanted", "amount"), [({"cpus": 3}, "3 CPUs and 0 GPUs"), ({"gpus": 0.5}, "1 CPU and 0.5 GPUs")]
)
def test_what_no_node_has_is_refused_with_what_they_have(
    shared: Project, resources: Resources, wanted: dict[str, Any], amount: str
) -> None:
    with pytest.raises(UserError, match=f"^No node has {amount}, which .* The nodes have: .*2 CPUs and 0 GPUs"):
        tune(plan_for(shared, "greedy"), replace(resources, **wanted), scripted())


def another_digest(_: TrainingData) -> str:
    return "another"


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("the code of mnist-pipeline", r"the code of mnist-pipeline is \w+, not another"),
        ("data", "The data that arrived on .* are not those that were sent"),
    ],
)
def test_a_worker_whose_code_libraries_or_data_differ_is_refused_with_what_differs(
    shared: Project, resources: Resources, what: str, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = code_here()
    if what == "data":
        monkeypatch.setattr(TrainingData, "digest", another_digest)  # in this process, not in the worker's
    else:
        monkeypatch.setattr(cluster_module, "code_here", lambda: code | {what: "another"})
    with pytest.raises(UserError, match=reason):
        tune(plan_for(shared, f"differs-in-{what.split()[-1]}"), resources, Worker)


def test_a_node_that_lacks_the_code_is_refused_with_what_is_missing(shared: Project, resources: Resources) -> None:
    class FromTomorrow:
        def __init__(self, *shared: Any) -> None:
            __import__("mnist_pipeline_of_tomorrow")

        def prepare(self) -> None: ...

    reason = r"^A worker cannot start \(.*No module named 'mnist_pipeline_of_tomorrow'\): install on each node"
    with pytest.raises(UserError, match=reason):
        tune(plan_for(shared, "tomorrow"), resources, FromTomorrow)


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("127.0.0.1:1", r"^Nobody answers at --address 127.0.0.1:1 \(.*refused\): start the cluster"),
        ("no.such.host.invalid:6379", "^Nobody answers at --address no.such.host.invalid:6379"),
        ("ray://127.0.0.1:10001", "^--address 'ray://127.0.0.1:10001' is no address of a Ray cluster: write auto or"),
        ("local", "^--address 'local' is no address"),
    ],
)
def test_a_wrong_address_is_one_sentence_within_seconds(shared: Project, address: str, reason: str) -> None:
    started = time.monotonic()
    with pytest.raises(UserError, match=reason), any_workers(shared, Resources(address=address), scripted()):
        pass
    assert time.monotonic() - started < 15


def test_a_local_ray_takes_only_clients_that_have_its_token_and_leaves_no_process(
    shared: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    clean = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"} | {"HOME": str(tmp_path)}
    tokens = {"right": os.environ["RAY_AUTH_TOKEN"], "wrong": "0" * 64}
    clients = {
        **{name: clean | {"RAY_AUTH_TOKEN": token} for name, token in tokens.items()},
        "none": clean,
        "disabled": clean | {"RAY_AUTH_MODE": "disabled"},
    }
    with any_workers(shared, Resources(), scripted()):
        assert any("raylet" in command for command in processes_in(tmp_path))
        import ray

        command = [sys.executable, "-c", JOIN, ray.get_runtime_context().gcs_address]
        running = {
            name: subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
            for name, environment in clients.items()
        }
        said = {name: process.communicate()[0] for name, process in running.items()}
    assert said.pop("right") == "joined\n"
    for name, text in said.items():
        assert text.startswith(f"The Ray cluster {command[-1]} cannot be joined ("), name
        assert text.count("\n") == 1
    wait_until(lambda: not any("ray" in command for command in processes_in(tmp_path)))


def test_a_cluster_keeps_no_worker_of_a_study_that_is_over(shared: Project, resources: Resources) -> None:
    class Idle:
        def __init__(self, *shared: Any) -> None: ...

        def prepare(self) -> dict[str, str]:
            return {}

    with any_workers(shared, resources, Idle) as hire:
        import ray

        with hire() as one, hire() as another:
            ray.get([one.prepare.remote(), another.prepare.remote()])
            assert len(_workers()) == 2
    wait_until(lambda: not _workers())


def _workers() -> list[str]:
    found: list[str] = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            found += [line for line in process.cmdline()[:1] if line.startswith("ray::Idle")]
    return found
