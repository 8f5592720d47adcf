"""A second clone has everything from a DVC remote: it trains nothing, fills its own MLflow, and could train again."""

import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from ruamel.yaml import YAML

from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.registry.registry import CHAMPION, Registry
from mnist_pipeline.reproduction.lineage import walk
from mnist_pipeline.reproduction.rebuild import lay_out
from mnist_pipeline.reproduction.reproduce import check
from mnist_pipeline.stages import evaluate, register, train
from mnist_pipeline.tracking.store import find_runs, open_store
from mnist_pipeline.tracking.sync import sync
from mnist_pipeline.training.params import load_params
from repository import commit, dvc, git
from small_project import ROOT, make_project

S3 = "`pip install '.[s3]' 'moto[server]'` was not done: they want an older python-dateutil than requirements.lock has"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A committed project with a model, whose data DVC keeps."""
    project = make_project(tmp_path_factory.mktemp("trained"))
    shutil.copy(ROOT / ".dvcignore", project.root)
    shutil.copytree(ROOT / "src", project.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    yaml = YAML()
    pipeline, values = yaml.load(project.root / "dvc.yaml"), yaml.load(project.params)
    pipeline = {"stages": {name: pipeline["stages"][name] for name in ("train", "evaluate", "register")}}
    values["train"] = ["mlp"]
    yaml.dump(pipeline, project.root / "dvc.yaml")
    yaml.dump(values, project.params)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        params, model = load_params(project.params), ModelId("mlp")
        train.run(project, params, model)
        evaluate.run(project, params, model)
        register.run(project, params)
    git(project.root, "init", "--quiet", "--initial-branch", "main")
    shutil.copy(ROOT / ".gitignore", project.root)
    (project.root / "mlruns" / ".gitignore").write_text("*\n")
    dvc(project.root, "init --quiet", "add --quiet data/split data/normalization.json", "commit --force --quiet")
    commit(project.root)
    return project


@pytest.fixture
def folder(tmp_path: Path) -> str:
    """A remote in a local folder."""
    return f"remote add --default --local team {tmp_path / 'remote'}"


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A remote in a bucket of an S3 server."""
    pytest.importorskip("dvc_s3", reason=S3)
    server = pytest.importorskip("moto.server", reason=S3).ThreadedMotoServer(port=0)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of the tests")
    server.start()
    try:
        host, port = server.get_host_and_port()
        address, name = f"http://{host}:{port}", uuid4().hex
        assert requests.put(f"{address}/{name}", timeout=60).ok
        yield f"remote add --default --local team s3://{name}/mnist;remote modify --local team endpointurl {address}"
    finally:
        server.stop()


@pytest.mark.parametrize("remote", ["folder", "bucket"])
def test_a_second_clone_trains_nothing_and_has_all(
    trained: Project, tmp_path: Path, remote: str, request: pytest.FixtureRequest
) -> None:
    commands = request.getfixturevalue(remote).split(";")
    (trained.root / ".dvc" / "config.local").unlink(missing_ok=True)
    dvc(trained.root, *commands, "push --run-cache --quiet")
    git(tmp_path, "clone", "--quiet", str(trained.root), "clone")
    clone = find_project(tmp_path / "clone")
    assert not clone.model_file("mlp").exists()
    dvc(clone.root, *commands, "repro --pull --quiet")
    assert clone.model_file("mlp").read_bytes() == trained.model_file("mlp").read_bytes()
    client, params = open_store(clone), load_params(clone.params)
    assert not find_runs(client, clone, "")  # no stage has run here
    assert sync(clone, params).restored == [
        "mlp: the store had no run of this training; restored from its files",
        "mlp: the store had no intact test report; restored",
    ]
    register.run(clone, params)
    champion = Registry.open(clone).find(CHAMPION)
    assert champion

    shutil.rmtree(clone.split)
    clone.normalization.unlink()
    shutil.rmtree(clone.root / ".dvc" / "cache")
    with walk(clone, f"models:/mnist/{champion.number}", everywhere=True) as found:
        check(found)
        assert found.needed["data/split/train.npz"].found == "on DVC's remote team"
        tree = lay_out(found)
        assert tree.split.joinpath("train.npz").read_bytes() == (trained.split / "train.npz").read_bytes()
