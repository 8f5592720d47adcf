"""Where studies are kept: one writer at a time, and a damaged journal loses nothing without a word."""

import os
import signal
import subprocess
import sys
import time

import pytest
from studies import study_of, told

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import show_studies
from mnist_pipeline.tuning.storage import Journals, find_studies
from mnist_pipeline.tuning.study import create_or_resume


@pytest.fixture
def journals(plan: Plan) -> Journals:
    """Where a study of two trials is."""
    told(plan, [0.5], [0.9])
    return Journals(plan.project.studies)


@pytest.mark.parametrize("torn", [b'{"op_code":4,"wor', b"\0" * 50, b"\0\0\n", b'{"op_code":4,"wor\0\0\n'])
def test_a_torn_last_line_is_cut_and_nothing_else(journals: Journals, torn: bytes) -> None:
    file = journals.file("tiny")
    whole = file.read_bytes()
    file.write_bytes(whole + torn)
    with journals.session("tiny"):
        assert file.read_bytes() == whole


@pytest.mark.parametrize("damage", ["middle", "record", "end", "binary", "compressed"])
def test_a_damaged_journal_is_moved_aside_whole_and_named(journals: Journals, plan: Plan, damage: str) -> None:
    file = journals.file("tiny")
    first, *others = file.read_bytes().splitlines(keepends=True)
    content = {
        "middle": b"".join([first, b"garbage\n", *others]),
        "record": b"".join([first, b'{"unknown": 1}\n', *others]),
        "end": b"".join([first, *others, b"garbage"]),
        "binary": bytes(range(256)) * 9,
        "compressed": b"\x1f\x8b",  # a single line
    }[damage]
    for number in (1, 2):  # what lies aside already stays there
        file.write_bytes(content)
        aside = file.with_name(f"tiny.damaged{number}")
        with pytest.raises(UserError, match=f"{file} is damaged, and is {aside} now"), journals.session("tiny"):
            pass
        assert aside.read_bytes() == content
        assert not file.exists()
    with journals.session("tiny") as storage:
        assert create_or_resume(plan, storage).get_trials() == []


def test_a_damaged_journal_does_not_keep_others_from_being_listed(
    journals: Journals, plan: Plan, capsys: pytest.CaptureFixture[str]
) -> None:
    journals.file("bad").write_bytes(b"garbage\ngarbage\n")
    show_studies(journals)
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["tiny", "tiny", "accuracy", "2", "0", "90.00%", "50.00%"]
    assert said.err.startswith(f"{journals.file('bad')} is damaged (JSONDecodeError: ")
    assert said.err.endswith(": `mnist tune` with --study bad moves it aside.\n")


def test_a_journal_that_cannot_be_read_is_not_taken_for_damaged(journals: Journals) -> None:
    file = journals.file("tiny")
    file.replace(file.with_name("kept"))
    file.mkdir()  # even the administrator, as whom tests may run, cannot read it
    with pytest.raises(IsADirectoryError), journals.session("tiny"):
        pass
    assert file.is_dir()


def test_a_lock_is_free_again_when_its_holder_is_killed(journals: Journals, plan: Plan) -> None:
    program = f"""
import os, signal
from pathlib import Path
from mnist_pipeline.tuning.storage import Journals
from mnist_pipeline.tuning.study import load_study
study = load_study(Journals(Path({str(journals.folder)!r})), "tiny")
os.fsync = lambda _: os.kill(os.getpid(), signal.SIGKILL)  # in the middle of Optuna's writing
study.set_user_attr("anything", 1)
"""
    killed = subprocess.run([sys.executable, "-c", program], check=False)
    assert killed.returncode == -signal.SIGKILL
    started = time.monotonic()
    study_of(plan).set_user_attr("anything", 2)
    assert time.monotonic() - started < 5  # Optuna's own lock would be waited for half a minute


def test_a_study_has_one_session_at_a_time(journals: Journals) -> None:
    holder = (
        rf"^The study tiny is running in process {os.getpid()} since .*: wait for it, or start another with --study"
    )
    with journals.session("tiny"):
        with pytest.raises(UserError, match=holder), journals.session("tiny"):
            pass
        with journals.session("other"):
            pass
    with journals.session("tiny"):
        pass


@pytest.mark.parametrize("url", ["mysql://me:secret@host/studies", "sqlite:///studies.db", "host/studies"])
def test_what_is_no_postgresql_is_refused(project: Project, url: str) -> None:
    with pytest.raises(UserError, match="is no PostgreSQL database: write postgresql://USER@HOST/DATABASE") as raised:
        find_studies(project, url)
    assert "secret" not in str(raised.value)
