"""The winner goes into `params.yaml` without touching anything else, and only if other seeds agree."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from mnist_pipeline.errors import UserError
from mnist_pipeline.params import load_params
from mnist_pipeline.project import Project
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning import adopt as adoption
from mnist_pipeline.tuning.adopt import adopt, rewrite
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.space import apply, current_values
from mnist_pipeline.tuning.study import claim, create_or_resume

SHIPPED = Path(__file__).parents[2] / "params.yaml"


def test_the_shipped_file_keeps_every_character_that_is_not_a_new_value(tmp_path: Path) -> None:
    project = Project(root=tmp_path, home=tmp_path)
    shutil.copy(SHIPPED, project.params)
    changes: dict[str, Any] = {
        "architecture.blocks.1.filters": 48,
        "architecture.dense_units": [],
        "training.optimizer.learning_rate": 0.00123456789,
        "augmentation.zoom": 1e-05,
    }
    before = load_params(SHIPPED)
    adoption.write(project, "cnn", changes)
    after = load_params(project.params)
    assert after.model("cnn") == apply(before.model("cnn"), changes)
    assert after.model_copy(update={"models": before.models}) == before
    old, new = SHIPPED.read_text().splitlines(), project.params.read_text().splitlines()
    different = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
    assert len(different) == 4
    assert all(was.partition("#")[2] == now.partition("#")[2] for was, now in different)


def test_a_list_in_block_style_is_refused_with_the_way_out() -> None:
    with pytest.raises(UserError, match=r"models\.a\.units on one line, in brackets"):
        rewrite("models:\n  a:\n    units:\n      - 1\n      - 2\n", "a", {"units": [3]})


@pytest.fixture(autouse=True)
def _shared_store(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating a store takes seconds: the projects of these tests use one that is there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared.tracking_database}")


@pytest.fixture
def studied(plan: Plan) -> Plan:
    """A study whose second trial was best."""
    study = create_or_resume(plan.file, plan.definition(), current_values(plan.space, plan.model))
    for value in (0.5, 0.9):
        trial = claim(study, plan.file, plan.space, trials=2, seed=0, worker=0)
        assert trial is not None
        study.tell(trial, value)
    return plan


@pytest.mark.parametrize(("gain", "adopted"), [(0.01, True), (0.0, False), (-0.01, False)])
def test_other_seeds_decide(studied: Plan, monkeypatch: pytest.MonkeyPatch, gain: float, adopted: bool) -> None:
    from mnist_pipeline.tuning import objective

    seeds: list[int] = []

    def score(model: Any, _data: Any, _report: Any, *, seed: int, device: Any) -> objective.Score:
        seeds.append(seed)
        accuracy = 0.9 + gain * (model != studied.model)
        return objective.Score(Epoch(1, 1.0, 0.5, 1.0, accuracy, 0.01, 0.1), parameters=10, seconds=0.1)

    monkeypatch.setattr(objective, "score", score)
    adopt(studied.project, studied.params, "tiny", 3)
    assert seeds == [1, 1, 2, 2, 3, 3]
    assert (load_params(studied.project.params).model("tiny") != studied.model) == adopted


def test_adopting_twice_changes_nothing_more(studied: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    adopt(studied.project, studied.params, "tiny", 0)
    text = studied.project.params.read_text()
    adopt(studied.project, load_params(studied.project.params), "tiny", 0)
    assert studied.project.params.read_text() == text
    assert "has the best parameters of tiny already" in capsys.readouterr().out


def test_an_adopted_study_can_go_on(studied: Plan) -> None:
    adopt(studied.project, studied.params, "tiny", 0)
    params = load_params(studied.project.params)
    from mnist_pipeline.tuning.plan import make_plan

    again = make_plan(studied.project, params, "tiny", trials=3)
    assert again.definition() == studied.definition()


def test_a_study_without_a_complete_trial_is_refused(tmp_path: Path, plan: Plan) -> None:
    create_or_resume(plan.file, plan.definition(), current_values(plan.space, plan.model))
    with pytest.raises(UserError, match="no complete trial yet"):
        adopt(plan.project, plan.params, "tiny", 0)
