"""`dvc repro` in a fresh clone, on the real MNIST: all of it once, nothing twice, after an edit what it changed.

A clone of the result produces the same bytes again.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_pipeline.data.download import FILES
from small_project import ROOT

ALL = {
    "download", "normalize", "split", "train@mlp", "train@cnn", "evaluate@mlp", "evaluate@cnn", "register",
}  # fmt: skip


class Clone:
    """A clone with commands of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = {
            **os.environ,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(root / "src"),  # the clone's code, not the one that is installed
        }
        if all((ROOT / "data" / "raw" / file.name).exists() for file in FILES):
            self.environment["MNIST_MIRROR"] = str(ROOT / "data" / "raw")

    def run(self, *command: str) -> str:
        done = subprocess.run(
            command, cwd=self.root, env=self.environment, capture_output=True, text=True, check=False, timeout=900
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def repro(self) -> set[str]:
        """Run `dvc repro` and return the stages that it executed."""
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro")))

    def commit(self, message: str) -> None:
        self.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-am", message)

    def edit(self, old: str, new: str) -> None:
        params = self.root / "params.yaml"
        text = params.read_text(encoding="utf-8")
        assert re.search(old, text)
        params.write_text(re.sub(old, new, text), encoding="utf-8")


def clone_working_tree(root: Path) -> Clone:
    """Return what a user would get from git, were the working tree committed now."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    for name in filter(None, listed.stdout.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    clone = Clone(root)
    clone.run("git", "init", "--quiet")
    clone.run("git", "add", "--all")
    clone.commit("all of it")
    return clone


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
    clone.commit("short training")
    assert clone.repro() == ALL
    best = json.loads((clone.root / "reports" / "best.json").read_text(encoding="utf-8"))
    assert best["model"] in {"mlp", "cnn"}
    assert best["validation_accuracy"] > 0.9
    assert clone.repro() == set()
    check_what_users_see(clone)

    clone.run("git", "add", "--all")
    clone.commit("what came of it")
    other = Clone(tmp_path / "elsewhere")
    clone.run("git", "clone", "--quiet", str(clone.root), str(other.root))
    assert other.repro() == ALL
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
    answer = json.loads(clone.run("mnist", "predict", "data/raw/t10k-images-idx3-ubyte", "--index", "0", "--json"))
    assert answer["digit"] == 7
    assert clone.run("dvc", "status") == "Data and pipelines are up to date.\n"
