"""What a full disk does to DVC's list of locks is mended, but not under a DVC that runs."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.provenance.pipeline import make_ready
from repository import dvc


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A pipeline of one stage that never ends, under DVC and without git."""
    folder = tmp_path_factory.mktemp("pipeline")
    (folder / "params.yaml").write_text("seed: 0\n")
    (folder / "dvc.yaml").write_text("stages: {wait: {cmd: sleep 1000, outs: [never]}}\n")
    (folder / "data").mkdir()
    dvc(folder, "init --no-scm --quiet")
    return find_project(folder)


def rwlock(project: Project) -> Path:
    return project.home / ".dvc" / "tmp" / "rwlock"


@pytest.mark.parametrize("left", ["", '{"write": {"/some/pa'])
def test_a_list_that_was_cut_off_is_removed_and_dvc_works_again(project: Project, left: str) -> None:
    assert make_ready(project) == ""
    rwlock(project).write_text(left)
    said = make_ready(project)
    assert str(rwlock(project)) in said
    assert "is removed" in said
    assert not rwlock(project).exists()
    assert make_ready(project) == ""


def test_a_list_that_can_be_read_stays(project: Project) -> None:
    rwlock(project).write_text('{"write": {}}')
    assert make_ready(project) == ""
    assert rwlock(project).exists()


def test_nothing_is_removed_while_dvc_runs(project: Project) -> None:
    # In a session of its own, to end the command of the stage as well.
    process = subprocess.Popen(
        [sys.executable, "-m", "dvc", "repro"],
        cwd=project.root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while process.poll() is None and not (rwlock(project).exists() and "never" in rwlock(project).read_text()):
            time.sleep(0.1)
        rwlock(project).write_text("")
        with pytest.raises(UserError, match=rf"rwlock is cut off while DVC is running \(process {process.pid}\)"):
            make_ready(project)
        assert rwlock(project).exists()
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert "is removed" in make_ready(project)
