"""`mnist reproduce` in a repository of its own: the old model again, bit for bit, or what is different or missing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from mnist_pipeline import reproduce
from mnist_pipeline.files import file_digest
from mnist_pipeline.params import load_params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.inputs import object_path
from mnist_pipeline.tracking.rebuild import build_environment, checked_out, differences, train_again
from mnist_pipeline.tracking.recipe import ImpossibleError, collect, training_arguments
from mnist_pipeline.tracking.registry import Registry
from mnist_pipeline.tracking.store import open_store
from small_project import ROOT, make_project

TRAINER = "src/mnist_pipeline/training/trainer.py"
SEEDED = "set_random_seed(seed"


@dataclass(frozen=True)
class History:
    """A project with a past."""

    project: Project
    committed: str
    """Id of a run from a clean tree, whose code and parameters were changed later."""
    uncommitted: str
    """Id of a run from a tree with changes, of a model with a seed of its own."""


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    done = subprocess.run(["git", *who, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout


def edit(project: Project, path: str, old: str, new: str) -> None:
    file = project.root / path
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def commit(project: Project) -> None:
    git(project.root, "add", "--all")
    git(project.root, "commit", "--quiet", "--message", "a step")


def train(project: Project, *arguments: str) -> str:
    """Train by the project's own code, whatever is imported here; return the id of the run."""
    code = "from mnist_pipeline.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, "train", *arguments],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.root / "src")},
        check=True,
        timeout=300,
    )
    return newest_run(project)


def newest_run(project: Project) -> str:
    client = open_store(project)
    experiment = client.get_experiment_by_name("mnist")
    assert experiment is not None
    newest = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"], max_results=1)
    return newest[0].info.run_id


def without_augmentation(project: Project) -> None:
    """Spare each training the compilation of it."""
    yaml = YAML()
    content = yaml.load(project.params)
    content["models"]["mlp"]["augmentation"] |= dict.fromkeys(("rotation", "shift", "zoom", "shear"), 0)
    yaml.dump(content, project.params)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    """Two trainings, and changes of code and parameters after each."""
    from mnist_pipeline.stages import train as train_here

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        project = make_project(tmp_path_factory.mktemp("past"))
        shutil.copytree(ROOT / "src", project.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
        without_augmentation(project)
        (project.root / "requirements.lock").write_text("--no-index\nkeras==0.0 --hash=sha256:00\n")
        (project.root / ".gitignore").write_text(
            "/data/\n/models/\n/mlruns/\n/mlflow.db*\n/.checkpoints/\n__pycache__/\n"
        )
        git(project.root, "init", "--quiet", "--initial-branch", "main")
        commit(project)
        train_here.run(project, load_params(project.params), "mlp")
        committed = newest_run(project)

        # Changes that are committed, changes that are not, and a module that git has never seen.
        edit(project, "params.yaml", "dropout: 0.2", "dropout: 0.4")
        edit(project, TRAINER, SEEDED, f"{SEEDED} + 1")
        commit(project)
        edit(project, "params.yaml", "activation: relu", "activation: gelu")
        edit(project, TRAINER, SEEDED, f"{SEEDED} + luck")
        edit(project, TRAINER, "import keras\n", "import keras\nfrom mnist_pipeline.training.luck import luck\n")
        (project.root / "src/mnist_pipeline/training/luck.py").write_text("luck = 2\n")
        uncommitted = train(project, "mlp", "--seed", "7")

        edit(project, "src/mnist_pipeline/training/luck.py", "2", "3")
        edit(project, "params.yaml", "activation: gelu", "activation: tanh")
        commit(project)
        yield History(project, committed, uncommitted)


def snapshot(project: Project) -> dict[str, bytes]:
    """Return what must not change: the store's content and artifacts, the workspace, and what git knows."""
    dump = "\n".join(
        f"{run.info} {sorted(run.data.tags.items())} {sorted(run.data.metrics.items())}"
        for run in open_store(project).search_runs(["0", "1", "2"])
    )
    folders = [project.artifacts, project.root / "models", project.root / "src", project.root / "data"]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "store": dump.encode(),
        "git": git(project.root, "status", "--porcelain").encode() + git(project.root, "worktree", "list").encode(),
        **{str(path): path.read_bytes() for path in [*files, project.params] if path.suffix != ".lock"},
    }


def test_an_old_commit_gives_its_model_again_bit_for_bit(past: History, capsys: pytest.CaptureFixture[str]) -> None:
    before = snapshot(past.project)
    assert reproduce.run(past.project, past.committed, install=False) == 0
    said = capsys.readouterr().out
    assert "The same, bit for bit" in said
    assert "data/split/train.npz: in the workspace" in said
    assert re.search(r"^  epoch 2/2", said, re.MULTILINE)
    assert snapshot(past.project) == before


