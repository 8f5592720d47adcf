"""Fixtures of several test modules."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params, load_params
from small_project import make_project

# The same examples in each run, so that a test fails for everyone or for nobody.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the developer's settings out of the tests, and the tests out of the developer's store."""
    mlflow = ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "MLFLOW_RUN_ID")
    for name in (*mlflow, "MNIST_OFFLINE", "DVC_ROOT", "DVC_EXP_NAME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def nothing_keeps_running() -> Iterator[None]:
    """End the servers that a module has started and, because a test failed half-way, has not ended."""
    yield
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if {"mnist", "mlflow"} & {Path(word).name for word in child.cmdline()}:
                child.kill()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A project of its own, as `make_project` makes it."""
    return make_project(tmp_path)


@pytest.fixture
def params(project: Project) -> Params:
    """The parameters of `project`."""
    return load_params(project.params)
