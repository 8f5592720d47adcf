"""The winner goes into `params.yaml` without touching anything else, and only if other seeds agree."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import keras
import pytest
from ruamel.yaml import YAML
from studies import created, runs_of, scripted, study_of, told

from mnist_pipeline import cli
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.stages import train
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training import trainer
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams, Params, load_params
from mnist_pipeline.training.trainer import TrainingResult
from mnist_pipeline.tuning import adopt as adoption
from mnist_pipeline.tuning import tune as tuning
from mnist_pipeline.tuning.adopt import adopt
from mnist_pipeline.tuning.cluster import Resources
from mnist_pipeline.tuning.params import apply
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.study import values_of
from small_project import ROOT, make_project

SHIPPED = ROOT / "params.yaml"


@pytest.fixture
def shipped(tmp_path: Path) -> Project:
    """A project with the repository's own params.yaml, and no more."""
    shutil.copy(SHIPPED, tmp_path)
    return Project(root=tmp_path, top=tmp_path, home=tmp_path)


def test_the_shipped_file_keeps_every_line_without_a_new_value(shipped: Project) -> None:
    changes: dict[str, Any] = {
        "architecture.blocks.1.filters": 48,
        "architecture.dense_units": [64, 32],
        "training.optimizer.learning_rate": 0.00123456789,
        "augmentation.rotation": 11.0,
        "augmentation.shift": 2.0,
        "augmentation.zoom": 1e-05,
    }
    before = load_params(SHIPPED)
    adoption.write(shipped, "cnn", changes)
    after = load_params(shipped.params)
    assert after.model("cnn") == apply(before.model("cnn"), changes)
    assert after.model_copy(update={"models": before.models}) == before
    old, new = SHIPPED.read_text().splitlines(), shipped.params.read_text().splitlines()
    different = [(was, now) for was, now in zip(old, new, strict=True) if was != now]
    assert len(different) == 6
    assert any(now.strip().startswith("rotation: 11 ") for _, now in different)  # it was 10
    assert any(now.strip().startswith("shift: 2.0 ") for _, now in different)  # it was 2.5
    assert any(now.strip().startswith("dense_units: [64, 32] ") for _, now in different)
    assert all(was.partition("#")[2] == now.partition("#")[2] for was, now in different)


def test_dvc_would_write_the_shipped_file_as_it_is(shipped: Project) -> None:
    """So that neither `dvc exp run -S` nor `mnist adopt` restyles what they do not change."""
    from dvc.utils.serialize import modify_yaml

    with modify_yaml(str(shipped.params)) as params:
        params["seed"] = 1
    assert shipped.params.read_text() == SHIPPED.read_text().replace("seed: 0", "seed: 1", 1)


def test_a_file_in_another_style_is_changed_all_the_same(shipped: Project) -> None:
    text = SHIPPED.read_text()
    for was, now in {
        "hidden_units: [512, 256]": "hidden_units:\n      - 512 # the first\n      - 256\n      #",
        "activation: relu": "activation: 'relu'",
    }.items():
        assert was in text
        text = text.replace(was, now, 1)
    shipped.params.write_text(text)
    assert load_params(shipped.params) == load_params(SHIPPED)
    adoption.write(shipped, "mlp", {"architecture.hidden_units": [64], "architecture.activation": "tanh"})
    architecture = load_params(shipped.params).model("mlp").model_dump(mode="json")["architecture"]
    assert (architecture["hidden_units"], architecture["activation"]) == ([64], "tanh")


@pytest.mark.parametrize("units", [[], [512], [512, 256], [64, 64, 64]])
def test_a_file_that_dvc_has_rewritten_for_an_experiment_can_be_adopted_to(shipped: Project, units: list[int]) -> None:
    """`dvc exp run -S` writes every list anew, as a block below its comment."""
    from dvc.utils.hydra import apply_overrides

    apply_overrides(shipped.params, ["models.cnn.training.epochs=2"])
    assert "      - 256\n" in shipped.params.read_text()
    before = load_params(shipped.params)
    changes = {"architecture.dense_units": units, "architecture.blocks.1.convolutions": 2}
    adoption.write(shipped, "cnn", changes)
    after = load_params(shipped.params)
    assert after.model("cnn") == apply(before.model("cnn"), changes)
    assert after.model_copy(update={"models": before.models}) == before


@pytest.fixture(autouse=True)
def _shared_store(shared: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating a store takes seconds: the projects of these tests use one that is there."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared.tracking_database}")


def adopted_model(plan: Plan) -> ModelParams:
    return load_params(plan.project.params).model("tiny")


@pytest.fixture
def studied(plan: Plan) -> Plan:
    """A study whose second trial was best."""
    return told(plan, [0.5], [0.9], [0.7])


