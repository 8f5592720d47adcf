"""`dvc repro` in a fresh clone, on the real MNIST: all of it once, nothing twice, after an edit what it changed."""

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

    def edit(self, old: str, new: str) -> None:
        params = self.root / "params.yaml"
        text = params.read_text(encoding="utf-8")
        assert re.search(old, text)
        params.write_text(re.sub(old, new, text), encoding="utf-8")


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clone]:
    """What a user would get from git, were the working tree committed now."""
    root = tmp_path_factory.mktemp("clone")
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
    clone.edit(r"epochs: \d+", "epochs: 1")
    clone.run("git", "add", "--all")
    clone.run("git", "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "--quiet", "-m", "short training")
    yield clone
    shutil.rmtree(root)


def test_the_whole_pipeline_then_nothing_then_what_an_edit_changes(clone: Clone) -> None:
    assert clone.repro() == ALL
    champion = json.loads((clone.root / "reports" / "champion.json").read_text(encoding="utf-8"))
    assert champion["model"] in {"mlp", "cnn"}
    assert champion["test_accuracy"] > 0.9

    assert clone.repro() == set()

    summary = clone.run("mnist", "summary")
    assert re.search(r"cnn .* best ", summary) or re.search(r"mlp .* best ", summary)
    assert summary.index("mlp") < summary.index("cnn")
    answer = json.loads(clone.run("mnist", "predict", "data/raw/t10k-images-idx3-ubyte", "--index", "0", "--json"))
    assert answer["digit"] == 7

    clone.edit(r"hidden_units: \[.*\]", "hidden_units: [64]")
    assert clone.repro() == {"train@mlp", "evaluate@mlp", "register"}
    difference = json.loads(clone.run("dvc", "metrics", "diff", "HEAD", "--json"))
    assert "models/mlp/metrics.json" in difference
