"""`mnist doctor`: is everything here that the project needs, and if not, what is the way out?"""

import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from importlib.metadata import PackageNotFoundError, version

from mnist_pipeline.core.console import console
from mnist_pipeline.core.errors import UserError, explain
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.data.idx import RAW_FILES
from mnist_pipeline.provenance.environment import code_diff, code_tags
from mnist_pipeline.provenance.pipeline import make_ready
from mnist_pipeline.provenance.redaction import public_uri
from mnist_pipeline.tracking.store import open_store, tracking_uri
from mnist_pipeline.training.params import load_params

PACKAGES = ("tensorflow", "keras", "mlflow", "dvc", "optuna", "numpy", "pandas")


def run() -> bool:
    """Print every finding; return whether nothing is broken."""
    healthy = True
    for what, check in _checks():
        mark, style = "ok", "green"
        try:
            state = check()
        except Exception as error:  # any failure of a check is a finding
            mark, style, state = "broken", "red", explain(error) or str(error) or type(error).__name__
            healthy = False
        console().print(f"[{style}]{mark:<6}[/] {what:<10} ", end="")
        console().print(state, markup=False)
    return healthy


def _checks() -> Iterator[tuple[str, Callable[[], str]]]:
    """Return what is examined, and how; a check returns what it found or raises what is wrong."""
    yield "python", lambda: f"{platform.python_version()} on {platform.platform(terse=True)}, {sys.prefix}"
    for package in PACKAGES:
        yield package, partial(_package, package)
    yield "device", _device
    yield "project", lambda: str(find_project().root)
    with suppress(UserError):  # without a project there is no more to examine
        project = find_project()
        yield "params", lambda: f"valid, trains {', '.join(load_params(project.params).train)}"
        yield "pipeline", lambda: make_ready(project) or "dvc.yaml and dvc.lock can be read"
        yield "git", lambda: _git(project)
        yield "store", lambda: open_store(project) and public_uri(tracking_uri(project))
        yield "data", lambda: _data(project)


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        raise UserError("not installed: run `make install`, or `pip install -r requirements.lock`.") from None


def _device() -> str:
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus)
    if not tf.test.is_built_with_cuda():
        return "CPU only: this build of TensorFlow has no CUDA support"
    return "CPU only: TensorFlow finds no NVIDIA driver or CUDA libraries (`pip install '.[gpu]'` brings the libraries)"


def _git(project: Project) -> str:
    state = code_tags(project, code_diff(project.repository))
    if state["git_commit"] == "no commit":
        return "no commit: runs are logged without one; DVC needs `dvc config --local core.no_scm true` outside git"
    changed = ", changed" if state["git_dirty"] == "true" else ""
    return f"{state['git_commit'][:7]} on {state['mlflow.source.git.branch']}{changed}"


def _data(project: Project) -> str:
    if missing := [name for name in RAW_FILES if not (project.raw / name).is_file()]:
        return f"not downloaded yet ({len(missing)} of {len(RAW_FILES)} files missing): `mnist download` or `dvc repro`"
    return "all four raw files are there" + ("" if project.split.is_dir() else "; not split yet: run `dvc repro`")