@pytest.fixture
def seeds(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Let confirmations end as a test wants, and tell it the seeds."""

    def confirm(current: tuple[float, int], new: tuple[float, int], plan: Plan) -> list[int]:
        asked: list[int] = []

        def train(model: ModelParams, _: Any, *, seed: int, **options: Any) -> TrainingResult:
            asked.append(seed)
            number, weights = current if model == plan.params.model("tiny") else new
            network = cast("keras.Model", SimpleNamespace(count_params=lambda: weights))
            epoch = Epoch(1, 1.0, 0.5, number, number, 0.01)
            return TrainingResult(network, [epoch], epoch, 0.1)

        monkeypatch.setattr(trainer, "train", train)
        return asked

    return confirm


@pytest.mark.parametrize(("gain", "adopted"), [(0.01, True), (0.0, False), (-0.01, False)])
def test_other_seeds_decide(studied: Plan, seeds: Callable[..., list[int]], gain: float, adopted: bool) -> None:
    asked = seeds((0.9, 10), (0.9 + gain, 10), studied)
    adopt(studied.project, studied.params, study_of(studied), 3)
    assert asked == [1, 1, 2, 2, 3, 3]
    assert (adopted_model(studied) != studied.params.model("tiny")) == adopted


def test_what_entries_share_is_refused_before_anything_is_trained(
    studied: Plan, seeds: Callable[..., list[int]]
) -> None:
    file = studied.project.params
    text = file.read_text().replace("  tiny:\n", "  tiny: &tiny\n", 1).replace("tune:\n", "  other: *tiny\ntune:\n")
    file.write_text(text)
    asked = seeds((0.9, 10), (0.95, 10), studied)
    with pytest.raises(UserError, match=r"^params\.yaml cannot be rewritten: write models\.tiny without & and \*"):
        adopt(studied.project, load_params(file), study_of(studied), 3)
    assert (file.read_text(), asked) == (text, [])


@pytest.mark.parametrize(("gain", "adopted"), [(-0.01, True), (0.0, False), (0.01, False)])
def test_by_loss_the_lower_is_adopted_and_the_epochs_are_chosen_by_it(
    project: Project, params: Params, seeds: Callable[..., list[int]], gain: float, adopted: bool
) -> None:
    plan = told(Plan(project, params, "tiny", "tiny", 3, objective="loss"), [0.5], [0.1], [0.7])
    seeds((0.9, 10), (0.9 + gain, 10), plan)
    adopt(project, params, study_of(plan), 1)
    best = study_of(plan).best_trial
    assert best.number == 1
    wanted = apply(params.model("tiny"), {"training.monitor": "loss", **values_of(best)})
    assert adopted_model(plan) == (wanted if adopted else params.model("tiny"))


def test_a_trial_other_than_the_best_can_be_chosen(studied: Plan) -> None:
    adopt(studied.project, studied.params, study_of(studied), 0, number=2)
    third = study_of(studied).get_trials()[2]
    assert adopted_model(studied) == apply(studied.params.model("tiny"), values_of(third))


def test_a_trial_that_is_not_complete_is_refused_with_those_that_are(studied: Plan) -> None:
    with pytest.raises(UserError, match=r"^--trial 7 is no complete .*: choose one, such as 1 \(90\.00%\); 2 \("):
        adopt(studied.project, studied.params, study_of(studied), 0, number=7)


@pytest.fixture
def front(project: Project, params: Params) -> Plan:
    """A study whose front has two trials, both other than the current parameters."""
    plan = Plan(project, params, "tiny", "tiny", 4, objective="accuracy,parameters")
    return told(plan, [0.9, 800.0], [0.95, 900.0], [0.8, 100.0], [0.7, 400.0])


def test_a_front_has_no_single_best_trial(front: Plan) -> None:
    with pytest.raises(UserError) as error:
        adopt(front.project, front.params, study_of(front), 0)
    assert str(error.value) == (
        "The study tiny has no single best trial: choose one with --trial: 1 (95.00%, 900 weights); "
        "0 (90.00%, 800 weights); 2 (80.00%, 100 weights)."
    )


@pytest.mark.parametrize(
    ("new", "adopted"), [((0.8, 100), True), ((0.95, 900), True), ((0.9, 800), False), ((0.8, 900), False)]
)
def test_of_a_front_it_is_enough_to_be_more_accurate_or_smaller(
    front: Plan, seeds: Callable[..., list[int]], new: tuple[float, int], adopted: bool
) -> None:
    seeds((0.9, 800), new, front)
    adopt(front.project, front.params, study_of(front), 2, number=2)
    assert (adopted_model(front) != front.params.model("tiny")) == adopted


def test_current_parameters_that_are_too_large_cannot_stay(
    project: Project, params: Params, seeds: Callable[..., list[int]], capsys: pytest.CaptureFixture[str]
) -> None:
    plan = told(Plan(project, params, "tiny", "tiny", 2, max_parameters=500), [0.5], [0.6])
    seeds((0.9, 800), (0.7, 400), plan)
    adopt(project, params, study_of(plan), 1)
    assert adopted_model(plan) != params.model("tiny")
    assert "have 800 weights, more than 500: they cannot stay" in capsys.readouterr().out


def test_adopting_twice_changes_nothing_more(studied: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    adopt(studied.project, studied.params, study_of(studied), 0)
    text = studied.project.params.read_text()
    adopt(studied.project, load_params(studied.project.params), study_of(studied), 0)
    assert studied.project.params.read_text() == text
    assert "has the parameters of trial 1 of tiny already" in capsys.readouterr().out


def test_an_adopted_study_can_go_on(studied: Plan) -> None:
    adopt(studied.project, studied.params, study_of(studied), 0)
    again = Plan(studied.project, load_params(studied.project.params), "tiny", "tiny", 3)
    assert again.definition() == studied.definition()


def test_a_study_without_a_complete_trial_is_refused(plan: Plan) -> None:
    created(plan)
    with pytest.raises(UserError, match="no complete trial yet"):
        adopt(plan.project, plan.params, study_of(plan), 0)


def test_tuned_adopted_trained_and_linked(
    plan: Plan, ray: Resources, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`mnist tune --adopt` and the training after it, whose run and the winner's name each other."""
    monkeypatch.setattr(tuning, "tune", partial(tuning.tune, worker=scripted([0.5], [0.9], [0.7])))
    monkeypatch.setenv("RAY_ADDRESS", str(ray.address))
    monkeypatch.chdir(plan.project.root)
    cli.app(["tune", "tiny", "--trials", "3", "--epochs", "1", "--adopt", "--confirm", "0"], standalone_mode=False)
    assert "+      optimizer: {name: adam, learning_rate: " in capsys.readouterr().out
    project, changed = plan.project, load_params(plan.project.params)
    assert changed.model("tiny").training.epochs == 2  # those of a trial are the study's affair
    for params, seed in ((changed, 1), (plan.params, None)):
        train.run(project, params.with_seed(seed), ModelId("tiny", seed))
    study, trials = runs_of(plan)
    assert study.data.tags["budget"] == "3 trials, 1 epoch each at most, 1 at once"
    assert study.data.tags["adopted"] == "true"
    assert study.data.tags["adopted_trial"] == "1"
    client = open_store(project)
    runs = client.search_runs([client.get_experiment_by_name("mnist").experiment_id])
    linked = {run.info.run_id: run.data.tags for run in runs if run.data.params["architecture.kind"] == "mlp"}
    (training,) = [run_id for run_id, tags in linked.items() if tags.get("tuned_by_run") == trials[1].info.run_id]
    assert trials[1].data.tags["trained_run"] == training
    assert f"/runs/{trials[1].info.run_id})" in linked[training]["mlflow.note.content"]
    assert f"/runs/{training})" in trials[1].data.tags["mlflow.note.content"]
    # The training with the parameters that were there before is linked to nothing.
    assert sum("tuned_by_run" in tags for tags in linked.values()) == 1
    assert [number for number, run in trials.items() if "trained_run" in run.data.tags] == [1]


def test_dvc_wants_to_train_just_the_model_that_was_tuned(tmp_path: Path) -> None:
    """With the repository's own dvc.yaml and params.yaml, and every other file made up."""
    project = make_project(tmp_path)
    shutil.copy(SHIPPED, tmp_path)
    shutil.copytree(ROOT / "src", tmp_path / "src", ignore=shutil.ignore_patterns("__pycache__"))

    def dvc(*arguments: str) -> str:
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout

    dvc("init", "--no-scm", "--quiet")
    for out in _outs(tmp_path):
        if not out.exists():
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text("made up")
    dvc("commit", "--force", "--quiet")
    assert json.loads(dvc("status", "--json")) == {}

    params = load_params(project.params)
    plan = told(Plan(project, params, "mlp", "mlp", 2), [0.5], [0.6])
    adopt(project, params, study_of(plan), 0)
    # What follows from the model file is run again when that has changed.
    assert json.loads(dvc("status", "--json")).keys() == {"train@mlp"}


def _outs(root: Path) -> set[Path]:
    """Return all that the stages of dvc.yaml write."""
    stages: dict[str, Any] = YAML(typ="safe").load(root / "dvc.yaml")["stages"]
    models = load_params(root / "params.yaml").train
    listed = [out for stage in stages.values() for kind in ("outs", "metrics", "plots") for out in stage.get(kind, [])]
    paths = [out if isinstance(out, str) else next(iter(out)) for out in listed]
    return {root / path.replace("${item.model}", name) for path in paths for name in models}
