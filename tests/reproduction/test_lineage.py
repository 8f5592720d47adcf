"""`mnist lineage`: a walk back that notices what changed, and no secrets in the store."""

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest, file_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.normalize import load_statistics
from mnist_pipeline.models.model import build_model, save_model
from mnist_pipeline.provenance.environment import cpu_model
from mnist_pipeline.reproduction.lineage import show, walk
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.sync import Agreement, sync
from mnist_pipeline.training.history import Epoch, TrainingSummary, write_history
from mnist_pipeline.training.params import Params, load_params
from repository import MODULE, commit, git, rewritten
from small_project import MNIST, make_project

SECRET = "hunter2"  # noqa: S105 - of nobody
MLP = ModelId("mlp")

# SQLAlchemy, of the password that these tests put into the address of a SQLite store.
pytestmark = pytest.mark.filterwarnings("ignore:Query string argument")


def train(project: Project, params: Params) -> str:
    """Leave what a training leaves, of an untrained model; return the id of its run."""
    with training_run(project, params, MLP, tags={}) as run:
        epoch = Epoch(1, 1.0, 0.5, 0.9, 0.6, 0.001)
        model = params.model("mlp")
        untrained = build_model(model.architecture, model.normalization, load_statistics(project.normalization), MNIST)
        save_model(untrained, project.model_file(MLP))
        write_history(project.history(MLP), [epoch])
        summary = TrainingSummary(0.6, 0.9, 1, 1, 10)
        write_json(project.training_summary(MLP), asdict(summary))
        run.log_epochs(epoch)
        run.log_result(summary, 0.1)
    return run.run_id


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Project, str]]:
    """A project under git with secrets all around, changed since the commit, and the run of a training in it."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        project = make_project(tmp_path_factory.mktemp("trained"))
        # A database address with a password that this driver does not need and does not mind.
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.tracking_database}?password={SECRET}")
        patch.setenv("MNIST_MIRROR", f"https://127.0.0.1/mnist?X-Amz-Signature={SECRET}")
        patch.setenv("DVC_EXP_NAME", "brave-name")
        patch.setenv("DVC_EXP_BASELINE_REV", "0123abc")
        for path in (MODULE, "src/mnist_pipeline/models/mlp.py", "src/mnist_pipeline/stages/train.py"):
            (project.root / path).parent.mkdir(parents=True)
            (project.root / path).write_text("steps = 1\n")
        commit(project.root)
        git(project.root, "remote", "add", "origin", f"https://somebody:{SECRET}@127.0.0.1/repository.git")
        (project.root / MODULE).write_text("steps = 2\n")
        (project.root / "new.py").write_text(f"mirror = 'https://somebody:{SECRET}@127.0.0.1/'\n")
        text = project.params.read_text(encoding="utf-8")
        project.params.write_text(f"# postgresql://mlflow:{SECRET}@127.0.0.1/runs\n{text}", encoding="utf-8")
        yield project, train(project, load_params(project.params))


@pytest.fixture
def store(trained: tuple[Project, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The store that the run was logged to."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained[0].tracking_database}")


def states(project: Project, reference: str) -> dict[str, str]:
    """Return the state of each finding."""
    with walk(project, reference) as found:
        return {each.what: each.state for finding in found.findings for each in finding.all()}


@pytest.mark.usefixtures("store")
def test_a_run_tells_all_that_a_training_again_needs(trained: tuple[Project, str]) -> None:
    project, run_id = trained
    client = open_store(project)
    tags = client.get_run(run_id).data.tags
    assert tags["git_commit"] == git(project.root, "rev-parse", "HEAD").strip()
    assert (tags["mlflow.source.git.branch"], tags["git_dirty"]) == ("main", "true")
    assert (tags["dvc_experiment"], tags["dvc_baseline"]) == ("brave-name", "0123abc")
    assert tags["mlflow.source.name"] == "mnist train mlp"
    with walk(project, run_id) as found:
        assert found.environment["cpu"] == cpu_model()
        assert {"python", "tensorflow", "keras", "cuda"} <= set(found.environment)
    assert client.get_run(run_id).data.params["seed"] == "0"
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"params.yaml", "lineage.json", "uncommitted.diff"} <= names


def test_no_secret_reaches_the_store(trained: tuple[Project, str]) -> None:
    project, _ = trained
    files = [project.tracking_database, *(path for path in project.artifacts.rglob("*") if path.is_file())]
    assert len(files) > 5
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


@pytest.mark.usefixtures("store")
def test_the_way_back_is_printed_whole(trained: tuple[Project, str], capsys: pytest.CaptureFixture[str]) -> None:
    project, run_id = trained
    before = git(project.root, "worktree", "list") + git(project.root, "status", "--porcelain")
    assert not show(project, run_id)  # no stage produced the split, so the raw data are not known
    assert git(project.root, "worktree", "list") + git(project.root, "status", "--porcelain") == before
    lines = [line.lstrip(" │├└─") for line in capsys.readouterr().out.splitlines()]
    assert [line.split()[:2] for line in lines] == [
        ["verified", "run"],
        ["verified", "model"],
        ["verified", "inputs"],
        ["verified", "params.yaml"],
        ["verified", "data"],
        ["verified", "data/normalization.json"],
        ["verified", "data/split/train.npz"],
        ["verified", "data/split/validation.npz"],
        ["missing", "raw"],
        ["verified", "commit"],
        ["verified", "uncommitted.diff"],
        ["verified", "src/mnist_pipeline/models"],
        ["verified", "src/mnist_pipeline/stages/train.py"],
        ["verified", "src/mnist_pipeline/training"],
    ]
    # With its hash, to be copied, however narrow the terminal.
    assert f"train.npz md5 {file_digest(project.split / 'train.npz')} (in the workspace)" in "\n".join(lines)


@pytest.mark.usefixtures("store")
def test_what_changed_since_is_told(trained: tuple[Project, str]) -> None:
    project, run_id = trained
    assert states(project, run_id)["data/split/train.npz"] == "verified"
    data = project.split / "train.npz"
    intact = data.read_bytes()
    data.write_bytes(intact[:-1])
    assert states(project, run_id)["data/split/train.npz"] == "changed"
    data.unlink()
    assert states(project, run_id)["data/split/train.npz"] == "missing"
    data.write_bytes(intact)

    (logged,) = project.artifacts.rglob("model.keras")
    logged.write_bytes(b"other weights")
    assert states(project, run_id)["model file"] == "changed"
    logged.write_bytes(project.model_file(MLP).read_bytes())

    for name, damage in (("lineage.json", '{"inputs": 3}'), ("lineage.json", "{"), ("params.yaml", "a: [")):
        (file,) = project.artifacts.rglob(name)
        content = file.read_bytes()
        file.write_text(damage)
        assert states(project, run_id)[name] == "changed"
        file.write_bytes(content)

    (diff,) = project.artifacts.rglob("uncommitted.diff")
    text = diff.read_text()
    diff.write_text(text.replace("steps = 2", "steps = 3"))
    found = states(project, run_id)
    assert found["uncommitted.diff"] == "changed"
    assert "src/mnist_pipeline/training" not in found  # without its diff the code is another one, of course
    with rewritten(project, run_id, content_digest(text.encode()), file_digest(diff)):
        assert states(project, run_id)["src/mnist_pipeline/training"] == "changed"
    diff.write_text(text)


@pytest.mark.usefixtures("store")
def test_what_tells_of_the_origin_comes_back_but_no_patch_that_nothing_vouches_for(
    trained: tuple[Project, str],
) -> None:
    project, run_id = trained
    (file,) = project.artifacts.rglob(f"{run_id}/artifacts/lineage.json")
    names, tag = ("params.yaml", "lineage.json", "uncommitted.diff"), file_digest(file)
    kept = {path: path.read_bytes() for path in map(file.with_name, names)}

    def lose_and_sync() -> Agreement:
        for path in kept:
            path.unlink()
        return sync(project, load_params(project.params))

    assert lose_and_sync().restored == [f"mlp: the store had no intact {', '.join(names)}; restored"]
    assert {path: path.read_bytes() for path in kept} == kept
    open_store(project).set_tag(run_id, "lineage_md5", "of the lineage of a training on another machine")
    found = lose_and_sync()
    assert found.restored == ["mlp: the store had no intact params.yaml, lineage.json; restored"]
    assert found.lost[0].startswith("mlp: the store has no intact uncommitted.diff, and the workspace cannot")
    for path, content in kept.items():
        path.write_bytes(content)
    open_store(project).set_tag(run_id, "lineage_md5", tag)


@pytest.mark.usefixtures("store")
def test_a_reference_to_nothing_is_refused_in_a_sentence(trained: tuple[Project, str]) -> None:
    project, _ = trained
    for reference in ("0123", "models:/mnist", "models:/mnist@nobody", "models:/mnist/99"):
        with pytest.raises(UserError, match=r"models:/mnist|dvc repro"):
            show(project, reference)


def test_a_database_that_cannot_be_used_is_named_without_its_password(project: Project) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"postgresql+nodriver://mlflow:{SECRET}@127.0.0.1:1/runs"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mnist")), "lineage", "models:/mnist@champion"],
        cwd=project.root, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: The MLflow store postgresql+nodriver://127.0.0.1:1/runs cannot be used")
    assert SECRET not in done.stdout + done.stderr
