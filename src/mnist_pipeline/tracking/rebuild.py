"""Training a run again: its recipe is laid out in a temporary git worktree and followed there, by the recorded code.

That happens in a process of its own with a store of its own: neither the workspace nor the store nor, once it is over,
the repository is any different.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from mnist_pipeline.console import say
from mnist_pipeline.files import file_digest
from mnist_pipeline.project import Project, find_project
from mnist_pipeline.tracking.contents import DIFF
from mnist_pipeline.tracking.git import apply_patch, git, path_from_top, top_folder
from mnist_pipeline.tracking.inputs import object_path, read_listing
from mnist_pipeline.tracking.pipeline import base_folder
from mnist_pipeline.tracking.recipe import ImpossibleError, Recipe

ENVIRONMENT = (
    "environment_lock_md5", "python", "tensorflow", "keras", "numpy", "cuda", "machine", "cpu",
    "device_kind", "device_names", "device_precision", "device_strategy", "device_xla",
)  # fmt: skip
"""Tags of a run on which the last bits of its weights may depend."""
LOCK = "environment_lock_md5"
"""Tag: MD5 of the lock that pinned the environment."""
TRAIN = "from mnist_pipeline.cli import main; main()"
"""What `mnist` is, as an argument of `python -c`: the script of that name knows the installed code only."""


@contextmanager
def checked_out(project: Project, recipe: Recipe, folder: Path) -> Generator[Project]:
    """Yield a copy of the project as the training found it; when it is over, the repository knows nothing of it.

    Args:
        project: whose repository.
        recipe: what to lay out.
        folder: where the copy may be.

    Raises:
        ImpossibleError: git cannot do it.
    """
    base, tree = base_folder(project), folder / "tree"
    top, place = top_folder(base), tree / path_from_top(base)
    try:
        # Without hooks: DVC's would check out data, and nobody else's is meant for this.
        quietly = ("-c", f"core.hooksPath={os.devnull}")
        if git(top, *quietly, "worktree", "add", "--detach", str(tree), recipe.commit) is None:
            raise ImpossibleError([f"git cannot check commit {recipe.commit} out into {tree}"])
        if recipe.diff and not apply_patch(tree, recipe.diff):
            raise ImpossibleError([f"{DIFF} does not apply to commit {recipe.commit}"])
        shutil.copyfile(recipe.params, place / recipe.folder / project.params.name)
        for path, (digest, evidence) in recipe.data.items():
            if evidence.path:
                _copy_data(evidence.path, digest, place / path)
        yield find_project(place / recipe.folder)
    finally:
        if git(top, "worktree", "remove", "--force", str(tree)) is None:
            shutil.rmtree(tree, ignore_errors=True)
            git(top, "worktree", "prune")


def _copy_data(source: Path, digest: str, target: Path) -> None:
    """Copy a file or a folder from the workspace or from DVC's cache, where a folder is a list of its files."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target)
    elif digest.endswith(".dir"):
        cache = source.parents[3]
        for name, each in read_listing(source).items():
            _copy_data(object_path(cache, each), each, target / name)
    else:
        shutil.copyfile(source, target)


def build_environment(tree: Project, recipe: Recipe, folder: Path) -> Path:
    """Install the recorded lock into a new virtual environment in `folder`; return its Python.

    Raises:
        ImpossibleError: the lock is not the recorded one, or cannot be installed.
    """
    wanted = recipe.tags.get(LOCK)
    found = file_digest(tree.lock) if tree.lock.is_file() else None
    if wanted is None:
        raise ImpossibleError([f"{tree.lock.name}: which one the run was made with is not recorded"])
    if wanted != found:
        raise ImpossibleError([f"{tree.lock.name}: the run names md5 {wanted}, its commit has {found or 'none'}"])
    python = folder / "environment" / "bin" / "python"
    install = ("-m", "pip", "--disable-pip-version-check", "install", "-qq", "--no-deps", "--require-hashes", "-r")
    for command in (
        [sys.executable, "-m", "venv", str(python.parents[1])],
        [str(python), *install, str(tree.lock)],
    ):
        if status := _run(command, folder, dict(os.environ)):
            raise ImpossibleError([f"{tree.lock.name} cannot be installed here: `{command[2]}` ended with {status}"])
    return python


def train_again(tree: Project, recipe: Recipe, python: Path, folder: Path) -> dict[str, str]:
    """Train in a project made by `checked_out`, by its own code; return the tags of the new run.

    Args:
        tree: the project.
        recipe: which model.
        python: to run it with.
        folder: for the store that it reports to.

    Raises:
        ImpossibleError: the training failed.
    """
    store = f"sqlite:///{folder / 'mlflow.db'}"
    foreign = ("DVC_", "GIT_", "MLFLOW_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(foreign)} | {
        "MLFLOW_TRACKING_URI": store,
        "PYTHONPATH": os.pathsep.join(filter(None, [str(tree.home / "src"), os.environ.get("PYTHONPATH")])),
        "PYTHONUNBUFFERED": "1",
    }
    if status := _run([str(python), "-c", TRAIN, *recipe.arguments], tree.root, environment):
        raise ImpossibleError([f"`mnist {' '.join(recipe.arguments)}` of that commit fails here, with status {status}"])
    if not tree.model_file(recipe.model).is_file():
        raise ImpossibleError([f"`mnist {' '.join(recipe.arguments)}` of that commit wrote no models/{recipe.model}"])
    return _tags_in(store, recipe.model)


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


def _tags_in(store: str, model: str) -> dict[str, str]:
    """Return the tags of the newest run of a model in a store; none if there is no such run."""
    from mlflow import MlflowClient

    client = MlflowClient(store)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.model = '{model}'", max_results=1)
    return dict(found[0].data.tags) if found else {}


def differences(recorded: Mapping[str, str], here: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Return what differs between the environments of two runs, by tag: what was recorded, and what is here."""
    both = [key for key in ENVIRONMENT if key in recorded and key in here]
    return {key: (recorded[key], here[key]) for key in both if recorded[key] != here[key]}
