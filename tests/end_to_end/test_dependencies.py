"""`dvc.yaml` names exactly the modules that each stage imports: an edit reruns what it must and nothing else."""

from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from small_project import ROOT

PACKAGE = "mnist_pipeline"
STAGES: dict[str, Any] = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    # Imports under TYPE_CHECKING never happen, so they decide nothing.
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_depends_on_the_modules_it_imports(stage: str, graph: grimp.ImportGraph) -> None:
    module = f"{PACKAGE}.stages.{stage}"
    imported = graph.find_upstream_modules(module) | {module}
    if stage != "register":
        # How a run is logged changes no file: dvc.yaml says why the tracking room is left out.
        imported = {name for name in imported if not name.startswith(f"{PACKAGE}.tracking")}
    declared = {path for path in STAGES[stage]["deps"] if path.startswith("src/")}
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
