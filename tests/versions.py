"""Registered versions without any model behind them, and processes that die on the way to the title."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Never

from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.registry.contest import COMPARED_WITH
from mnist_pipeline.registry.registry import CHAMPION, Registry, Version, open_registry
from mnist_pipeline.tracking.store import open_store


def add_version(project: Project, name: str) -> Version:
    """Register a run's model of which nothing exists but its name; `name` stands for the content of its file, too."""
    from mlflow.entities import LoggedModelOutput

    client = open_store(project)
    experiment = client.get_experiment_by_name("mnist")
    assert experiment is not None
    run = client.create_run(experiment.experiment_id, run_name=name)
    model = client.create_logged_model(experiment.experiment_id, source_run_id=run.info.run_id)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, 0)])
    tags = {"model": name, "validation_accuracy": "0.98", "train_md5": "feedbeef00", "git_commit": "c0ffee1234"}
    return Registry.open(project).add(run.info.run_id, name, description=name, tags=tags)


def die_at(call: int, replace: Callable[[Any, str, Any], None], die: Callable[[], Never]) -> None:
    """Let this process die when it is about to write to the registry for the `call`-th time.

    Args:
        call: from 1.
        replace: how to put our own method into a class: `setattr`.
        die: what to do then.
    """
    from mlflow import MlflowClient

    left = [call]

    def mortal(original: Callable[..., Any]) -> Callable[..., Any]:
        def method(*arguments: Any) -> Any:
            left[0] -= 1
            if left[0] == 0:
                die()
            return original(*arguments)

        return method

    for name in (
        "set_registered_model_alias", "delete_registered_model_alias", "set_model_version_tag",
        "delete_model_version_tag", "set_tag", "delete_tag",
    ):  # fmt: skip
        replace(MlflowClient, name, mortal(getattr(MlflowClient, name)))


def kill_this_process() -> Never:
    """End as `kill -9` would."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def take_time() -> None:
    """Let it take two seconds to create a version, so that another process could come in between."""
    from mlflow import MlflowClient

    create = MlflowClient.create_model_version

    def slowly(*arguments: Any, **more: Any) -> Any:
        time.sleep(2)
        return create(*arguments, **more)

    MlflowClient.create_model_version = slowly


def contend(root: str, environment: dict[str, str], rounds: int) -> None:
    """Add a version, compare it with the champion that there is, and promote it, so many times."""
    os.environ |= environment
    project = find_project(Path(root))
    for _ in range(rounds):
        with open_registry(project) as registry:
            champion = registry.find(CHAMPION)
            version = add_version(project, Path(root).name)
            registry.tag(version, {COMPARED_WITH: champion.number if champion else "none"})
            registry.promote(version)


def register_at(root: str, environment: dict[str, str]) -> None:
    """Do what `mnist register` does, with these variables."""
    from mnist_pipeline.stages import register as stage
    from mnist_pipeline.training.params import load_params

    os.environ |= environment
    project = find_project(Path(root))
    stage.run(project, load_params(project.params))


def register(root: str, die: int) -> None:
    """Do what `mnist register` does, or be killed before its `die`-th write; status 3 if it took TensorFlow."""
    from mnist_pipeline.stages import register as stage
    from mnist_pipeline.training.params import load_params

    inherited = "tensorflow" in sys.modules  # from the process that starts those of all tests
    die_at(die, setattr, kill_this_process)
    take_time()
    project = find_project(Path(root))
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{project.tracking_database}"  # MLflow's own may be inherited
    stage.run(project, load_params(project.params))
    sys.exit(3 if "tensorflow" in sys.modules and not inherited else 0)
