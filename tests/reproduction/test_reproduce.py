"""`mnist reproduce` in a repository of its own: the old model again, bit for bit, or what is different or missing."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from mnist_pipeline.core.files import content_digest, file_digest
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.reproduction.lineage import Walk, walk
from mnist_pipeline.reproduction.rebuild import ImpossibleError, build_environment, differences, lay_out, train_again
from mnist_pipeline.reproduction.reproduce import check, compare, compare_weights, run
from mnist_pipeline.tracking.contents import text_digest
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.params import load_params
from repository import MODULE, commit, dvc, git, rewritten
from small_project import ROOT, make_project

SEEDED = "set_random_seed(seed"
OF_THE_RUN = "# parameters of the run\n"
SEVEN = ModelId("mlp", 7)


@dataclass(frozen=True)
class Past:
    """A project with a past."""

    project: Project
    committed: str
    """Id of a run from a clean tree, whose code and parameters were changed later."""
    uncommitted: str
    """Id of a run from a tree with changes, of a model with a seed of its own."""
    baseline: str
    """Id of a run of the pipeline in `baselines/`."""


def edit(project: Project, path: str, old: str, new: str) -> None:
    file = project.top / path
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new), encoding="utf-8")


def train(project: Project, *arguments: str) -> str:
    """Train by the project's own code, whatever is imported here; return the id of the run."""
    code = "from mnist_pipeline.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", code, "train", *arguments],
        cwd=project.root,
        env={**os.environ, "PYTHONPATH": str(project.top / "src")},
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


def write_params(project: Project) -> None:
    """Write the second pipeline, whose model has seeds."""
    yaml = YAML()
    content = yaml.load(project.params)
    (project.top / "baselines").mkdir()
    shutil.copy(ROOT / "baselines" / "dvc.yaml", project.top / "baselines")
    models = {"tf_mlp": content["models"]["mlp"]}
    yaml.dump(
        {"seed": 0, "device": "auto", "precision": "auto", "train": ["tf_mlp"], "models": models},
        project.top / "baselines/params.yaml",
    )


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Past]:
    """Three trainings, and changes of code and parameters after them."""
    from mnist_pipeline.stages import train as stage

    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME", "DVC_ROOT"):
            patch.delenv(name, raising=False)
        project = make_project(tmp_path_factory.mktemp("past"))
        dvc(project.top, "init --no-scm")
        shutil.copy(ROOT / ".dvcignore", project.top)
        shutil.copytree(ROOT / "src", project.top / "src", ignore=shutil.ignore_patterns("__pycache__"))
        write_params(project)
        (project.top / "requirements.lock").write_text("--no-index\nkeras==0.0 --hash=sha256:00\n")
        commit(project.top)
        stage.run(project, load_params(project.params), ModelId("mlp"))
        committed = newest_run(project)
        baselines = find_project(project.top / "baselines")
        stage.run(baselines, load_params(baselines.params).with_seed(1), ModelId("tf_mlp", 1))
        baseline = newest_run(baselines)

        # Changes that are committed, changes that are not, and a module that git has never seen.
        edit(project, "params.yaml", "dropout: 0.2", "dropout: 0.4")
        edit(project, MODULE, SEEDED, f"{SEEDED} + 1")
        commit(project.top)
        edit(project, "params.yaml", "activation: relu", "activation: gelu")
        edit(project, MODULE, SEEDED, f"{SEEDED} + luck")
        edit(project, MODULE, "import keras\n", "import keras\nfrom mnist_pipeline.training.luck import luck\n")
        (project.top / "src/mnist_pipeline/training/luck.py").write_text("luck = 2\n")
        uncommitted = train(project, "mlp", "--seed", "7")

        edit(project, "src/mnist_pipeline/training/luck.py", "2", "3")
        edit(project, "params.yaml", "activation: gelu", "activation: tanh")
        commit(project.top)
        yield Past(project, committed, uncommitted, baseline)


@contextmanager
def checked(past: Past, reference: str) -> Generator[Walk]:
    """Yield all that a training again starts from."""
    with walk(past.project, reference, everywhere=True) as found:
        check(found)
        yield found


