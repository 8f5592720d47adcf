"""Who becomes champion, on what evidence, and what is written about it: real models, a real store."""

import multiprocessing
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import Subset, load_subset, load_train, load_validation, save_subset
from mnist_pipeline.evaluation.comparison import RULE, mcnemar
from mnist_pipeline.evaluation.metrics import predict_probabilities
from mnist_pipeline.models.model import load_model
from mnist_pipeline.registry import contest
from mnist_pipeline.registry.candidate import Best, Candidate
from mnist_pipeline.registry.catalogue import load_champion, rollback
from mnist_pipeline.registry.registry import Registry, Version
from mnist_pipeline.stages import evaluate, train
from mnist_pipeline.stages import register as stage
from mnist_pipeline.tracking.contents import Evaluation
from mnist_pipeline.tracking.runs import find_run_by_digest
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.history import TrainingSummary
from mnist_pipeline.training.params import Params, load_params
from small_project import draw_digits, make_project, write_data
from versions import register as register_in_process


@dataclass(frozen=True)
class Workspace:
    """A project with two evaluated models, one of them bad."""

    project: Project
    params: Params

    def register(self, *names: str) -> None:
        """Do what `mnist register` would with these models in `train` in params.yaml."""
        stage.run(self.project, self.params.model_copy(update={"train": names}))

    def bearer(self, alias: str) -> Version | None:
        return Registry.open(self.project).find(alias)

    def titles(self) -> dict[str, str]:
        versions = Registry.open(self.project).versions()
        return {alias: version.model for version in versions for alias in version.aliases}

    def artifact(self, name: str, file: str) -> Path:
        run = find_run_by_digest(open_store(self.project), self.project, file_digest(self.project.model_file(name)))
        assert run is not None
        return Path(str(run.info.artifact_uri).removeprefix("file://")) / file

    def reads_rightly(self, name: str) -> NDArray[np.bool_]:
        """Say for each validation image whether the model of the workspace is right."""
        validation = load_validation(self.project.split)
        probabilities = predict_probabilities(load_model(self.project.model_file(name)), validation.images)
        return probabilities.argmax(axis=1) == validation.labels

    def copy(self, folder: Path) -> "Workspace":
        """Return one of the same content; the artifacts of the runs stay where they are."""
        shutil.copytree(self.project.root, folder, ignore=shutil.ignore_patterns("mlruns"), dirs_exist_ok=True)
        return Workspace(find_project(folder), self.params)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workspace]:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        project = make_project(tmp_path_factory.mktemp("trained"))
        content: Any = YAML().load(project.params)
        mlp = content["models"]["mlp"]
        content["train"] = ["strong", "weak"]
        content["models"] = {"strong": variant(mlp, epochs=8), "weak": variant(mlp, epochs=1)}
        content["tune"]["space"] = {}
        YAML().dump(content, project.params)
        workspace = Workspace(project, load_params(project.params))
        train_all(workspace, "strong", "weak")
        yield workspace


def variant(mlp: dict[str, Any], epochs: int) -> dict[str, Any]:
    """Return a perceptron that is trained for so long."""
    return mlp | {
        "architecture": mlp["architecture"] | {"hidden_units": [64]},
        "training": mlp["training"] | {"epochs": epochs, "batch_size": 25},
    }


def train_all(workspace: Workspace, *names: str) -> None:
    for name in names:
        train.run(workspace.project, workspace.params, ModelId(name))
        evaluate.run(workspace.project, workspace.params, ModelId(name))


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    return trained.copy(tmp_path)


