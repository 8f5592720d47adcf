"""The state of the code: diffs that can be applied, and no secrets in them."""

import shutil
import time
from pathlib import Path

import pytest

from mnist_pipeline.core.project import find_project
from mnist_pipeline.provenance.environment import NO_COMMIT, code_diff, code_tags, cut_diff
from repository import MODULE, commit, git


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A repository with a module of code and files that stages write."""
    root = tmp_path / "repository"
    for name, text in {
        "params.yaml": "seed: 0\n",
        MODULE: "steps = 1\n",
        "dvc.lock": "schema: '2.0'\n",
        "reports/cnn/metrics.json": "{}\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    commit(root)
    return root


def test_what_stages_write_and_what_git_ignores_is_no_change_of_the_code(root: Path) -> None:
    (root / "dvc.lock").write_text("stages: {}\n")
    (root / "reports/cnn/metrics.json").write_text('{"val_accuracy": 1}\n')
    (root / "reports/cnn/test.json").write_text("{}\n")
    (root / "ignored.py").write_text("no = 1\n")
    (root / "notes.txt").write_text("no source\n")
    assert code_diff(root) == ""
    assert code_tags(find_project(root), code_diff(root)) == {
        "mlflow.source.git.commit": git(root, "rev-parse", "HEAD").strip(),
        "mlflow.source.git.branch": "main",
        "git_commit": git(root, "rev-parse", "HEAD").strip(),
        "git_dirty": "false",
    }


def test_a_recorded_diff_restores_changed_and_untracked_sources(root: Path, tmp_path: Path) -> None:
    (root / MODULE).write_text("steps = 3")  # without a newline at the end
    (root / "src" / "new.py").write_text("new = 'ä'\n", encoding="utf-8")
    index = git(root, "status", "--porcelain")
    patch = tmp_path / "uncommitted.diff"
    patch.write_text(code_diff(root), encoding="utf-8")
    assert git(root, "status", "--porcelain") == index
    assert code_tags(find_project(root), code_diff(root))["git_dirty"] == "true"
    git(root, "clone", "--quiet", ".", str(tmp_path / "clone"))
    git(tmp_path / "clone", "apply", str(patch))
    for path in (MODULE, "src/new.py"):
        assert (tmp_path / "clone" / path).read_bytes() == (root / path).read_bytes()


def test_a_change_right_after_the_commit_is_not_overlooked(root: Path) -> None:
    (root / MODULE).write_text("steps = 2\n")  # of the same length, in the same second
    (root / "new.py").write_text("new = 1\n")
    time.sleep(1.1)
    assert "+steps = 2" in code_diff(root)


def test_a_long_diff_is_cut_between_files_and_says_so(root: Path) -> None:
    (root / "big.py").write_text("x = 1\n" * 1_000)
    (root / "small.py").write_text("y = 1\n")
    cut = cut_diff(code_diff(root), 1_000)
    assert cut.startswith("Left out, because the diff is longer than 1,000 characters: diff --git a/big.py")
    shutil.move(root / "small.py", root / "kept.txt")
    (root / "cut.diff").write_text(cut)
    git(root, "apply", "cut.diff")
    assert (root / "small.py").read_text() == "y = 1\n"


def test_the_commit_of_a_repository_around_the_project_is_not_its_own(root: Path) -> None:
    project = root / "ignored.py"
    project.mkdir()
    (project / "params.yaml").write_text("seed: 0\n")
    assert code_tags(find_project(project), code_diff(project)) == {"git_commit": NO_COMMIT}
