"""A damaged file is one sentence that names it and the way out, whichever command meets it first; never a traceback."""

import json
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mnist_pipeline.core.files import file_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.stages import evaluate, train
from mnist_pipeline.training.params import load_params
from small_project import make_project
from typed import Mnist

CONFLICT = b"<<<<<<< HEAD\nmd5: 1\n=======\nmd5: 2\n>>>>>>> other\n"
BINARY = b"\x93NUMPY\x01\x00\xff\xfe\n\x00"
ANYWHERE = {"binary": BINARY, "conflict": CONFLICT, "empty": b""}
JSON = ANYWHERE | {"no keys": b"{}", "list": b"[]", "nested": b"[" * 100_000, "null": b"null"}
CSV = ANYWHERE | {"no rows": b"epoch,loss\n", "other columns": b"a,b\n1,2\n", "more columns": b"actual\n1,2,3\n"}
YAML = ANYWHERE | {"list": b"- 1\n", "text": b"stages: [", "nested": b"[" * 1_000, "stages": b"stages: 5\n"}
LOCK = YAML | {
    "cut off": b"schema: '2.0'\nstages:\n  train@mlp:\n    cmd: mnist train mlp\n    deps:\n    - pa",
    "no hash": b"stages: {train@mlp: {cmd: mnist train mlp, deps: [{path: data}]}}\n",
    "no command": b"stages: {train@mlp: {deps: []}}\n",
}
PIPELINE = YAML | {"no command": b"stages: {train: {deps: []}}\n", "deps": b"stages: {train: {cmd: a, deps: 5}}\n"}
ARCHIVE = {"empty": b"", "text": b"a page", "binary": BINARY}
TABLE = [
    ("reports/mlp/metrics.json", JSON, "summary"),
    ("reports/best.json", JSON, "summary"),
    ("reports/best.json", JSON, "sync"),
    ("reports/mlp/training.json", JSON, "evaluate mlp"),
    ("reports/mlp/training.json", JSON, "register"),
    ("reports/mlp/test.json", JSON, "register"),
    ("reports/mlp/test.json", JSON, "sync"),
    ("reports/mlp/history.csv", CSV, "sync"),
    ("reports/mlp/confusion.csv", CSV, "register"),
    ("data/normalization.json", JSON, "train mlp"),
    ("data/split/test.npz", ARCHIVE, "evaluate mlp"),
    ("models/mlp/model.keras", ARCHIVE, "evaluate mlp"),
    ("models/mlp/model.keras", ARCHIVE, "predict --model mlp --index 0 data/raw/t10k-images-idx3-ubyte"),
    ("dvc.lock", LOCK, "ready"),
    ("dvc.lock", LOCK, "sync"),
    ("dvc.yaml", PIPELINE, "sync"),
    ("params.yaml", {name: YAML[name] for name in ("binary", "conflict", "text", "nested")}, "summary"),
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project with a trained and evaluated model that is not registered yet."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        project = make_project(tmp_path_factory.mktemp("trained"))
        text = project.params.read_text(encoding="utf-8").replace("train: [mlp, cnn]", "train: [mlp]")
        project.params.write_text(text, encoding="utf-8")
        for stage in (train, evaluate):
            stage.run(project, load_params(project.params), ModelId("mlp"))
        write_json(project.best, {"model": "mlp", "model_md5": file_digest(project.model_file("mlp"))})
        yield project


@pytest.fixture
def complain(mnist: Mnist, monkeypatch: pytest.MonkeyPatch) -> Mnist:
    """Types a command in an experiment of its own, where `sync` has to restore the run."""
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", f"lost-{time.monotonic_ns()}")
    return mnist


@pytest.mark.parametrize(
    ("file", "content", "command"),
    [
        pytest.param(file, content, command, id=f"{command.split()[0]}-{file.rpartition('/')[2]}-{name}")
        for file, damages, command in TABLE
        for name, content in damages.items()
    ],
)
def test_one_sentence_names_the_file_and_the_way_out(
    complain: Mnist, trained: Project, file: str, content: bytes, command: str
) -> None:
    path = trained.root / file
    with replaced(path, content):
        said = complain(command, trained.root).refusal
    assert str(path) in said
    assert said.count("`") >= 2
    if content == CONFLICT and path.suffix != ".keras":
        assert "git merge" in said
        assert f"git checkout --theirs {path}" in said


def test_a_key_that_lacks_or_has_another_type_is_named(complain: Mnist, trained: Project) -> None:
    path = trained.training_summary("mlp")
    content = json.loads(path.read_bytes())
    for damaged in ({key: content[key] for key in content if key != "best_epoch"}, content | {"best_epoch": "8"}):
        with replaced(path, json.dumps(damaged).encode()):
            said = complain("evaluate mlp", trained.root).refusal
        assert "best_epoch" in said
        assert "run `mnist train mlp` again, or `dvc repro`" in said


def test_a_truncated_model_is_refused(complain: Mnist, trained: Project) -> None:
    path = trained.model_file("mlp")
    with replaced(path, path.read_bytes()[:-1_000]):
        said = complain("evaluate mlp", trained.root).refusal
    assert f"{path} cannot be loaded as a Keras model" in said
    assert "run `mnist train mlp` again" in said


@contextmanager
def replaced(path: Path, content: bytes) -> Generator[None]:
    """Let a file have another content, or be there, for a while."""
    intact = path.read_bytes() if path.exists() else None
    path.write_bytes(content)
    yield
    path.unlink() if intact is None else path.write_bytes(intact)