def test_the_first_one_becomes_champion_and_has_a_card(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.register("weak")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("champion: weak (version 1 of models:/mnist), validation accuracy ")
    assert line.endswith("there was no champion before it")
    champion = workspace.bearer("champion")
    assert champion is not None
    assert champion.tags["rule"] == RULE
    assert champion.tags["train_md5"] == file_digest(workspace.project.split / "train.npz")
    decision = read_json(workspace.artifact("weak", "decisions/without_champion.json"), dict[str, Any], "")
    assert decision["outcome"] == "champion"
    assert decision["champion"] is decision["comparison"] is None
    card = workspace.artifact("weak", "model_card.md").read_text(encoding="utf-8")
    report = read_json(workspace.project.test_report("weak"), dict[str, Any], "")
    assert f"| test (only reported) | 300 | {report['accuracy']:.2%} |" in card
    assert workspace.artifact("weak", "report/figures/confidently_wrong.png").is_file()
    description = open_store(workspace.project).get_model_version("mnist", "1").description
    assert str(description).startswith("# weak")
    assert "artifacts/model_card.md" in str(description)
    run = find_run_by_digest(
        open_store(workspace.project), workspace.project, file_digest(workspace.project.model_file("weak"))
    )
    assert run is not None
    assert run.data.tags["champion"] == "version 1"


def test_a_better_one_takes_over_with_evidence_and_a_worse_one_challenges(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.register("weak")
    # The test images take no part, not even by being there.
    (workspace.project.split / "test.npz").unlink()
    for path in workspace.project.raw.glob("t10k*"):
        path.unlink()
    workspace.register("weak", "strong")
    assert workspace.titles() == {"champion": "strong", "previous": "weak"}
    right = {name: workspace.reads_rightly(name) for name in ("strong", "weak")}
    only_strong = int((right["strong"] & ~right["weak"]).sum())
    only_weak = int((right["weak"] & ~right["strong"]).sum())
    assert only_strong > only_weak
    record = workspace.artifact("strong", "decisions/against_version_1.json")
    comparison = read_json(record, dict[str, Any], "")["comparison"]
    assert comparison["images"] == 200
    assert comparison["only_candidate_right"] == only_strong
    assert comparison["only_champion_right"] == only_weak
    assert comparison["mcnemar_p"] == mcnemar(only_strong, only_weak)
    assert comparison["champion"]["accuracy"] == right["weak"].mean()
    champion = workspace.bearer("champion")
    assert champion is not None
    assert champion.tags["compared_with"] == "1"
    assert "better than version 1 (weak) on 200 validation images" in capsys.readouterr().out

    workspace.register("weak")
    assert workspace.titles() == {"champion": "strong", "previous": "weak", "challenger": "weak"}
    assert "challenger: weak (version 1" in (said := capsys.readouterr().out)
    assert f"not better than version 2 (strong) on 200 validation images: accuracy {right['weak'].mean():.2%}" in said
    assert read_json(workspace.project.best, Best, "").model == "weak"  # of this workspace, as DVC needs it

    (workspace.project.split / "validation.npz").unlink()  # which a comparison would need: it is not done twice
    workspace.register("weak")
    assert capsys.readouterr().out == said


def test_what_is_loaded_as_the_champion_follows_a_rollback(workspace: Workspace) -> None:
    with pytest.raises(UserError, match="no models:/mnist@champion yet"):
        load_champion(workspace.project)
    workspace.register("weak")
    workspace.register("strong")
    images = draw_digits(50, 9).images
    answers = {
        name: predict_probabilities(load_model(workspace.project.model_file(name)), images)
        for name in ("strong", "weak")
    }
    np.testing.assert_array_equal(predict_probabilities(load_champion(workspace.project), images), answers["strong"])
    rollback(workspace.project)
    np.testing.assert_array_equal(predict_probabilities(load_champion(workspace.project), images), answers["weak"])


def test_ties_go_to_the_lower_validation_loss() -> None:
    report = Evaluation(0, 0, 0, 0, 0, 0, 0, 0, 0, {}, "")
    tied = [
        Candidate(ModelId(name), "", TrainingSummary(0.9, loss, 1, 1, 1), report)
        for name, loss in (("a", 0.2), ("b", 0.1))
    ]
    assert max(tied, key=Candidate.rank).model == ModelId("b")


def test_a_report_on_an_earlier_model_is_refused(workspace: Workspace) -> None:
    shutil.copy(workspace.project.model_file("strong"), workspace.project.model_file("weak"))
    with pytest.raises(UserError, match=r"test\.json is about an earlier weak: run `mnist evaluate weak`"):
        workspace.register("weak")


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start with MLflow loaded."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mlflow", "mlflow.tracking.client", "versions", "mnist_pipeline.stages.register"])
    return context


def in_process(processes: Any, workspace: Workspace, *deaths: int) -> list[int]:
    """Register in as many processes at once; return their exit codes."""
    started = [processes.Process(target=register_in_process, args=(str(workspace.project.root), die)) for die in deaths]
    for process in started:
        process.start()
    for process in started:
        process.join(timeout=120)
    return [process.exitcode for process in started]


def test_two_at_once_make_one_version(workspace: Workspace, processes: Any) -> None:
    assert in_process(processes, workspace, 0, 0) == [0, 0]
    assert workspace.titles() == {"champion": "strong"}
    assert len(Registry.open(workspace.project).versions()) == 1


