"""`make screenshots`: photograph MLflow's pages of this project's store for README and docs/, into docs/images."""

import io
from typing import TYPE_CHECKING

from PIL import Image

from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import find_project
from mnist_pipeline.tracking.page.views import TRIALS_VIEWS
from mnist_pipeline.tracking.store import open_store, tuning_experiment_name
from pages import CHROMIUM, addresses, draw, open_tab
from small_project import ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = ROOT / "docs" / "images"
LARGEST = 200_000
"""Bytes of a picture, at most."""


def main() -> None:
    """Take all pictures.

    Raises:
        UserError: there is no Chromium, no champion or no study to show.
    """
    if CHROMIUM is None:
        raise UserError("There is no Chromium: install it, on Debian with `apt-get install chromium`.")
    with open_tab() as tab:
        with addresses("ui", "--no-open", folder=ROOT) as found:
            photograph_mlflow(tab, next(found), next(found))
        with addresses("demo", "--no-open", folder=ROOT) as found:
            tab.goto(next(found))
            draw(tab, 7)
            tab.wait_for_timeout(2_000)  # until it has read the last stroke
            save("demo", tab.screenshot())


def photograph_mlflow(tab: "Page", table: str, curves: str) -> None:
    """Take the pictures of MLflow's page, which shows its table of models and their curves at these addresses."""
    for name, (address, sign) in places(table.partition("#")[0], table, curves).items():
        tab.goto(address)
        tab.get_by_text(sign).first.wait_for(timeout=60_000)
        tab.wait_for_timeout(3_000)  # charts draw themselves
        save(name, tab.screenshot())


def places(server: str, table: str, curves: str) -> dict[str, tuple[str, str]]:
    """Return by name where each picture is taken, and a text that is there when the page is."""
    project = find_project(ROOT)
    client = open_store(project)
    version = client.get_model_version_by_alias("mnist", "champion")
    run = client.get_run(version.run_id or "")
    tuning = client.get_experiment_by_name(tuning_experiment_name(project))
    studies = client.search_runs([tuning.experiment_id], "tags.study_id != ''")
    if not studies:
        raise UserError("There is no study to show: run `mnist tune mlp --trials 20` first.")
    training = "workflowType=machine_learning"  # and not language models
    return {
        "runs": (table, "cnn"),
        "curves": (curves, "Accuracy"),
        "run": (f"{server}#/experiments/{run.info.experiment_id}/runs/{run.info.run_id}?{training}", "About"),
        "version": (f"{server}#/models/mnist/versions/{version.version}?{training}", "How good it is"),
        "trials": (TRIALS_VIEWS[0].address(server, tuning.experiment_id), "Trials"),
    }


def save(name: str, picture: bytes) -> None:
    """Write a picture, in 128 colours, because that takes a third of the bytes."""
    file = IMAGES / f"{name}.png"
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.open(io.BytesIO(picture)).convert("RGB").quantize(128).save(file, optimize=True)
    if (size := file.stat().st_size) > LARGEST:
        raise UserError(f"{file} has {size:,} bytes, more than {LARGEST:,}.")
    say(f"{file.relative_to(ROOT)} ({size:,} bytes)")


if __name__ == "__main__":
    run_command(main)
