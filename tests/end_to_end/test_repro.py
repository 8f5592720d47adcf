"""`dvc repro` in a fresh clone, on the real MNIST: all of it once, nothing twice, after an edit what it changed.

A clone of the result trains the same bytes again.
"""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from clone import Clone, clone_working_tree
from pages import CHROMIUM, STROKES, addresses, draw, open_tab

CNN = {"download", "normalize", "split", "train@cnn", "evaluate@cnn"}
ALL = {*CNN, "train@mlp", "evaluate@mlp", "register"}


@pytest.fixture
def clone(tmp_path: Path) -> Iterator[Clone]:
    yield clone_working_tree(tmp_path / "clone")
    shutil.rmtree(tmp_path / "clone")


def test_a_fresh_clone_holds_the_results_of_its_code(clone: Clone) -> None:
    """Who changes a package that a stage depends on has to run `dvc repro` and commit what comes of it."""
    assert "Data and pipelines are up to date." in clone.run("dvc", "repro", "--allow-missing", "--dry")
    assert "0.99" in clone.run("dvc", "metrics", "show")
    # The baselines take half an hour to train: that DVC can tell what is to be done is enough.
    clone.run("dvc", "--cd", "baselines", "repro", "--allow-missing", "--dry")


def test_the_whole_pipeline_then_nothing_then_the_same_again_elsewhere_then_what_an_edit_changes(
    clone: Clone, tmp_path: Path
) -> None:
    clone.edit(r"epochs: \d+", "epochs: 1")
    clone.edit(r"filters: \d+", "filters: 8")
    clone.commit("short training")
    assert clone.repro() == ALL
    best = json.loads((clone.root / "reports" / "best.json").read_text(encoding="utf-8"))
    assert best["model"] in {"mlp", "cnn"}
    assert best["validation_accuracy"] > 0.9
    assert clone.repro() == set()
    check_what_users_see(clone)
    if CHROMIUM:
        draw_digits(clone)

    clone.run("git", "add", "--all")
    clone.commit("what came of it")
    other = Clone(tmp_path / "elsewhere")
    clone.run("git", "clone", "--quiet", str(clone.root), str(other.root))
    assert other.repro("evaluate@cnn") == CNN
    # dvc.lock holds the MD5 of every output of every stage, and git the small ones themselves.
    assert other.run("git", "status", "--porcelain") == ""
    shutil.rmtree(other.root)

    clone.edit(r"hidden_units: \[.*\]", "hidden_units: [64]")
    assert clone.repro() == {"train@mlp", "evaluate@mlp", "register"}
    difference = json.loads(clone.run("dvc", "metrics", "diff", "HEAD", "--json"))
    assert "reports/mlp/metrics.json" in difference
    assert "reports/cnn/metrics.json" not in difference


def check_what_users_see(clone: Clone) -> None:
    summary = clone.run("mnist", "summary")
    assert re.search(r"cnn .* best ", summary) or re.search(r"mlp .* best ", summary)
    assert summary.index("mlp") < summary.index("cnn")
    table = clone.run("dvc", "metrics", "show").splitlines()
    assert len(table) == 3
    assert max(map(len, table)) <= 100
    assert clone.run("dvc", "status") == "Data and pipelines are up to date.\n"


def draw_digits(clone: Clone) -> None:
    """Draw on the page of `mnist demo` with the mouse, and see the champion read it."""
    with addresses("demo", "--no-open", folder=clone.root, environment=clone.environment) as found, open_tab() as tab:
        tab.goto(next(found))
        for digit in STROKES:
            draw(tab, digit)