def test_after_a_kill_the_next_one_ends_what_was_begun_without_tensorflow(
    workspace: Workspace, processes: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    before_deciding, before_the_title = 2, 4
    for death in (before_deciding, before_the_title):
        assert in_process(processes, workspace, death) == [-signal.SIGKILL]
        assert workspace.titles() == {}
        assert len(Registry.open(workspace.project).versions()) == 1
    assert in_process(processes, workspace, 0) == [0]
    assert workspace.titles() == {"champion": "strong"}
    assert len(Registry.open(workspace.project).versions()) == 1
    before = workspace.project.best.read_bytes()
    workspace.register("strong", "weak")
    assert "nothing has changed" in capsys.readouterr().out
    assert workspace.project.best.read_bytes() == before


def test_what_was_rolled_back_does_not_come_back_by_itself(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.register("weak")
    workspace.register("strong")
    rollback(workspace.project)
    capsys.readouterr()
    for names in (["strong"], ["strong", "weak"]):
        workspace.register(*names)
        assert workspace.titles() == {"champion": "weak", "previous": "strong"}
        assert "strong stays out: it is version 2, which was rolled back to version 1" in capsys.readouterr().out
    rollback(workspace.project)
    workspace.register("strong", "weak")
    assert workspace.titles() == {"champion": "strong", "previous": "weak"}
    assert "stays out" not in capsys.readouterr().out


@pytest.fixture(scope="module")
def resplit(trained: Workspace, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A champion of one split and a model of another, of whose 200 validation images the champion has seen 80."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        workspace = trained.copy(tmp_path_factory.mktemp("resplit"))
        workspace.register("weak")
        old = [load_train(workspace.project.split), load_validation(workspace.project.split)]
        images = np.concatenate([subset.images for subset in old])
        labels = np.concatenate([subset.labels for subset in old])
        order = np.r_[80:500, 620:700, 0:80, 500:620]  # 500 to train on, then 200 to validate
        subsets = {
            "train": Subset(images[order[:500]], labels[order[:500]]),
            "validation": Subset(images[order[500:]], labels[order[500:]]),
            "test": draw_digits(300, 2),
        }
        save_subset(workspace.project.split / "train.npz", subsets["train"])
        with pytest.raises(UserError, match="strong was trained on another split than data/split holds now"):
            workspace.register("strong")
        write_data(workspace.project, subsets)
        train_all(workspace, "strong")
        return workspace


def test_after_another_split_the_champion_is_judged_on_what_it_never_saw(resplit: Workspace, tmp_path: Path) -> None:
    workspace = resplit.copy(tmp_path)
    workspace.register("strong")
    decision = read_json(workspace.artifact("strong", "decisions/against_version_1.json"), dict[str, Any], "")
    assert "on the 120 of 200 validation images that are new to it" in decision["reason"]
    assert decision["comparison"]["images"] == 120
    assert decision["comparison"]["champion"]["accuracy"] == workspace.reads_rightly("weak")[80:].mean()


def test_without_enough_images_that_are_new_to_it_the_champion_is_replaced(
    resplit: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = resplit.copy(tmp_path)
    monkeypatch.setattr(contest, "MINIMUM_IMAGES", 121)
    workspace.register("strong")
    champion = workspace.bearer("champion")
    assert champion is not None
    assert champion.model == "strong"
    assert "replaces version 1 (weak) without a comparison" in champion.tags["reason"]
    assert "only 120 of 200 validation images are new" in champion.tags["reason"]


def test_without_a_record_of_what_it_saw_the_champion_is_replaced(resplit: Workspace, tmp_path: Path) -> None:
    workspace = resplit.copy(tmp_path)
    workspace.artifact("weak", "trained_on.npy").unlink()
    workspace.register("strong")
    champion = workspace.bearer("champion")
    assert champion is not None
    assert champion.model == "strong"
    assert "which images that one was trained on is not recorded" in champion.tags["reason"]


def test_a_champion_whose_file_is_lost_is_not_replaced_silently(workspace: Workspace) -> None:
    workspace.register("weak")
    version = open_store(workspace.project).get_model_version_by_alias("mnist", "champion")
    model = open_store(workspace.project).get_logged_model(version.source.removeprefix("models:/"))
    folder = Path(model.artifact_location.removeprefix("file://"))
    shutil.copytree(folder, folder.with_name("lost"))
    (folder / "MLmodel").write_text("damaged: [")
    try:
        with pytest.raises(
            UserError, match=r"The files of models:/mnist/1 are lost or damaged .* `mnist sync --all` restores"
        ):
            workspace.register("strong")
    finally:
        shutil.rmtree(folder)
        folder.with_name("lost").rename(folder)
    assert workspace.titles() == {"champion": "weak"}


def test_a_champion_for_other_classes_is_replaced_without_a_comparison(
    workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    workspace.register("strong")
    content: Any = YAML().load(workspace.project.params)
    content["data"]["classes"].append("ten")
    YAML().dump(content, workspace.project.params)
    for name in ("train", "validation", "test"):
        subset = load_subset(file := workspace.project.split / f"{name}.npz")
        subset.labels[::20] = 10
        save_subset(file, subset)
    other = Workspace(workspace.project, load_params(workspace.project.params))
    train_all(other, "weak")
    capsys.readouterr()
    other.register("weak")
    line = capsys.readouterr().out.splitlines()[-1]
    assert line.startswith("champion: weak (version 2 of models:/mnist)")
    assert "without a comparison: the split or the data changed, and that one is for another size of images" in line
    previous = other.bearer("previous")
    assert previous is not None
    with pytest.raises(UserError, match=r"models:/mnist/1 tells 0, 1, .* apart, in this order, but data\.classes"):
        Registry.open(other.project).load(previous)


def test_a_version_whose_classes_have_another_order_is_refused_until_it_is_registered_anew(
    workspace: Workspace,
) -> None:
    workspace.register("strong")
    content: Any = YAML().load(workspace.project.params)
    content["data"]["classes"].reverse()
    YAML().dump(content, workspace.project.params)
    with pytest.raises(UserError, match=r"models:/mnist/1 tells 0, 1, .*, 9 apart, in this order, but data\.classes"):
        load_champion(workspace.project)
    workspace.register("strong")
    assert (champion := workspace.bearer("champion"))
    assert champion.number == "2"
    load_champion(workspace.project)
