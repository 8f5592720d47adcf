"""The front door: quick, plain and never a traceback for a user's mistake."""

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
from mnist_pipeline.core.processes import held
from mnist_pipeline.core.project import ModelId, Project

MNIST = str(Path(sys.executable).with_name("mnist"))


@pytest.fixture
def project(project: Project) -> Project:
    """The small project, before anything is downloaded."""
    shutil.rmtree(project.raw)
    return project


def mnist(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([MNIST, *arguments], cwd=folder, capture_output=True, text=True, check=False, timeout=120)


def test_help_names_every_command_in_groups_and_imports_nothing_heavy(tmp_path: Path) -> None:
    done = mnist("--help", folder=tmp_path)
    assert done.returncode == 0
    for word in ("Pipeline", "Experiments", "Models", "download", "register", "predict", "doctor", "tune"):
        assert word in done.stdout
    heavy = "tensorflow keras mlflow pandas optuna numpy pydantic"
    code = (
        "import sys; sys.argv = ['mnist', '--help']\n"
        "from mnist_pipeline.cli import main\n"
        "try: main()\n"
        f"finally: print([name for name in '{heavy}'.split() if name in sys.modules], file=sys.stderr)"
    )
    listed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert listed.stderr.strip() == "[]"


def test_each_help_fits_a_screen() -> None:
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


@pytest.mark.parametrize(
    "command", ["download", "normalize", "split", "train", "evaluate", "register", "augment", "predict"]
)
def test_each_command_says_what_it_reads_or_writes(command: str, tmp_path: Path) -> None:
    done = mnist(command, "--help", folder=tmp_path)
    assert done.returncode == 0
    assert any(folder in done.stdout for folder in ("data/", "models/", "reports/"))


def test_outside_a_project_one_sentence_says_where_to_go(tmp_path: Path) -> None:
    done = mnist("register", folder=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: No mnist-pipeline project")
    assert len(done.stderr.splitlines()) == 1


def test_no_stage_starts_with_invalid_parameters(project: Project) -> None:
    text = project.params.read_text(encoding="utf-8")
    project.params.write_text(text.replace("validation_size:", "validation_sise:"), encoding="utf-8")
    for command in (["download"], ["normalize"], ["split"], ["train", "mlp"], ["evaluate", "mlp"], ["register"]):
        done = mnist(*command, folder=project.root)
        assert done.returncode == 1
        assert "split.validation_sise" in done.stderr
        assert "`validation_size`" in done.stderr
        assert "Traceback" not in done.stderr
    assert not project.raw.exists()


def test_a_model_that_is_being_trained_is_refused_before_anything_heavy_is_imported(project: Project) -> None:
    code = "import sys\nfrom mnist_pipeline.cli import main\ntry: main()\nfinally: print('tensorflow' in sys.modules)"
    command = [sys.executable, "-c", code, "train", "mlp"]
    with held(project.training_lock("mlp"), "mlp is being trained", "train another seed"):
        done = subprocess.run(command, cwd=project.root, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stdout == "False\n"
    (refusal,) = done.stderr.splitlines()
    assert refusal.startswith(f"error: mlp is being trained in process {os.getpid()} since 2")
    assert refusal.endswith(": wait for it, or train another seed of it with --seed.")
    assert project.training_lock(ModelId("mlp", 7)) != project.training_lock("mlp")


def test_commands_work_from_a_subfolder_and_name_what_is_missing(project: Project) -> None:
    done = mnist("split", folder=project.split)
    assert done.returncode == 1
    assert "data/raw" in done.stderr
    assert "mnist download" in done.stderr
    done = mnist("summary", folder=project.split)
    assert done.returncode == 1
    assert "dvc repro" in done.stderr


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


def test_the_doctor_finds_a_broken_setup(project: Project) -> None:
    done = mnist("doctor", folder=project.root)
    assert done.returncode == 0, done.stdout + done.stderr
    for word in ("python", "tensorflow", "device", "project", "store", "data"):
        assert word in done.stdout
    project.params.write_text("seed: none\n", encoding="utf-8")
    rwlock = project.root / ".dvc" / "tmp" / "rwlock"
    rwlock.parent.mkdir(parents=True)
    rwlock.touch()  # as DVC leaves it on a full disk
    done = mnist("doctor", folder=project.root)
    assert done.returncode == 1
    assert "broken" in done.stdout
    assert "is removed" in done.stdout
    assert not rwlock.exists()
