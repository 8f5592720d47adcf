"""Data found by their hash, near and far."""

from pathlib import Path

import pytest

from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.provenance.inputs import tree_digest
from mnist_pipeline.provenance.pipeline import cached_object
from mnist_pipeline.provenance.search import copy_data, find_data
from repository import dvc

PIECES = ("data/raw", "data/raw/images", "data/train.npz")


@pytest.fixture
def place(tmp_path: Path) -> tuple[Project, dict[str, str]]:
    """A project whose data are in a cache of another place and on the second of two remotes, and their hashes."""
    root = tmp_path / "project"
    for name in ("data/raw/images", "data/raw/labels", "data/train.npz"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)
    (root / "params.yaml").write_text("seed: 0\n")
    dvc(
        root,
        "init --no-scm",
        f"cache dir {tmp_path / 'cache'}",
        f"remote add gone {tmp_path / 'gone'}",
        f"remote add --default storage {tmp_path / 'storage'}",
        "add data/raw data/train.npz",
        "push",
    )
    return find_project(root), {name: tree_digest(root / name) for name in PIECES}


@pytest.mark.parametrize("name", PIECES)
def test_the_workspace_comes_first_then_the_cache(place: tuple[Project, dict[str, str]], name: str) -> None:
    project, digests = place
    assert find_data(project, name, digests[name]).found == "in the workspace"
    file = project.top / ("data/raw/images" if name == "data/raw" else name)
    file.unlink()
    file.write_text("other")
    found = find_data(project, name, digests[name])
    assert (found.state, found.found) == ("verified", "in DVC's cache")
    assert found.path is not None
    copy_data(project, found.path, digests[name], project.top / "copy")
    assert tree_digest(project.top / "copy") == digests[name]

    cached = cached_object(project, digests["data/raw/images" if name == "data/raw" else name])
    assert cached is not None
    cached.chmod(0o644)
    cached.write_text("damaged")
    found = find_data(project, name, digests[name])
    assert (found.state, found.found) == ("changed", "damaged in DVC's cache")
    assert cached.is_file()  # DVC's own check would have deleted it
    cached.unlink()
    assert find_data(project, name, digests[name]).state == "changed"


def test_what_is_nowhere_near_is_fetched_from_a_remote(place: tuple[Project, dict[str, str]], tmp_path: Path) -> None:
    project, digests = place
    digest, fetched = digests["data/train.npz"], tmp_path / "fetched"
    for path in (project.top / "data/train.npz", tmp_path / "cache"):
        path.rename(path.with_suffix(".away"))
    assert find_data(project, "data/train.npz", digest).state == "missing"
    found = find_data(project, "data/train.npz", digest, fetched)
    assert (found.state, found.found, found.path) == ("verified", "on DVC's remote storage", fetched)
    assert fetched.read_text() == "data/train.npz"
    found = find_data(project, "data/train.npz", digest[::-1], tmp_path / "other")
    assert found.found == "neither in the workspace nor in DVC's cache, nor on a remote of DVC"


def test_a_copy_without_dvc_has_neither_cache_nor_remotes(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("seed: 0\n")
    project = find_project(tmp_path)
    found = find_data(project, "data/train.npz", "0" * 32)
    assert (found.state, found.found) == ("missing", "neither in the workspace nor in DVC's cache")
    assert find_data(project, "data/train.npz", "0" * 32, tmp_path / "fetched").state == "missing"
