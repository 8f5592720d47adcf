"""Where a run comes from: diffs that can be applied, a chain that notices what changed, and no secrets anywhere."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnist_pipeline.errors import UserError
from mnist_pipeline.files import file_digest, write_json
from mnist_pipeline.params import Params, load_params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.chain import Link, chain, show
from mnist_pipeline.tracking.lineage import code_diff, code_state, cpu_model, cut_diff
from mnist_pipeline.tracking.redaction import public_uri, redact
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.history import Epoch, write_history
from small_project import make_project

SECRET = "hunter2"  # noqa: S105 - of nobody
MODULE = "src/mnist_pipeline/training/trainer.py"


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def commit_all(project: Project) -> None:
    """Put a project under git, with one module of code and a remote whose address holds a token."""
    module = project.root / MODULE
    module.parent.mkdir(parents=True)
    module.write_text("steps = 1\n")
    (project.root / ".gitignore").write_text("/data/\n/models/\n/mlruns/\n/mlflow.db*\n/ignored.py\n")
    (project.root / "dvc.lock").write_text("schema: '2.0'\n")
    git(project.root, "init", "--quiet", "--initial-branch", "main")
    git(project.root, "remote", "add", "origin", f"https://somebody:{SECRET}@127.0.0.1/repository.git")
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--message", "first")


def train(project: Project, params: Params) -> str:
    """Leave what a training leaves, without one; return the id of its run."""
    with training_run(project, params, "mlp", tags={}) as run:
        folder = project.model("mlp")
        folder.mkdir(parents=True, exist_ok=True)
        project.model_file("mlp").write_bytes(b"weights")
        write_history(folder / "history.csv", [Epoch(1, 1.0, 0.5, 0.9, 0.6, 0.001, 0.1)])
        metrics = {
            "validation_accuracy": 0.6,
            "validation_loss": 0.9,
            "best_epoch": 1,
            "parameters": 10,
            "seconds": 0.1,
        }
        write_json(folder / "metrics.json", metrics)
        run.log_epochs(Epoch(1, 1.0, 0.5, 0.9, 0.6, 0.001, 0.1))
        run.log_result(metrics)
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
        commit_all(project)
        (project.root / MODULE).write_text(f"steps = 2  # https://127.0.0.1/mnist?token={SECRET}\n")
        (project.root / "new.py").write_text(f"mirror = 'https://somebody:{SECRET}@127.0.0.1/'\n")
        text = project.params.read_text(encoding="utf-8")
        project.params.write_text(f"# postgresql://mlflow:{SECRET}@127.0.0.1/runs\n{text}", encoding="utf-8")
        yield project, train(project, load_params(project.params))


def states(links: list[Link]) -> dict[str, str]:
    """Return the state of each link and part, by its first words without hashes."""
    flat = [part for link in links for part in (link, *link.parts)]
    return {" ".join(word for word in link.what.split() if len(word) < 32): link.state for link in flat}


def test_a_run_tells_all_that_a_rebuild_needs(trained: tuple[Project, str]) -> None:
    project, run_id = trained
    client = open_store(project)
    tags = client.get_run(run_id).data.tags
    assert tags["git_commit"] == git(project.root, "rev-parse", "HEAD").strip()
    assert (tags["git_branch"], tags["git_dirty"]) == ("main", "true")
    assert (tags["dvc_experiment"], tags["dvc_baseline"]) == ("brave-name", "0123abc")
    assert tags["mlflow.source.name"] == "mnist train mlp"
    assert tags["cpu"] == cpu_model()
    assert {"python", "tensorflow", "keras", "cuda", "inputs_key", "dvc.data/split/train.npz"} <= set(tags)
    assert client.get_run(run_id).data.params["seed"] == "0"
    names = {artifact.path for artifact in client.list_artifacts(run_id)}
    assert {"params.yaml", "lineage.json", "uncommitted.diff"} <= names


def test_no_secret_reaches_the_store(trained: tuple[Project, str]) -> None:
    project, _ = trained
    files = [project.tracking_database, *(path for path in project.artifacts.rglob("*") if path.is_file())]
    assert len(files) > 5
    assert [path.name for path in files if SECRET.encode() in path.read_bytes()] == []


def test_the_chain_is_verified_until_something_changes(
    trained: tuple[Project, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    project, run_id = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.tracking_database}")
    found = states(chain(project, run_id))
    for what in ("model file md5", "params.yaml", "data/split/train.npz md5", "uncommitted changes md5"):
        assert found[what] == "verified"
    assert found["raw"] == "missing"  # a split that no stage made
    assert not show(project, run_id)
    printed = capsys.readouterr().out
    assert "missing" in printed
    # Whole, to be copied, however narrow the terminal.
    assert f"train.npz md5 {file_digest(project.split / 'train.npz')} (in the workspace)" in printed

    data = project.split / "train.npz"
    intact = data.read_bytes()
    data.write_bytes(intact[:-1])
    assert states(chain(project, run_id))["data/split/train.npz md5"] == "changed"
    data.unlink()
    assert states(chain(project, run_id))["data/split/train.npz md5"] == "missing"
    data.write_bytes(intact)

    (logged,) = project.artifacts.rglob("model.keras")
    logged.write_bytes(b"other weights")
    assert states(chain(project, run_id))["model file md5"] == "changed"
    logged.write_bytes(b"weights")


def test_a_reference_to_nothing_is_refused_in_a_sentence(
    trained: tuple[Project, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    project, _ = trained
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project.tracking_database}")
    for reference in ("0123", "models:/mnist", "models:/mnist@nobody", "models:/mnist/99"):
        with pytest.raises(UserError, match=r"models:/mnist|dvc repro"):
            chain(project, reference)


def test_a_recorded_diff_restores_changed_and_untracked_sources(
    project: Project, tmp_path_factory: pytest.TempPathFactory
) -> None:
    commit_all(project)
    assert code_diff(project.root) == ""
    assert code_state(project.root)["git_dirty"] == "false"
    (project.root / "dvc.lock").write_text("stages: {}\n")
    (project.root / "ignored.py").write_text("no = 1\n")
    (project.root / "notes.txt").write_text("no source\n")
    assert code_diff(project.root) == ""
    assert code_state(project.root)["git_dirty"] == "false"
    (project.root / MODULE).write_text("steps = 3")  # without a newline at the end
    (project.root / "src" / "new.py").write_text("new = 'ä'\n", encoding="utf-8")
    index = git(project.root, "status", "--porcelain")

    patch = tmp_path_factory.mktemp("patch") / "uncommitted.diff"
    patch.write_text(code_diff(project.root), encoding="utf-8")
    assert git(project.root, "status", "--porcelain") == index
    assert code_state(project.root)["git_dirty"] == "true"
    clone = patch.parent / "clone"
    git(project.root, "clone", "--quiet", ".", str(clone))
    git(clone, "apply", str(patch))
    for path in (MODULE, "src/new.py"):
        assert (clone / path).read_bytes() == (project.root / path).read_bytes()
    assert not (clone / "notes.txt").exists()


def test_a_long_diff_is_cut_between_files_and_says_so(project: Project) -> None:
    commit_all(project)
    (project.root / "big.py").write_text("x = 1\n" * 1_000)
    (project.root / "small.py").write_text("y = 1\n")
    cut = cut_diff(code_diff(project.root), 1_000)
    assert cut.startswith("Left out, because the diff is longer than 1,000 characters: diff --git a/big.py")
    shutil.move(project.root / "small.py", project.root / "kept.txt")
    (project.root / "cut.diff").write_text(cut)
    git(project.root, "apply", "cut.diff")
    assert (project.root / "small.py").read_text() == "y = 1\n"


@pytest.mark.parametrize(
    ("uri", "public"),
    [
        ("postgresql+psycopg2://user:hunter2@host:5432/runs?sslmode=require", "postgresql+psycopg2://host:5432/runs"),
        ("postgresql://user:hunt/hunter2?@host/runs", "postgresql://host/runs"),
        ("mysql://user:p@hunter2@host/runs", "mysql://host/runs"),
        ("https://hunter2@host/mlflow", "https://host/mlflow"),
        ("https://host/mnist/?X-Amz-Signature=hunter2&x=1", "https://host/mnist/"),
        ("https://host/mnist/#access_token=hunter2", "https://host/mnist/"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_addresses_lose_their_secrets(uri: str, public: str) -> None:
    assert public_uri(uri) == public
    assert SECRET not in redact(f"cannot reach '{uri}', giving up")


def test_code_that_puts_an_address_together_stays_as_it_is() -> None:
    code = 'url = f"https://{user}:{password}@{host}/?token={token}"\nsee https://example.org/?page=2'
    assert redact(code) == code


def test_a_database_that_cannot_be_used_is_named_without_its_password(project: Project) -> None:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"postgresql+nodriver://mlflow:{SECRET}@127.0.0.1:1/runs"}
    done = subprocess.run(
        [str(Path(sys.executable).with_name("mnist")), "sync"],
        cwd=project.root, env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.startswith("error: The MLflow store postgresql+nodriver://127.0.0.1:1/runs cannot be used")
    assert SECRET not in done.stdout + done.stderr


def test_a_traceback_has_no_password_either(project: Project) -> None:
    code = (
        "from mnist_pipeline.cli import run_command\n"
        f"def crash(): raise ConnectionError('cannot reach https://somebody:{SECRET}@127.0.0.1/')\n"
        "run_command(crash)"
    )
    done = subprocess.run([sys.executable, "-"], input=code, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert "ConnectionError: cannot reach https://***@127.0.0.1/" in done.stderr
    assert SECRET not in done.stderr
