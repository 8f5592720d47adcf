"""`mnist doctor`: is everything here that the project needs, and if not, what is the way out?"""

import platform
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from mnist_pipeline.console import console
from mnist_pipeline.errors import UserError
from mnist_pipeline.params import load_params
from mnist_pipeline.project import Project, find_project

PACKAGES = ("tensorflow", "keras", "mlflow", "dvc", "optuna", "numpy", "pandas")


@dataclass(frozen=True)
class Finding:
    """One line of the examination."""

    what: str
    state: str
    broken: bool = False


def run() -> bool:
    """Print every finding; return whether nothing is broken."""
    healthy = True
    for finding in _examine():
        mark, style = ("broken", "red") if finding.broken else ("ok", "green")
        console().print(f"[{style}]{mark:<6}[/] {finding.what:<10} ", end="")
        console().print(finding.state, markup=False)
        healthy = healthy and not finding.broken
    return healthy


def _examine() -> Iterator[Finding]:
    yield _checked("python", _python)
    for package in PACKAGES:
        yield _checked(package, lambda package=package: _package(package))
    yield _checked("device", _device)
    try:
        project = find_project()
    except UserError as error:
        yield Finding("project", str(error), broken=True)
        return
    yield Finding("project", str(project.root))
    yield _checked("params", lambda: f"valid, trains {', '.join(load_params(project.params).train)}")
    yield _checked("git", lambda: _git(project))
    yield _checked("store", lambda: _store(project))
    yield _checked("data", lambda: _data(project))


def _checked(what: str, check: Callable[[], str]) -> Finding:
    """Run one check; any failure of it is a finding, because a doctor who faints helps nobody."""
    try:
        return Finding(what, check())
    except Exception as error:
        return Finding(what, str(error) or type(error).__name__, broken=True)


def _python() -> str:
    return f"{platform.python_version()} on {platform.platform(terse=True)}, {sys.prefix}"


def _package(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError as error:
        raise UserError("not installed: run `make install`, or `pip install -r requirements.lock`.") from error


def _device() -> str:
    import tensorflow as tf

    if gpus := tf.config.list_physical_devices("GPU"):
        return ", ".join(tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus)
    if not tf.test.is_built_with_cuda():
        reason = "this build of TensorFlow has no CUDA support"
    else:
        reason = "TensorFlow finds no NVIDIA driver or CUDA libraries (`pip install '.[gpu]'` brings the libraries)"
    return f"CPU only: {reason}"


def _git(project: Project) -> str:
    from mnist_pipeline.tracking.lineage import code_state

    state = code_state(project.root)
    if state["git_commit"] == "no commit":
        return "no commit: runs are logged without one; DVC needs `dvc config --local core.no_scm true` outside git"
    return f"{state['git_commit'][:7]} on {state['git_branch']}{', changed' if state['git_dirty'] == 'true' else ''}"


def _store(project: Project) -> str:
    from mnist_pipeline.tracking.redaction import public_uri
    from mnist_pipeline.tracking.store import open_store, tracking_uri

    open_store(project)
    return public_uri(tracking_uri(project))


def _data(project: Project) -> str:
    from mnist_pipeline.data.download import FILES

    missing = [file.name for file in FILES if not (project.raw / file.name).is_file()]
    if missing:
        return f"not downloaded yet ({len(missing)} of {len(FILES)} files missing): `mnist download` or `dvc repro`"
    return "all four raw files are there" + ("" if project.split.is_dir() else "; not split yet: run `dvc repro`")
