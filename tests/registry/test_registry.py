"""Who is champion, who was, and that a kill at any moment leaves a registry that the next process puts right."""

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Never

import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.registry import catalogue, turns
from mnist_pipeline.registry.catalogue import rollback, show_models
from mnist_pipeline.registry.registry import CHALLENGER, CHAMPION, PREVIOUS, Registry, open_registry
from mnist_pipeline.registry.sync import sync_versions
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.sync import Agreement
from mnist_pipeline.training.params import load_params
from small_project import ROOT
from versions import add_version, die_at


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """An empty store, because making one takes seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def project(tmp_path: Path, store: bytes) -> Project:
    """A project with three versions and nobody's title."""
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    project = find_project(tmp_path)
    project.tracking_database.write_bytes(store)
    for name in ("one", "two", "three"):
        add_version(project, name)
    return project


def titles(project: Project) -> dict[str, str]:
    """Return which model bears which alias."""
    versions = Registry.open(project).versions()
    return {alias: version.model for version in versions for alias in version.aliases}


def labelled(project: Project) -> dict[str, str]:
    """Return the runs that call themselves champion, and as what."""
    client = open_store(project)
    runs = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
    return {str(run.info.run_name): run.data.tags[CHAMPION] for run in runs if CHAMPION in run.data.tags}


def crown(project: Project, *numbers: str) -> None:
    with open_registry(project) as registry:
        for number in numbers:
            registry.promote(next(version for version in registry.versions() if version.number == number))


def test_the_title_moves_and_the_aliases_and_runs_follow(project: Project) -> None:
    with open_registry(project) as registry:
        one, two, three = reversed(registry.versions())
        registry.promote(one)
        assert titles(project) == {CHAMPION: "one"}
        registry.challenge(two)
        assert titles(project) == {CHAMPION: "one", CHALLENGER: "two"}
        registry.promote(two)
        assert titles(project) == {CHAMPION: "two", PREVIOUS: "one"}
        registry.promote(three)
    assert titles(project) == {CHAMPION: "three", PREVIOUS: "two"}
    assert labelled(project) == {"three": "version 3"}


def test_a_rollback_goes_back_and_another_one_forth(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="no models:/mnist@champion to roll back"):
        rollback(project)
    crown(project, "1")
    with pytest.raises(UserError, match="no previous champion"):
        rollback(project)
    crown(project, "2", "3")

    rollback(project)
    assert "champion is version 2 (two) again, instead of version 3 (three)" in capsys.readouterr().out
    assert titles(project) == {CHAMPION: "two", PREVIOUS: "three"}
    assert labelled(project) == {"two": "version 2"}
    left = Registry.open(project).find(PREVIOUS)
    assert left is not None
    assert left.rolled_back
    assert left.tags["rolled_back_to"] == "2"
    assert left.tags["rolled_back_at"].endswith("UTC")

    rollback(project)
    assert "the earlier rollback is taken back" in capsys.readouterr().out
    assert titles(project) == {CHAMPION: "three", PREVIOUS: "two"}
    assert not any(version.rolled_back for version in Registry.open(project).versions())


