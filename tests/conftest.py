"""Fixtures of several test modules."""

import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from hypothesis import settings

from mnist_pipeline.cli import main
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params, load_params
from small_project import make_project
from typed import Mnist, Said

# The same examples in each run, so that a test fails for everyone or for nobody.
settings.register_profile("repeatable", derandomize=True)
settings.load_profile("repeatable")

FIRST = ("end_to_end", "training", "reproduction", "tracking", "tuning")
"""Folders of the files that take longest: neither of two processes shall be left alone with one in the end."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files; the others stay in their order."""
    items.sort(key=lambda item: FIRST.index(item.path.parent.name) if item.path.parent.name in FIRST else len(FIRST))


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


@pytest.fixture
def mnist(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """Types a command of `mnist` in a folder, and returns what it said."""

    def type_words(words: str, folder: Path) -> Said:
        monkeypatch.chdir(folder)
        monkeypatch.setattr(sys, "argv", ["mnist", *words.split()])
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main()
        said = capsys.readouterr()
        return Said(end.value.code, said.out, said.err)

    return type_words
