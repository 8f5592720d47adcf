"""A tracking server that is lost, slow or none at all, and a disk that is full: one sentence each, and soon."""

import os
import re
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from mnist_pipeline.cli import run_command
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.runs import ending
from mnist_pipeline.tracking.store import open_store, trouble

CLOSED = "http://somebody:hunter2@127.0.0.1:1"
"""Address of a server that is not running."""


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    """A server of its own, because what one has answered once, this process knows."""
    with HTTPServer(threaded=True) as server:
        yield server


def refusal(project: Project, monkeypatch: pytest.MonkeyPatch, address: str) -> str:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with pytest.raises(UserError) as refused:
        open_store(project)
    return str(refused.value)


def be_mlflow(server: HTTPServer) -> None:
    """Answer as a server with both experiments does."""

    def answer(request: Request) -> Response:
        name = request.args.get("experiment_name", "")
        return Response(f'{{"experiment": {{"experiment_id": "1", "name": "{name}"}}}}')

    server.expect_request(re.compile("/api/2.0/mlflow/experiments/.*")).respond_with_handler(answer)


def test_a_database_that_another_process_holds_is_waited_for(tmp_path: Path) -> None:
    file = tmp_path / "mlflow.db"
    with closing(sqlite3.connect(file, isolation_level=None)) as holder:
        holder.execute("BEGIN EXCLUSIVE")
        with closing(sqlite3.connect(file, timeout=0)) as other, pytest.raises(sqlite3.OperationalError) as error:
            other.execute("SELECT * FROM sqlite_master")
    said = trouble(error.value, f"sqlite:///{file}")
    assert said.endswith(
        "/mlflow.db is held by another process (database is locked): wait for it or end it, then run the command again."
    )


def test_a_server_that_is_not_running_is_soon_named_without_its_password(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = time.monotonic()
    said = refusal(project, monkeypatch, CLOSED)
    assert time.monotonic() - start < 10
    assert "http://127.0.0.1:1 does not answer" in said
    assert "Connection refused): start it" in said
    assert "unset MLFLOW_TRACKING_URI" in said
    assert "hunter2" not in said


def test_a_server_that_hangs_is_given_up_after_ten_seconds(
    project: Project, server: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server.expect_request(re.compile(".*")).respond_with_handler(lambda _: Response(time.sleep(6)))
    address = server.url_for("")
    start = time.monotonic()
    assert f"{address} does not answer (timed out): start it, or unset" in refusal(project, monkeypatch, address)
    assert time.monotonic() - start < 12
    assert capsys.readouterr().err == ""


def test_the_users_own_patience_wins(project: Project, server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    server.expect_request(re.compile(".*")).respond_with_data("", 503)
    assert "(too many 503 error responses)" in refusal(project, monkeypatch, server.url_for(""))
    assert len(server.log) == 1
    assert os.environ["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "0"


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ("", 401, "does not know this user (status 401): set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"),
        ("", 403, "refuses this user (status 403): ask who runs it for the permission EDIT of the experiment, or"),
        ("<html>", 404, "is no MLflow server"),
        ('{"detail": "Not found"}', 404, "is no MLflow server"),
        ("<html>Welcome</html>", 200, "is no MLflow server"),
        ('{"error_code": "INTERNAL_ERROR", "message": "no tables"}', 400, "cannot be used (INTERNAL_ERROR: no tables)"),
    ],
)
def test_an_answer_that_is_no_use_says_what_to_correct(
    body: str, status: int, said: str, project: Project, server: HTTPServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.expect_request(re.compile(".*")).respond_with_data(body, status)
    sentence = refusal(project, monkeypatch, server.url_for(""))
    assert f"{server.url_for('')} {said}" in sentence
    assert "unset MLFLOW_TRACKING_URI" in sentence


def test_a_file_that_cannot_be_written_is_not_blamed_on_the_address(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.tracking_database.mkdir()
    sentence = refusal(project, monkeypatch, "")
    assert sentence.startswith(f"sqlite:///{project.tracking_database} cannot be read or written (unable to open")
    shutil.rmtree(project.artifacts)
    project.artifacts.touch()
    assert refusal(project, monkeypatch, "").startswith(f"{project.artifacts} cannot be written (File exists)")


def test_a_server_that_is_lost_on_the_way_ends_a_command_in_one_sentence(
    project: Project, server: HTTPServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    be_mlflow(server)
    address = server.url_for("")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")

    def train() -> None:
        client = open_store(project)
        with ending(lambda status: client.set_terminated("1", status)):
            server.stop()
            client.log_metric("1", "loss", 0.1)

    with pytest.raises(SystemExit) as end:
        run_command(train)
    assert end.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: The MLflow server {address} does not answer")
