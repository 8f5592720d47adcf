"""`mnist ui`: the best model at a click, few processes, and none of them left when it ends."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import experiment_name, open_store
from pages import CHROMIUM, open_tab
from small_project import make_project

MNIST = str(Path(sys.executable).with_name("mnist"))


def start(project: Project, *arguments: str, **environment: str) -> subprocess.Popen[str]:
    # Without MLflow's own variables: it writes the store that this process uses into its environment.
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    return subprocess.Popen(
        [MNIST, "ui", *arguments],
        cwd=project.root,
        env={**ours, "DISPLAY": "", "WAYLAND_DISPLAY": "", **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def end(process: subprocess.Popen[str], number: signal.Signals) -> str:
    """Send a signal; return what standard error said, if all that was started ended in time, and well."""
    family = psutil.Process(process.pid).children(recursive=True)
    begin = time.monotonic()
    process.send_signal(number)
    _, errors = process.communicate(timeout=30)
    assert time.monotonic() - begin < 3
    assert process.returncode == 0
    assert not [member for member in family if member.is_running()]
    return errors


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A page of three runs, while somebody else has MLflow's port; and the addresses that were printed and opened."""
    folder = tmp_path_factory.mktemp("page")
    project = make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        client = open_store(project)
    experiment = client.get_experiment_by_name(experiment_name()).experiment_id
    for accuracy in (0.985, 0.9925, 0.97):
        run = client.create_run(experiment).info.run_id
        client.log_metric(run, "best_val_accuracy", accuracy)
    browser = folder / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" >{folder}/opened\n', encoding="utf-8")
    browser.chmod(0o755)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if other.connect_ex(("127.0.0.1", 5000)) != 0:
            other.bind(("127.0.0.1", 5000))
            other.listen()
        process = start(project, DISPLAY=":0", BROWSER=f"{browser} %s")
        assert process.stdout
        lines = [process.stdout.readline() for _ in range(3)]
    while not (folder / "opened").exists():
        time.sleep(0.1)
    yield process, [*re.findall(r"http\S+", "".join(lines)), (folder / "opened").read_text().strip()]
    process.terminate()
    process.communicate(timeout=30)


def test_the_table_of_models_is_printed_and_opened_on_the_next_free_port(
    page: tuple[subprocess.Popen[str], list[str]],
) -> None:
    table, curves, opened = page[1]
    assert re.match(r"http://127\.0\.0\.1:50(?!00)\d\d/#/experiments/1/runs", table)
    assert opened == table
    assert curves.endswith("&compareRunsMode=CHART")


@pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")
def test_the_first_row_of_the_printed_address_is_the_best_model(
    page: tuple[subprocess.Popen[str], list[str]],
) -> None:
    from playwright.sync_api import expect

    with open_tab() as tab:
        tab.goto(page[1][0])
        cells = tab.locator("[role=gridcell][col-id='metrics.`best_val_accuracy`']")
        expect(cells).to_have_text(["0.9925", "0.985", "0.97"], timeout=60_000)
        tab.goto(page[1][1])
        expect(tab.get_by_text("Accuracy: validation, training")).to_be_visible(timeout=60_000)


def test_it_is_lean_and_ends_at_ctrl_c(page: tuple[subprocess.Popen[str], list[str]]) -> None:
    family = psutil.Process(page[0].pid).children(recursive=True)
    assert len(family) == 2
    assert end(page[0], signal.SIGINT) == ""


def test_an_interruption_while_mlflow_starts_leaves_nothing(project: Project) -> None:
    process = start(project)
    assert process.stdout
    process.stdout.readline()
    while not psutil.Process(process.pid).children():
        time.sleep(0.1)
    time.sleep(2)  # MLflow is being imported, somewhere
    assert end(process, signal.SIGTERM) == ""


def test_a_port_that_is_taken_is_refused_if_it_was_asked_for(project: Project) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        process = start(project, "--port", str(port))
        output, errors = process.communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert errors.startswith(f"error: Port {port} is taken")
    assert len(errors.splitlines()) == 1


def test_a_store_that_cannot_be_opened_is_named_and_ends_it(project: Project) -> None:
    project.tracking_database.mkdir()
    process = start(project)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.startswith(f"error: sqlite:///{project.tracking_database} cannot be read or written")
    assert len(errors.splitlines()) == 1
