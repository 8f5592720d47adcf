"""Each `dvc.yaml` names exactly the modules that a stage imports: an edit reruns what it must and nothing else."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from mnist_pipeline.params import load_params
from small_project import ROOT

PACKAGE = "mnist_pipeline"


def read_stages(file: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(file)["stages"]


STAGES = read_stages(ROOT / "dvc.yaml")
BASELINES = read_stages(ROOT / "baselines" / "dvc.yaml")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    # Imports under TYPE_CHECKING never happen, so they decide nothing.
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


@pytest.mark.parametrize(
    ("pipeline", "stage"),
    [*(("", stage) for stage in STAGES), *(("baselines", stage) for stage in BASELINES if stage != "table")],
)
def test_a_stage_depends_on_the_modules_it_imports(pipeline: str, stage: str, graph: grimp.ImportGraph) -> None:
    module = f"{PACKAGE}.stages.{stage}"
    imported = graph.find_upstream_modules(module) | {module}
    if stage != "register":
        # How a run is logged changes no file: dvc.yaml says why the tracking room is left out.
        imported = {name for name in imported if not name.startswith(f"{PACKAGE}.tracking")}
    stages, prefix = (BASELINES, "../../") if pipeline else (STAGES, "")
    declared = {path.removeprefix(prefix) for path in stages[stage]["deps"] if path.startswith(f"{prefix}src/")}
    assert declared == {f"src/{name.replace('.', '/')}.py" for name in imported}


def test_an_edit_reruns_only_what_it_can_change() -> None:
    def reruns(module: str) -> set[str]:
        return {name for name, stage in STAGES.items() if f"src/{PACKAGE}/{module}" in stage["deps"]}

    assert reruns("evaluation/figures.py") == {"evaluate"}
    assert reruns("models/cnn.py") == {"train"}
    assert reruns("data/download.py") == {"download"}


def test_every_stage_is_one_command_of_the_front_door() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == (f"mnist {name} ${{item.model}}" if "matrix" in stage else f"mnist {name}")


def test_the_baselines_are_the_same_stages_in_a_folder_per_recipe() -> None:
    """DVC itself resolves the matrix, and each recipe's folder is where it says."""
    done = subprocess.run(
        [sys.executable, "-m", "dvc", "stage", "list", "--name-only", "dvc.yaml"],
        cwd=ROOT / "baselines",
        capture_output=True,
        text=True,
        check=True,
    )
    params = YAML(typ="safe").load(ROOT / "baselines" / "params.yaml")
    assert set(done.stdout.split()) == {
        "table",
        *(f"{stage}@{recipe}" for stage in ("normalize", "split") for recipe in params["recipes"]),
        *(
            f"{stage}@{recipe}-{seed}"
            for stage in ("train", "evaluate")
            for recipe in params["recipes"]
            for seed in params["seeds"]
        ),
    }
    for recipe in params["recipes"]:
        assert set(load_params(ROOT / "baselines" / recipe / "params.yaml").models) == {recipe}
        assert f"{recipe}/models" in BASELINES["table"]["deps"]