def snapshot(project: Project) -> dict[str, bytes]:
    """Return what must not change: the store's content and artifacts, the workspace, and what git knows."""
    dump = "\n".join(
        f"{run.info} {sorted(run.data.tags.items())} {sorted(run.data.metrics.items())}"
        for run in open_store(project).search_runs(["0", "1", "2"])
    )
    folders = [project.artifacts, *(project.top / name for name in ("models", "src", "data", "baselines"))]
    files = [path for folder in folders for path in sorted(folder.rglob("*")) if path.is_file()]
    return {
        "store": dump.encode(),
        "git": git(project.top, "status", "--porcelain").encode() + git(project.top, "worktree", "list").encode(),
        **{str(path): path.read_bytes() for path in [*files, project.params] if path.suffix != ".lock"},
    }


def test_uncommitted_changes_and_a_seed_of_its_own_are_part_of_it(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    keras = metadata.version("keras")
    with rewritten(past.project, past.uncommitted, f'"keras": "{keras}"', '"keras": "3.0.0"'):
        before = snapshot(past.project)
        assert run(past.project, past.uncommitted, install=False) == 0
        assert snapshot(past.project) == before
    told = capsys.readouterr()
    assert "Training it again: mnist train mlp --seed 7" in told.out
    assert "model file: in the store" in told.out
    assert "uncommitted.diff: in the store" in told.out
    assert "src/mnist_pipeline/training: from the commit and the diff" in told.out
    assert f"Not as it was recorded: keras 3.0.0 then, {keras} now." in told.err


def test_an_old_commit_of_the_other_pipeline_gives_its_model_again_byte_for_byte(
    past: Past, capsys: pytest.CaptureFixture[str]
) -> None:
    before = snapshot(past.project)
    assert run(past.project, past.baseline, install=False) == 0
    assert snapshot(past.project) == before
    said = capsys.readouterr().out
    assert "Training it again: mnist train tf_mlp --seed 1" in said
    assert re.search(r"^The same file, byte for byte: md5 \w{32}", said, re.MULTILINE)
    assert "data/split/train.npz: in the workspace" in said
    assert re.search(r"^  epoch 2/2", said, re.MULTILINE)


def test_a_difference_is_measured_and_has_its_own_status(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    with checked(past, past.committed) as found:
        here = {**found.environment, "cpu": "another processor", "keras": "3.14.0", "host": "somewhere"}
        tree = lay_out(found)
        # What another machine would have made of it, much exaggerated: a model of the same shapes with other weights.
        tree.model_file("mlp").parent.mkdir(parents=True)
        shutil.copy(past.project.model_file(SEVEN), tree.model_file("mlp"))
        assert compare(found, tree, differences(found.environment, here)) == 3
    told = capsys.readouterr().out
    assert re.search(r"weights +[\d,]+ of 13,\d\d\d differ, by \S+ at most\n", told), told
    assert re.search(r"validation accuracy +\d+\.\d\d% recorded, \d+\.\d\d% rebuilt\n", told)
    assert re.search(r"the same class +given to \d+ of 200 validation images \(\d+\.\d\d%\)\n", told)
    cpu, keras = found.environment["cpu"], found.environment["keras"]
    assert f" keras {keras} then, 3.14.0 now, cpu {cpu} then, another processor now\n" in told


def test_everything_that_is_missing_is_named_at_once(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    client = open_store(past.project)
    entity = client.get_run(past.uncommitted)
    validation = past.project.split / "validation.npz"
    (params,) = past.project.artifacts.rglob(f"{past.uncommitted}/artifacts/params.yaml")
    (logged,) = past.project.artifacts.rglob(f"{entity.outputs.model_outputs[0].model_id}/artifacts/data/model.keras")
    trained = past.project.model_file(SEVEN)
    kept = {path: path.read_bytes() for path in (validation, params, logged, trained)}
    for path in kept:
        path.unlink()
    client.set_tag(past.uncommitted, "git_commit", "0" * 40)
    assert run(past.project, past.uncommitted, install=False) == 4
    for path, content in kept.items():
        path.write_bytes(content)
    client.set_tag(past.uncommitted, "git_commit", entity.data.tags["git_commit"])
    assert capsys.readouterr().err.splitlines() == [
        f"{past.uncommitted} cannot be reproduced here:",
        "  * model file: not intact in the store, nor anywhere else: nothing can be compared with it "
        f"(md5 {file_digest(trained)})",
        f"  * params.yaml: not in the store any more; `mnist sync` may restore it (md5 {content_digest(kept[params])})",
        "  * data/split/validation.npz: neither in the workspace nor in DVC's cache, nor on a remote of DVC "
        f"(md5 {file_digest(validation)})",
        f"  * commit {'0' * 40}: not in this repository (`git fetch --all` may bring it)",
    ]


def test_a_model_that_the_store_has_lost_is_taken_from_the_workspace(past: Past) -> None:
    (logged,) = (
        path
        for path in past.project.artifacts.rglob("model.keras")
        if file_digest(path) == file_digest(past.project.model_file(SEVEN))
    )
    content = logged.read_bytes()
    logged.unlink()
    with checked(past, past.uncommitted) as found:
        assert found.files["model file"] == past.project.model_file(SEVEN)
    logged.write_bytes(content)


def test_data_come_from_the_cache_or_a_remote_of_dvc(past: Past, tmp_path: Path) -> None:
    files = {name: past.project.split / f"{name}.npz" for name in ("train", "validation")}
    digests = {name: file_digest(path) for name, path in files.items()}
    dvc(past.project.top, f"remote add storage {tmp_path}")
    places = {"train": past.project.top / ".dvc" / "cache", "validation": tmp_path}
    objects = {name: places[name] / "files" / "md5" / digest[:2] / digest[2:] for name, digest in digests.items()}
    for name, path in objects.items():
        path.parent.mkdir(parents=True)
        files[name].rename(path)
    try:
        with walk(past.project, past.committed, everywhere=True) as found:
            needed, tree = found.needed, lay_out(found)
            assert needed["data/split/train.npz"].found == "in DVC's cache"
            assert needed["data/split/validation.npz"].found == "on DVC's remote storage"
            assert {name: file_digest(tree.split / f"{name}.npz") for name in files} == digests
        with walk(past.project, past.committed) as found:  # as `mnist lineage`, which looks near only
            assert found.needed["data/split/validation.npz"].state == "missing"
    finally:
        for name, path in objects.items():
            path.rename(files[name])


def test_code_that_commit_and_diff_do_not_give_is_named(past: Past) -> None:
    (diff,) = past.project.artifacts.rglob(f"{past.uncommitted}/artifacts/uncommitted.diff")
    whole = diff.read_text(encoding="utf-8")
    # As it would have been recorded, had there been more room for some files than for others.
    parts = [f"diff --git{part}" for part in whole.split("diff --git")[1:]]
    kept = [part for part in parts if "trainer.py" not in part.splitlines()[0]]
    left_out = f"Left out, because the diff is longer than 1,000 characters: diff --git a/{MODULE} b/{MODULE}\n"
    diff.write_text(left_out + "".join(kept), encoding="utf-8")
    try:
        with pytest.raises(
            ImpossibleError, match=r"^uncommitted\.diff: not the recorded one any more; `mnist sync` may"
        ):
            checked(past, past.uncommitted).__enter__()
        with (
            rewritten(past.project, past.uncommitted, content_digest(whole.encode()), file_digest(diff)),
            pytest.raises(ImpossibleError, match=rf"^src/mnist_pipeline/training: .*too long for {MODULE} \(md5"),
        ):
            checked(past, past.uncommitted).__enter__()
    finally:
        diff.write_text(whole, encoding="utf-8")


def test_what_is_no_finished_training_is_refused_with_the_reason(past: Past) -> None:
    client = open_store(past.project)
    experiment = client.get_experiment_by_name("mnist-tuning")
    assert experiment is not None
    for tags, reason in (
        ({"study_id": "x"}, "it is the run of a study, not of a training"),
        ({"trial": "3"}, "it is trial 3 of a study, and a trial keeps no model"),
        ({"model": "mlp"}, r"its training left no model to compare with \(the run is RUNNING\)"),
        (
            {"model": "mlp", "model_md5": "x", "git_commit": "no commit"},
            "code: the model was trained in a copy without git",
        ),
    ):
        run_id = client.create_run(experiment.experiment_id, tags=tags).info.run_id
        with pytest.raises(ImpossibleError, match=reason):
            checked(past, run_id).__enter__()
        client.delete_run(run_id)


@contextmanager
def altered(past: Past, old: str, new: str) -> Generator[str]:
    """Yield the id of a run like the committed one, with another `lineage.json` and a comment in its `params.yaml`."""
    client, original = open_store(past.project), open_store(past.project).get_run(past.committed)
    tags = {key: value for key, value in original.data.tags.items() if key != "lineage_md5"}
    run_id = client.create_run(original.info.experiment_id, tags=tags).info.run_id
    (folder,) = past.project.artifacts.rglob(f"{past.committed}/artifacts")
    params = (folder / "params.yaml").read_text() + OF_THE_RUN
    client.log_text(run_id, params, "params.yaml")
    lineage = (folder / "lineage.json").read_text().replace(file_digest(folder / "params.yaml"), text_digest(params))
    client.log_text(run_id, lineage.replace(old, new), "lineage.json")
    yield run_id
    client.delete_run(run_id)


def test_after_an_interruption_the_repository_knows_of_no_worktree(past: Past) -> None:
    before = git(past.project.top, "worktree", "list")
    seen: list[Path] = []

    def interrupted() -> None:
        with checked(past, past.committed) as found:
            seen.append(found.tree)
            assert f"{SEEDED})" in (found.tree / MODULE).read_text(encoding="utf-8")
            assert len(git(past.project.top, "worktree", "list").splitlines()) == 2
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert git(past.project.top, "worktree", "list") == before
    assert not seen[0].exists()


def test_a_lock_that_cannot_be_installed_is_named(past: Past) -> None:
    with checked(past, past.committed) as found:
        tree = lay_out(found)
        with pytest.raises(ImpossibleError, match=r"requirements\.lock cannot be installed here: `pip`"):
            build_environment(found, tree)
        tree.lock.write_text("another\n")
        with pytest.raises(ImpossibleError, match=r"requirements\.lock: the run names md5 .*, its commit has"):
            build_environment(found, tree)


def test_a_training_that_fails_is_no_difference(past: Past, capsys: pytest.CaptureFixture[str]) -> None:
    with altered(past, "mnist train mlp", "mnist train nobody") as run_id, walk(past.project, run_id) as found:
        tree = lay_out(found)
        assert tree.params.read_text().endswith(OF_THE_RUN)
        with pytest.raises(ImpossibleError, match=r"^`mnist train nobody` of that commit fails here, with status 1$"):
            train_again(found, tree, Path(sys.executable))
    assert "  error: params.yaml has no model `nobody`" in capsys.readouterr().out


def test_a_version_stands_for_its_run_also_if_that_was_restored_under_another_id(past: Past) -> None:
    client = open_store(past.project)
    original = client.get_run(past.committed)
    deleted = client.create_run(original.info.experiment_id).info.run_id
    client.create_registered_model("mnist")
    source, tags = (
        f"models:/{original.outputs.model_outputs[0].model_id}",
        {"model_md5": original.data.tags["model_md5"]},
    )
    for run_id in (past.committed, deleted):
        client.create_model_version("mnist", source, run_id, tags=tags)
    client.delete_run(deleted)
    for version in (1, 2):
        with walk(past.project, f"models:/mnist/{version}") as found:
            assert found.run is not None
            assert found.run.info.run_id == past.committed
            assert found.findings[0].what == f"registered version mnist/{version}"


WEIGHTS = [np.array([[0.0, 1.0], [2.0, 3.0]], np.float32), np.array([4.0], np.float32)]


def test_the_same_bits_are_no_difference() -> None:
    assert compare_weights(WEIGHTS, [array.copy() for array in WEIGHTS]) == (5, 0, 0.0)


def test_the_last_bit_counts_and_so_does_a_sign_of_zero() -> None:
    other = [np.array([[-0.0, np.nextafter(np.float32(1), np.float32(2))], [2.0, 3.0]], np.float32), WEIGHTS[1] + 1]
    assert compare_weights(WEIGHTS, other) == (5, 3, 1.0)


def test_other_shapes_are_another_network() -> None:
    assert compare_weights(WEIGHTS, WEIGHTS[:1]) is None
    assert compare_weights(WEIGHTS, [WEIGHTS[0].ravel(), WEIGHTS[1]]) is None
