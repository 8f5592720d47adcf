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
from typing import TYPE_CHECKING

import psutil
import pytest

from card import FACTS, PAIRS
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.registry.model_card import description, model_card
from mnist_pipeline.tracking.contents import artifacts_page, as_metrics, with_result
from mnist_pipeline.tracking.page.views import TRIALS_VIEWS
from mnist_pipeline.tracking.store import experiment_name, open_store
from mnist_pipeline.tracking.studies import TrialEnd, study_run
from pages import CHROMIUM, open_tab
from small_project import draw_digits, make_project

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from playwright.sync_api import Page

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


def fill(project: Project, client: "MlflowClient") -> None:
    """Log three trainings, of which the best has a figure and is a version, and a study of three trials."""
    experiment = client.get_experiment_by_name(experiment_name(project)).experiment_id
    for accuracy in (0.97, 0.985, 0.9925):
        run = client.create_run(experiment, run_name=f"cnn {accuracy}")
        for step in (1, 2):
            client.log_batch(run.info.run_id, as_metrics({"val_accuracy": accuracy, "train_accuracy": accuracy}, step))
        client.log_metric(run.info.run_id, "best_val_accuracy", accuracy)
    values, names = (
        (0.9925, 0.99, 1234),
        ("calibration", "confidently_wrong", "confusion_matrix", "recall", "robustness"),
    )
    figures = [f"report/figures/{name}.png" for name in names]
    client.log_image(run.info.run_id, draw_digits(1, seed=0).images[0], figures[3])
    note = with_result("**cnn**: a network.", ModelId("cnn"), values, figures, artifacts_page(run))
    client.set_tag(run.info.run_id, "mlflow.note.content", note)
    client.create_registered_model("mnist")
    card = description(model_card(FACTS, PAIRS), artifacts_page(run))
    client.create_model_version("mnist", f"runs:/{run.info.run_id}/report", run.info.run_id, description=card)
    definition = {"model": "mlp", "data.train": "a" * 32, "data.validation": "b" * 32}
    with study_run(project, "mlp", "study", definition) as study:
        for number, accuracy in enumerate((0.5, 0.7, 0.6)):
            result = {"best_val_accuracy": accuracy}
            study.log_trial(TrialEnd(number, "complete", {"training.batch_size": 64}, result, [], None), {})
        study.log_result({"best_val_accuracy": 0.7, "trials_complete": 3}, {})


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[subprocess.Popen[str], list[str]]]:
    """A page of three runs, while somebody else has MLflow's port; and the addresses that were printed and opened."""
    folder = tmp_path_factory.mktemp("page")
    project = make_project(folder)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        client = open_store(project)
        fill(project, client)
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


@pytest.fixture(scope="module")
def tab() -> Iterator["Page"]:
    """A tab of the browser."""
    if CHROMIUM is None:
        pytest.skip("there is no Chromium")
    with open_tab() as tab:
        tab.set_default_timeout(60_000)
        yield tab


def test_the_first_row_of_the_printed_address_is_the_best_model(
    page: tuple[subprocess.Popen[str], list[str]], tab: "Page"
) -> None:
    tab.goto(page[1][0])
    assert column(tab, "metrics.`best_val_accuracy`", 3) == ["0.9925", "0.985", "0.97"]


def column(tab: "Page", name: str, rows: int) -> list[str]:
    """Return what stands in a column of the table of runs, as soon as it has these many rows."""
    from playwright.sync_api import expect

    cells = tab.locator(f"[role=gridcell][col-id='{name}']")
    expect(cells).to_have_count(rows, timeout=60_000)
    return cells.all_inner_texts()


def test_the_learning_curves_are_drawn_under_titles(page: tuple[subprocess.Popen[str], list[str]], tab: "Page") -> None:
    tab.goto(page[1][1])
    for title in ("Accuracy: validation, training", "Loss: validation, training", "val_accuracy", "train_accuracy"):
        tab.get_by_text(title, exact=True).first.wait_for()
    tab.locator(".js-plotly-plot path.js-line").first.wait_for(state="attached")


def test_a_run_tells_how_good_it_is_and_shows_its_figures(
    page: tuple[subprocess.Popen[str], list[str]], tab: "Page"
) -> None:
    tab.goto(page[1][0])
    tab.get_by_role("link", name="cnn 0.9925").first.click()
    tab.get_by_role("cell", name="99.25%").wait_for()
    with tab.expect_popup() as opened:
        tab.get_by_role("link", name="recall", exact=True).click()
    figure = opened.value.get_by_role("img", name="report/figures/recall.png")
    figure.wait_for(timeout=60_000)
    assert figure.evaluate("image => image.naturalWidth") == 28
    opened.value.close()


def test_the_card_of_a_version_is_rendered_with_its_tables(
    page: tuple[subprocess.Popen[str], list[str]], tab: "Page"
) -> None:
    tab.goto(f"{page[1][0].partition('#')[0]}#/models/mnist/versions/1?workflowType=machine_learning")
    tab.get_by_role("cell", name="validation (chosen by this)").wait_for()
    assert tab.get_by_role("heading", name="Known failure cases").count() == 1
    assert tab.locator("table").count() >= 3


def test_the_trials_of_a_study_are_listed_best_first_and_below_their_study(
    page: tuple[subprocess.Popen[str], list[str]], tab: "Page"
) -> None:
    tab.goto(TRIALS_VIEWS[0].address(page[1][0].partition("#")[0], "2"))
    assert column(tab, "metrics.`best_val_accuracy`", 3) == ["0.7", "0.6", "0.5"]
    tab.get_by_role("link", name="mlp trial 1").first.click()
    tab.get_by_role("link", name="mlp study").first.click()  # the parent
    tab.get_by_role("cell", name="0.7000").wait_for()
    for number in range(3):
        tab.get_by_role("link", name=f"mlp trial {number}").first.wait_for()


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
