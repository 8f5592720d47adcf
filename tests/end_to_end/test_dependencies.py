"""Each `dvc.yaml` depends on what decides a stage's outputs: an edit reruns what it can change, and nothing else."""

from pathlib import Path
from typing import Any

import grimp
import pytest
from ruamel.yaml import YAML

from small_project import ROOT

PACKAGE = "mnist_pipeline"
DECIDE_NOTHING = ("core", "provenance", "tracking")
"""Packages that decide no output: how a run is logged changes no file."""
CONTRACT = "data"
"""Package that stages depend on which write data; to those that read it, the files are the contract."""


def read_stages(file: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(file)["stages"]


STAGES = read_stages(ROOT / "dvc.yaml")
BASELINES = read_stages(ROOT / "baselines" / "dvc.yaml")


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    # Imports under TYPE_CHECKING never happen, so they decide nothing.
    return grimp.build_graph(PACKAGE, exclude_type_checking_imports=True, cache_dir=None)


def packages_that_decide(graph: grimp.ImportGraph, stage: str, *, writes_data: bool) -> set[str]:
    """Follow the imports of a stage's module, without passing through packages that decide nothing."""
    left, seen = {f"{PACKAGE}.stages.{stage}"}, set[str]()
    while left:
        module = left.pop()
        seen.add(module)
        left |= {
            imported
            for imported in graph.find_modules_directly_imported_by(module) - seen
            if imported.split(".")[1] not in DECIDE_NOTHING
        }
    found = {module.split(".")[1] for module in seen if module.count(".") > 1} - {"stages"}
    return found if writes_data else found - {CONTRACT}


@pytest.mark.parametrize(
    ("pipeline", "stage"), [*(("", stage) for stage in STAGES), ("../", "train"), ("../", "evaluate")]
)
def test_a_stage_depends_on_its_module_and_on_the_packages_that_decide_what_it_writes(
    pipeline: str, stage: str, graph: grimp.ImportGraph
) -> None:
    entry = (BASELINES if pipeline else STAGES)[stage]
    outs = [out if isinstance(out, str) else next(iter(out)) for out in entry["outs"]]
    packages = packages_that_decide(graph, stage, writes_data=any(out.startswith("data/") for out in outs))
    prefix = f"{pipeline}src/{PACKAGE}"
    declared = {path for path in entry["deps"] if path.startswith(prefix)}
    assert declared == {f"{prefix}/stages/{stage}.py", *(f"{prefix}/{package}" for package in packages)}


def test_every_stage_is_one_command_of_the_front_door() -> None:
    for name, stage in STAGES.items():
        assert stage["cmd"] == (f"mnist {name} ${{item.model}}" if "matrix" in stage else f"mnist {name}")


def test_the_example_has_the_stages_of_the_pipeline() -> None:
    text = (ROOT / "examples" / "fashion_mnist" / "dvc.yaml").read_text(encoding="utf-8")
    assert YAML(typ="safe").load(text.replace("../../src/", "src/"))["stages"] == STAGES