def test_the_versions_are_listed_newest_first(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    crown(project, "1", "2")
    rollback(project)
    capsys.readouterr()
    show_models(project)
    title, _, _, _, *rows = capsys.readouterr().out.splitlines()
    assert title == "Versions of models:/mnist"
    cells = [[cell.strip() for cell in row.split("│")[1:-1]] for row in rows[:4]]
    assert cells[0] == ["3", "", "three", "98.00%", "-", "feedbee", "c0ffee1"]
    assert [row[:3] for row in cells[1:]] == [
        ["2", "previous", "two"],
        ["", "rolled back", ""],
        ["1", "champion", "one"],
    ]


def test_of_many_versions_the_newest_and_those_with_an_alias_are_listed(
    project: Project, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(catalogue, "NEWEST", 1)
    crown(project, "1")
    for everything, names in ((False, ["three", "one"]), (True, ["three", "two", "one"])):
        show_models(project, everything=everything)
        said = capsys.readouterr().out
        rows = [line.split("│") for line in said.splitlines() if line.startswith("│")]
        assert [row[3].strip() for row in rows] == names
        assert ("`mnist models --all`" in said) is not everything


def test_sync_checks_the_versions_with_an_alias_or_if_asked_all(project: Project) -> None:
    crown(project, "2")
    for everything, numbers in ((False, "2"), (True, "321")):
        sync_versions(project, load_params(project.params), found := Agreement(), everything=everything)
        assert [line.partition(" (")[0] for line in found.lost] == [f"version {number}" for number in numbers]


def test_a_registry_without_versions_says_what_to_run(tmp_path: Path, store: bytes) -> None:
    for file in ("dvc.yaml", "params.yaml"):
        shutil.copy(ROOT / file, tmp_path)
    (tmp_path / "mlflow.db").write_bytes(store)
    with pytest.raises(UserError, match="mnist register"):
        show_models(find_project(tmp_path))


def test_what_was_deleted_in_mlflow_stands_in_nobodys_way(project: Project) -> None:
    crown(project, "1", "2", "3")
    client = open_store(project)
    champion = Registry.open(project).find(CHAMPION)
    assert champion is not None
    client.delete_run(champion.run_id)
    client.delete_model_version("mnist", "2")
    with open_registry(project) as registry:
        registry.repair()
    assert titles(project) == {CHAMPION: "three"}
    client.delete_model_version("mnist", "3")
    crown(project, "1")
    assert titles(project) == {CHAMPION: "one"}
    assert labelled(project) == {"one": "version 1"}


@pytest.mark.parametrize("number", [0, 1])
def test_a_process_of_another_machine_is_waited_for_and_in_the_end_taken_for_dead(
    project: Project, number: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(turns, "PATIENCE", 1)
    client = open_store(project)
    client.set_registered_model_tag("mnist", "turn.other", f"{number}|elsewhere|7 1")
    begin = time.monotonic()
    crown(project, "1")
    assert time.monotonic() - begin > 1
    assert capsys.readouterr().err == "Process 7 on elsewhere is changing the registry: waiting.\n"
    assert client.get_registered_model("mnist").tags == {}


def test_who_was_taken_for_dead_while_waiting_does_not_go_on(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    client = open_store(project)
    client.set_registered_model_tag("mnist", "turn.other", "1|elsewhere|7 1")

    def remove_all(_: float) -> None:
        for tag in client.get_registered_model("mnist").tags:
            client.delete_registered_model_tag("mnist", tag)

    monkeypatch.setattr(time, "sleep", remove_all)
    with pytest.raises(UserError, match="took this process for dead"):
        crown(project, "1")
    assert titles(project) == {}


class Death(BaseException):
    """What a kill is to a process: no handler of ours catches it."""


def die_everywhere(project: Project, monkeypatch: pytest.MonkeyPatch, act: Callable[[Registry], object]) -> list[str]:
    """Cut `act` off before each of its writes in turn; return what the next command finds each time.

    The champion is version 2 and the previous one version 1, whenever it starts.
    """
    found: list[str] = []
    for call in range(1, 20):
        crown(project, "2", "1", "2")
        with monkeypatch.context() as patch:
            die_at(call, patch.setattr, fail)
            try:
                with open_registry(project) as registry:
                    act(registry)
            except Death:
                pass
            else:
                return found
        with open_registry(project) as registry:
            rolled_back = [version.model for version in registry.versions() if version.rolled_back]
        (champion,) = labelled(project)
        assert champion == titles(project)[CHAMPION]
        found.append(" ".join([champion, titles(project)[PREVIOUS], *rolled_back]))
        if rolled_back:
            rollback(project)  # so that the next one starts from the same
    raise AssertionError("it never came to an end")


def fail() -> Never:
    raise Death


def test_a_promotion_cut_off_anywhere_has_happened_or_has_not(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    def promote(registry: Registry) -> None:
        registry.promote(next(version for version in registry.versions() if version.number == "3"))

    found = die_everywhere(project, monkeypatch, promote)
    assert found == ["two one"] * 2 + ["three two"] * (len(found) - 2)
    assert titles(project) == {CHAMPION: "three", PREVIOUS: "two"}


def test_a_rollback_cut_off_anywhere_has_happened_or_has_not(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    found = die_everywhere(project, monkeypatch, Registry.rollback)
    assert found == ["two one"] * 2 + ["one two two"] * (len(found) - 2)
    assert titles(project) == {CHAMPION: "one", PREVIOUS: "two"}