def test_uncommitted_changes_and_a_seed_of_its_own_are_part_of_it(
    past: History, capsys: pytest.CaptureFixture[str]
) -> None:
    client = open_store(past.project)
    keras = client.get_run(past.uncommitted).data.tags["keras"]
    client.set_tag(past.uncommitted, "keras", "3.0.0")
    before = snapshot(past.project)
    assert reproduce.run(past.project, past.uncommitted, install=False) == 0
    assert snapshot(past.project) == before
    client.set_tag(past.uncommitted, "keras", keras)
    told = capsys.readouterr()
    assert "mnist train mlp --seed 7" in told.out
    assert "with what was not committed then" in told.out
    assert f"Not as it was recorded: keras 3.0.0 then, {keras} now." in told.err


def test_a_difference_is_measured_and_has_its_own_status(
    past: History, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    recipe = collect(past.project, past.committed, tmp_path)
    here = {**recipe.tags, "cpu": "another processor", "keras": "3.14.0", "host": "somewhere"}
    with checked_out(past.project, recipe, tmp_path) as tree:
        # What another machine would have made of it, much exaggerated: a model of the same shapes with other weights.
        tree.model("mlp").mkdir(parents=True)
        shutil.copy(past.project.model_file("mlp_seed7"), tree.model_file("mlp"))
        assert reproduce.compare(tree, recipe, differences(recipe.tags, here)) == 3
    told = capsys.readouterr().out
    assert re.search(r"weights +[\d,]+ of 13,\d\d\d differ, by \S+ at most\n", told), told
    assert re.search(r"validation accuracy +\d+\.\d\d% recorded, \d+\.\d\d% rebuilt\n", told)
    assert re.search(r"the same digit +seen on \d+ of 200 validation images \(\d+\.\d\d%\)\n", told)
    cpu, keras = recipe.tags["cpu"], recipe.tags["keras"]
    assert f" keras {keras} then, 3.14.0 now, cpu {cpu} then, another processor now\n" in told


def test_everything_that_is_missing_is_named_at_once(past: History, capsys: pytest.CaptureFixture[str]) -> None:
    client = open_store(past.project)
    run = client.get_run(past.uncommitted)
    validation = past.project.split / "validation.npz"
    (params,) = past.project.artifacts.rglob(f"{past.uncommitted}/artifacts/params.yaml")
    (logged,) = past.project.artifacts.rglob(f"{run.outputs.model_outputs[0].model_id}/artifacts/data/model.keras")
    trained = past.project.model_file("mlp_seed7")
    kept = {path: path.read_bytes() for path in (validation, params, logged, trained)}
    for path in kept:
        path.unlink()
    client.set_tag(past.uncommitted, "git_commit", "0" * 40)
    assert reproduce.run(past.project, past.uncommitted, install=False) == 4
    for path, content in kept.items():
        path.write_bytes(content)
    client.set_tag(past.uncommitted, "git_commit", run.data.tags["git_commit"])
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"{past.uncommitted} cannot be rebuilt here:"
    beginnings = (
        f"  * commit {'0' * 40}: it is not in this repository",
        "  * params.yaml: it is not among the artifacts",
        f"  * data/split/validation.npz: md5 {file_digest(validation)} is neither in the workspace nor",
        f"  * the model that it made: md5 {file_digest(trained)} is not in the store",
    )
    assert len(lines) == 1 + len(beginnings)
    for line, beginning in zip(lines[1:], beginnings, strict=True):
        assert line.startswith(beginning)


def test_code_that_commit_and_diff_do_not_give_is_named(past: History, tmp_path: Path) -> None:
    (diff,) = past.project.artifacts.rglob(f"{past.uncommitted}/artifacts/uncommitted.diff")
    whole = diff.read_text(encoding="utf-8")
    client = open_store(past.project)
    digest = client.get_run(past.uncommitted).data.tags["git_diff_md5"]
    # As it would have been recorded, had there been more room for some files than for others.
    parts = [f"diff --git{part}" for part in whole.split("diff --git")[1:]]
    kept = [part for part in parts if "trainer.py" not in part.splitlines()[0]]
    left_out = f"Left out, because the diff is longer than 1,000 characters: diff --git a/{TRAINER} b/{TRAINER}\n"
    diff.write_text(left_out + "".join(kept), encoding="utf-8")
    with pytest.raises(ImpossibleError, match=r"uncommitted\.diff: .* not the recorded one any more"):
        collect(past.project, past.uncommitted, tmp_path)
    client.set_tag(past.uncommitted, "git_diff_md5", file_digest(diff))
    with pytest.raises(ImpossibleError, match=rf"another {TRAINER}; the recorded diff was too long for {TRAINER}$"):
        collect(past.project, past.uncommitted, tmp_path)
    diff.write_text(whole, encoding="utf-8")
    client.set_tag(past.uncommitted, "git_diff_md5", digest)


def test_what_is_no_finished_training_is_refused_with_the_reason(past: History, tmp_path: Path) -> None:
    client = open_store(past.project)
    experiment = client.get_experiment_by_name("mnist-tuning")
    assert experiment is not None
    for tags, reason in (
        ({"study_id": "x"}, "it is the run of a study, not of a training"),
        ({"trial": "3"}, "it is trial 3 of a study, and a trial keeps no model"),
        ({"model": "mlp"}, r"its training left no model to compare with \(the run is RUNNING\)"),
        (
            {"model": "mlp", "model_md5": "x", "git_commit": "no commit"},
            "the code: it was trained in a copy without git",
        ),
    ):
        run_id = client.create_run(experiment.experiment_id, tags=tags).info.run_id
        with pytest.raises(ImpossibleError, match=reason):
            collect(past.project, run_id, tmp_path)
        client.delete_run(run_id)


def test_after_an_interruption_the_repository_knows_of_no_worktree(past: History, tmp_path: Path) -> None:
    recipe = collect(past.project, past.committed, tmp_path)
    before = git(past.project.root, "worktree", "list")
    seen: list[str] = []

    def interrupted() -> None:
        with checked_out(past.project, recipe, tmp_path) as tree:
            seen.append((tree.root / TRAINER).read_text(encoding="utf-8"))
            seen.append(git(past.project.root, "worktree", "list"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert f"{SEEDED})" in seen[0]
    assert len(seen[1].splitlines()) == 2
    assert git(past.project.root, "worktree", "list") == before
    assert not (tmp_path / "tree").exists()


def test_a_lock_that_cannot_be_installed_is_named(past: History, tmp_path: Path) -> None:
    recipe = collect(past.project, past.committed, tmp_path)
    with checked_out(past.project, recipe, tmp_path) as tree:
        with pytest.raises(ImpossibleError, match=r"requirements\.lock cannot be installed here: `pip`"):
            build_environment(tree, recipe, tmp_path)
        tree.lock.write_text("another\n")
        with pytest.raises(ImpossibleError, match=r"requirements\.lock: the run names md5 .*, its commit has"):
            build_environment(tree, recipe, tmp_path)


def test_data_comes_from_the_cache_or_a_remote_of_dvc(past: History, tmp_path: Path) -> None:
    project = past.project
    (project.root / ".dvc").mkdir()
    (project.root / ".dvc" / "config").write_text(f"['remote \"storage\"']\n    url = {tmp_path / 'storage'}\n")
    places = {"train": project.root / ".dvc" / "cache", "validation": tmp_path / "storage"}
    files = {name: project.split / f"{name}.npz" for name in places}
    moved = {name: object_path(place, file_digest(files[name])) for name, place in places.items()}
    for name, place in moved.items():
        place.parent.mkdir(parents=True)
        files[name].rename(place)
    try:
        recipe = collect(project, past.committed, tmp_path)
        found = {path: evidence.where for path, (_, evidence) in recipe.data.items()}
        assert found["data/split/train.npz"] == "in DVC's cache"
        assert found["data/split/validation.npz"] == "on DVC's remote storage"
        with checked_out(project, recipe, tmp_path) as tree:
            for name, place in moved.items():
                assert (tree.split / f"{name}.npz").read_bytes() == place.read_bytes()
    finally:
        for name, place in moved.items():
            place.rename(files[name])
        shutil.rmtree(project.root / ".dvc")


def test_a_training_that_fails_is_no_difference(
    past: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = replace(collect(past.project, past.committed, tmp_path), arguments=("train", "nobody"))
    with (
        checked_out(past.project, recipe, tmp_path) as tree,
        pytest.raises(ImpossibleError, match=r"^`mnist train nobody` of that commit fails here, with status 1$"),
    ):
        train_again(tree, recipe, Path(sys.executable), tmp_path)
    assert "  error: params.yaml has no model `nobody`" in capsys.readouterr().out


def test_a_registered_version_stands_for_its_run(past: History, tmp_path: Path) -> None:
    client = open_store(past.project)
    digest = client.get_run(past.committed).data.tags["model_md5"]
    version = Registry(client).add(past.committed, digest, description="", tags={})
    assert collect(past.project, f"models:/mnist/{version.number}", tmp_path).run_id == past.committed


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("cnn", ["train", "cnn"]), ("cnn_seed7", ["train", "cnn", "--seed", "7"]), ("my_seed1", ["train", "my_seed1"])],
)
def test_a_sibling_is_trained_by_the_name_and_the_seed(name: str, arguments: list[str]) -> None:
    assert list(training_arguments(name, {"cnn": {}, "my_seed1": {}})) == arguments
