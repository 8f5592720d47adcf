"""Pages in the system's Chromium, for tests and pictures."""

import re
import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
"""The browser; None if there is none."""
STROKES = {
    7: [(70, 60), (210, 60), (130, 230)],
    1: [(140, 50), (140, 230)],
    0: [(140, 50), (90, 90), (80, 150), (100, 210), (140, 230), (185, 205), (200, 150), (190, 90), (140, 50)],
}
"""How digits are drawn on the page of `mnist demo`, on paper of 280 pixels."""


@contextmanager
def open_tab() -> "Generator[Page]":
    """Open a tab of the browser, which asks nobody but this machine."""
    from playwright.sync_api import sync_playwright

    quiet = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
    with sync_playwright() as playwright, playwright.chromium.launch(executable_path=CHROMIUM, args=quiet) as browser:
        tab = browser.new_page(viewport={"width": 1440, "height": 810})
        # MLflow's page opens with a panel about its assistant, once in a browser.
        tab.add_init_script("localStorage.setItem('mlflow.assistant.fab.autoOpenedOnFirstLoad_v1', 'true')")
        yield tab


@contextmanager
def addresses(*arguments: str, folder: Path, environment: dict[str, str] | None = None) -> Generator[Generator[str]]:
    """Run `mnist` in a folder; yield the addresses that it prints, as it prints them."""
    mnist = Path(sys.executable).with_name("mnist")
    with subprocess.Popen(
        [mnist, *arguments], cwd=folder, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield (address for line in process.stdout or () for address in re.findall(r"http[^\s;]+", line))
        finally:
            process.terminate()


def draw(tab: "Page", digit: int) -> None:
    """Draw a digit with the mouse on the page of `mnist demo`, and wait until it is read."""
    from playwright.sync_api import expect

    tab.locator("#clear").click()
    expect(tab.get_by_text("The paper is empty")).to_be_visible()
    paper = tab.locator("#paper").bounding_box()
    assert paper
    (x, y), *rest = STROKES[digit]
    tab.mouse.move(paper["x"] + x, paper["y"] + y)
    tab.mouse.down()
    for x, y in rest:
        tab.mouse.move(paper["x"] + x, paper["y"] + y, steps=8)
    tab.mouse.up()
    expect(tab.get_by_text(f"That is a {digit}.")).to_be_visible(timeout=20_000)
