"""A clone of the working tree, for what needs all of the project and the real MNIST."""

import re
import shutil
from pathlib import Path

from mnist_pipeline.data.idx import RAW_FILES
from repository import environment, git, run
from small_project import ROOT


class Clone:
    """A clone with commands of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.environment = environment(PYTHONPATH=str(root / "src"))  # the clone's code, not the one that is installed
        if all((ROOT / "data" / "raw" / name).exists() for name in RAW_FILES):
            self.environment["MNIST_MIRROR"] = str(ROOT / "data" / "raw")

    def run(self, *command: str) -> str:
        return run(self.root, *command, **self.environment)

    def repro(self, *targets: str) -> set[str]:
        """Run `dvc repro` and return the stages that it executed."""
        return set(re.findall(r"Running stage '([^']+)'", self.run("dvc", "repro", *targets)))

    def commit(self, message: str) -> None:
        git(self.root, "commit", "--quiet", "-am", message)

    def edit(self, old: str, new: str) -> None:
        params = self.root / "params.yaml"
        text = params.read_text(encoding="utf-8")
        assert re.search(old, text)
        params.write_text(re.sub(old, new, text), encoding="utf-8")


def clone_working_tree(root: Path) -> Clone:
    """Return what a user would get from git, were the working tree committed now."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, root / name)
    clone = Clone(root)
    clone.run("git", "init", "--quiet")
    clone.run("git", "add", "--all")
    clone.commit("all of it")
    return clone
