"""The front door: quick, plain and never a traceback for a user's mistake."""

import io
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from mnist_pipeline import cli
from mnist_pipeline.core.console import say
from mnist_pipeline.core.processes import held
from mnist_pipeline.core.project import ModelId, Project
from typed import Mnist

MNIST = str(Path(sys.executable).with_name("mnist"))


@pytest.fixture
def project(project: Project) -> Project:
    """The small project, before anything is downloaded."""
    shutil.rmtree(project.raw)
    return project


LISTED = """
import sys
from mnist_pipeline.cli import main
try:
    main()
finally:
    print([name for name in "tensorflow keras mlflow pandas optuna numpy pydantic".split() if name in sys.modules])
"""
"""Runs `mnist`, and tells at the end which heavy packages were imported."""


def mnist_in_a_process(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", LISTED, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command_in_groups_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done = mnist_in_a_process("--help", folder=tmp_path)
    assert done.returncode == 0
    for word in ("Pipeline", "Experiments", "Models", "download", "register", "predict", "doctor", "tune"):
        assert word in done.stdout
    assert done.stdout.endswith("\n[]\n")


def test_each_help_fits_a_screen_and_says_what_a_stage_reads_or_writes() -> None:
    from typer.main import get_command
    from typer.testing import CliRunner

    names = ["", *get_command(cli.app).commands]  # pyright: ignore[reportAttributeAccessIssue]
    screen = {"COLUMNS": "100", "TERMINAL_WIDTH": "100", "NO_COLOR": "1"}
    for name in names:
        shown = CliRunner().invoke(cli.app, [*filter(None, [name]), "--help"], env=screen)
        lines = shown.stdout.splitlines()
        assert shown.exit_code == 0
        assert max(map(len, lines)) <= 100, name
        assert len(lines) <= 40, f"{name}: {len(lines)}"
        if name in ("download", "normalize", "split", "train", "evaluate", "register", "augment", "predict"):
            assert any(folder in shown.stdout for folder in ("data/", "models/", "reports/")), name


def test_outside_a_project_one_sentence_says_where_to_go(mnist: Mnist, tmp_path: Path) -> None:
    assert mnist("register", tmp_path).refusal.startswith("error: No mnist-pipeline project")


def test_no_stage_starts_with_invalid_parameters(mnist: Mnist, project: Project) -> None:
    text = project.params.read_text(encoding="utf-8")
    project.params.write_text(text.replace("validation_size:", "validation_sise:"), encoding="utf-8")
    for command in ("download", "normalize", "split", "train mlp", "evaluate mlp", "register"):
        refusal = mnist(command, project.root).refusal
        assert "split.validation_sise" in refusal
        assert "`validation_size`" in refusal
    assert not project.raw.exists()


def test_a_model_that_is_being_trained_is_refused_before_anything_heavy_is_imported(project: Project) -> None:
    with held(project.training_lock("mlp"), "mlp is being trained", "train another seed"):
        done = mnist_in_a_process("train", "mlp", folder=project.root)
    assert done.returncode == 1
    assert "tensorflow" not in done.stdout
    (refusal,) = done.stderr.splitlines()
    assert refusal.startswith(f"error: mlp is being trained in process {os.getpid()} since 2")
    assert refusal.endswith(": wait for it, or train another seed of it with --seed.")
    assert project.training_lock(ModelId("mlp", 7)) != project.training_lock("mlp")


def test_commands_work_from_a_subfolder_and_name_what_is_missing(mnist: Mnist, project: Project) -> None:
    refusal = mnist("split", project.split).refusal
    assert "data/raw" in refusal
    assert "mnist download" in refusal
    assert "dvc repro" in mnist("summary", project.split).refusal


def test_an_interruption_ends_with_one_line_and_status_130(project: Project, httpserver: HTTPServer) -> None:
    def hang(_: Request) -> Response:
        time.sleep(5)
        return Response(status=404)

    httpserver.expect_request("/train-images-idx3-ubyte.gz").respond_with_handler(hang)
    httpserver.expect_request("/train-images-idx3-ubyte").respond_with_handler(hang)
    environment = {**os.environ, "MNIST_MIRROR": httpserver.url_for("/")}
    process = subprocess.Popen(
        [MNIST, "download"],
        cwd=project.root,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    time.sleep(3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.strip().splitlines() == ["Interrupted."]


def test_the_doctor_finds_a_broken_setup(mnist: Mnist, project: Project) -> None:
    done = mnist("doctor", project.root)
    assert done.status == 0, done
    for word in ("python", "tensorflow", "device", "project", "store", "data"):
        assert word in done.printed
    project.params.write_text("seed: none\n", encoding="utf-8")
    rwlock = project.root / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.touch()  # as DVC leaves it on a full disk
    done = mnist("doctor", project.root)
    assert done.status == 1
    assert "broken" in done.printed
    assert "is removed" in done.printed
    assert not rwlock.exists()


def test_a_terminal_that_knows_only_ascii_gets_a_question_mark(monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii", write_through=True))
    cli.run_command(lambda: say("7 ▀"))
    assert written.getvalue() == b"7 ?\n"
