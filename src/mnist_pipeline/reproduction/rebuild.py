"""Training again by the code of a run, in its temporary git worktree, with a process and a store of its own."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.provenance.inputs import Lineage
from mnist_pipeline.provenance.search import copy_data
from mnist_pipeline.reproduction.lineage import Walk
from mnist_pipeline.tracking.artifacts import LINEAGE, PARAMS, download, environment_of

ENVIRONMENT = ("lock_md5", "python", "tensorflow", "keras", "numpy", "cuda", "machine", "cpu", "device")
"""What of a run's environment the last bits of its weights may depend on."""


class ImpossibleError(UserError):
    """A run cannot be reproduced; each argument is something that is in the way."""


def lay_out(found: Walk) -> Project:
    """Put parameters and data beside the code that was checked out; return the project that this is."""
    root = found.tree / found.lineage.folder
    shutil.copyfile(found.files[PARAMS], root / "params.yaml")
    for path, digest in found.lineage.inputs.data.items():
        copy_data(found.project, found.files[path], digest, found.tree / path)
    return find_project(root)


def build_environment(found: Walk, tree: Project) -> Path:
    """Install the recorded lock, if `tree` has it, into a new virtual environment; return its Python."""
    wanted, name = found.environment.get("lock_md5"), tree.lock.name
    present = file_digest(tree.lock) if tree.lock.is_file() else "none"
    if wanted is None:
        raise ImpossibleError(f"{name}: the run does not say which one it was trained with")
    if wanted != present:
        raise ImpossibleError(f"{name}: the run names md5 {wanted}, its commit has {present}")
    python = found.folder / "environment" / "bin" / "python"
    install = ("-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps", "--require-hashes", "-r")
    for command in (
        [sys.executable, "-m", "venv", str(python.parents[1])],
        [str(python), *install, str(tree.lock)],
    ):
        if status := _run(command, found.folder, dict(os.environ)):
            raise ImpossibleError(f"{name} cannot be installed here: `{command[2]}` ended with status {status}")
    return python


def train_again(found: Walk, tree: Project, python: Path) -> dict[str, str]:
    """Train again in the project `tree` that was laid out, by its own code; return the new run's environment."""
    store = f"sqlite:///{found.folder / 'mlflow.db'}"
    foreign = ("DVC_", "GIT_", "MLFLOW_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {
        "MLFLOW_TRACKING_URI": store,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tree.repository / "src"), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    command, model_file = f"`mnist {' '.join(found.arguments)}` of that commit", tree.model_file(found.tags["model"])
    # The script `mnist` itself knows the installed code only.
    mnist = (str(python), "-c", "from mnist_pipeline.cli import main; main()")
    if status := _run([*mnist, *found.arguments], tree.root, environment):
        raise ImpossibleError(f"{command} fails here, with status {status}")
    if not model_file.is_file():
        raise ImpossibleError(f"{command} wrote no {model_file.relative_to(tree.root)}")
    return _environment_in(store, found.tags["model"], found.folder / "again")


def differences(recorded: Mapping[str, str], here: Mapping[str, str]) -> str:
    """Say how two environments differ, as far as both are known; empty if they do not."""
    both = [key for key in ENVIRONMENT if key in recorded and key in here]
    return ", ".join(f"{key} {recorded[key]} then, {here[key]} now" for key in both if recorded[key] != here[key])


def _run(command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> int:
    """Run a command and print what it says, indented; return its status. An interruption ends it, too."""
    with subprocess.Popen(
        command,
        cwd=folder,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        start_new_session=True,  # or Ctrl+C would reach it as well, and it would say so, too
    ) as process:
        try:
            for line in process.stdout or ():
                say(f"  {line.rstrip()}")
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return process.returncode


def _environment_in(store: str, model: str, folder: Path) -> dict[str, str]:
    """Return the environment of the newest run of a model in a store; empty if there is no such run."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.model = '{model}'", max_results=1)
    file = download(f"runs:/{found[0].info.run_id}/{LINEAGE}", folder, store) if found else None
    return environment_of(found[0].data.tags, read_json(file, Lineage, "mnist train")) if file else {}
