"""`make docs-check`: type every command of README and docs/, one after the other, in a clone with the real MNIST.

Trainings have one epoch, studies two trials, so that it takes a quarter of an hour on two cores; given the names of
pages, such as docs/studies.md, it types only theirs.
"""

import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from shown import PAGES, commands

from clone import Clone, clone_working_tree
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.idx import read_part
from small_project import MNIST

ELSEWHERE = {
    "make run": "everything here begins with what it does",
    "make test": "CI runs it",
    "curl": "asks a server that has been stopped by then",
    "kubectl": "needs Kubernetes",
    "sbatch": "needs Slurm",
    "docker": "needs Docker",
    "mnist tune cnn --study team": "needs a Ray cluster",
    "mnist reproduce models:/mnist@champion --install": "installs TensorFlow anew",
}
"""Commands that are not typed here, by how they begin, and why."""
SHORTER = {
    r"^(mnist tune \S+)(?!.*--trials)": r"\1 --trials 2",
    r"--trials \d+": "--trials 2",
    r"--confirm \d+": "--confirm 1",
    r"--trial \d+": "--trial 0",
    r"epochs=20": "epochs=2",
    r"--epochs 4": "--epochs 1",
}
"""What takes less time, or is there after so few trials."""
SERVER = re.compile("mlflow models serve|mnist (serve|ui|demo)")
"""Commands that go on until somebody stops them."""


def main() -> None:
    """Run them all, and fail if one does."""
    with tempfile.TemporaryDirectory(prefix="mnist-docs-") as folder:
        clone = clone_working_tree(Path(folder) / "clone")
        clone.edit(r"epochs: \d+", "epochs: 1")
        clone.commit("short trainings")
        for preparation in (("dvc", "repro"), ("mnist", "sync")):
            clone.run(*preparation)
        images, _ = read_part(clone.root / "data" / "raw", "t10k", MNIST)
        Image.fromarray(np.kron(images[0], np.ones((10, 10), np.uint8))).save(clone.root / "my_digit.png")
        wanted = [each.text for each in commands() if each.page in (sys.argv[1:] or PAGES)]
        failed = [text for text in wanted if not _is_well(clone, text)]
    if failed:
        raise UserError(f"{len(failed)} commands of the pages fail: {'; '.join(failed)}.")


def _is_well(clone: Clone, text: str) -> bool:
    """Type a command, and say how it went."""
    if reason := next((reason for start, reason in ELSEWHERE.items() if text.startswith(start)), ""):
        say(f"not run  {text} ({reason})")
        return True
    shorter = text
    for longer, instead in SHORTER.items():
        shorter = re.sub(longer, instead, shorter)
    if "NAME" in shorter:
        shorter = shorter.replace("NAME", clone.run("dvc", "exp", "list", "--name-only").split()[0])
    start = time.monotonic()
    error = _serve(clone, shorter) if SERVER.search(shorter) else _run(clone, shorter)
    say(f"{'failed' if error else 'done':8} {shorter} ({time.monotonic() - start:.0f} s)")
    if error:
        say(error)
    return not error


def _run(clone: Clone, text: str) -> str:
    """Return what a command said if it failed."""
    try:
        clone.run("bash", "-c", text)
    except AssertionError as error:
        return str(error)
    return ""


def _serve(clone: Clone, text: str) -> str:
    """Start a server, and stop it as soon as it names its address; return what it said if it never does."""
    with subprocess.Popen(
        ["bash", "-c", f"exec {text}" if "=" not in text.split()[0] else f"env {text}"],
        cwd=clone.root, env=clone.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as server:  # fmt: skip
        said = ""
        for line in server.stdout or ():
            said += line
            if re.search(r"http://127\.0\.0\.1:\d+", line):
                said = ""
                break
        server.terminate()
        return said


if __name__ == "__main__":
    run_command(main)
