"""A team at one MLflow server with users, on PostgreSQL: all that one person has, and two machines at once."""

import multiprocessing
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import reduce
from operator import getitem
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from ruamel.yaml import YAML

from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.registry.catalogue import rollback
from mnist_pipeline.registry.contest import COMPARED_WITH
from mnist_pipeline.registry.registry import CHAMPION, PREVIOUS, REPLACED, Registry, Version
from mnist_pipeline.registry.sync import sync_versions
from mnist_pipeline.reproduction.lineage import walk
from mnist_pipeline.reproduction.reproduce import SAME, check, compare
from mnist_pipeline.stages import evaluate, register, train
from mnist_pipeline.tracking.store import tuning_experiment_name
from mnist_pipeline.tracking.sync import sync
from mnist_pipeline.training.params import load_params
from mnist_pipeline.tuning.cluster import Resources
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.tune import tune
from repository import commit, dvc
from servers import ADMIN, running_mlflow, running_postgres
from small_project import MNIST, ROOT, make_project
from tuning.studies import scripted
from versions import contend, register_at

SPACE = {
    "architecture.hidden_units": {"type": "choice", "values": [[16, 16], [8]]},
    "architecture.dropout": {"type": "float", "low": 0.0, "high": 0.4, "step": 0.1},
}
yaml = YAML()


@dataclass(frozen=True)
class Team:
    """Two people with a machine and a project each."""

    address: str
    anna: Project
    ben: Project

    def environment(self, user: str) -> dict[str, str]:
        """What somebody sets to work with the server."""
        secret = f"the password of {user}"
        return {
            "MLFLOW_TRACKING_URI": self.address,
            "MLFLOW_TRACKING_USERNAME": user,
            "MLFLOW_TRACKING_PASSWORD": secret,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",  # seconds, for a machine that has other things to do
        }

    def versions(self) -> list[Version]:
        return self.registry().versions()

    def registry(self) -> Registry:
        return Registry(MlflowClient(self.address), MNIST)

    def at_once(self, work: Callable[..., None], *arguments: int) -> None:
        """Let both do something, in a process each."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["mlflow", "mlflow.tracking.client", "mnist_pipeline.stages.register"])
        people = {"anna": self.anna, "ben": self.ben}
        started = [
            context.Process(target=work, args=(str(project.root), self.environment(user), *arguments))
            for user, project in people.items()
        ]
        for process in started:
            process.start()
        for process in started:
            process.join(300)
            process.kill()
        assert [process.exitcode for process in started] == [0, 0]


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Team]:
    folder = tmp_path_factory.mktemp("team")
    with (
        running_postgres(folder) as postgres,
        running_mlflow(folder, postgres) as address,
        pytest.MonkeyPatch.context() as patch,
    ):
        team = Team(address, *(make_repository(folder / name) for name in ("anna", "ben")))
        add_users(team)
        for name, value in team.environment("anna").items():
            patch.setenv(name, value)
        yield team


def make_repository(folder: Path) -> Project:
    """Make a small project with all its code in git, which `mnist reproduce` starts from."""
    folder.mkdir()
    project = make_project(folder)
    dvc(folder, "init --no-scm --quiet")
    shutil.copytree(ROOT / "src", folder / "src", ignore=shutil.ignore_patterns("__pycache__"))
    edit(project, ("tune", "space", "mlp"), SPACE)
    commit(folder)
    return project


def edit(project: Project, key: tuple[str, ...], value: object) -> None:
    """Change a value in params.yaml."""
    content = yaml.load(project.params)
    reduce(getitem, key[:-1], content)[key[-1]] = value
    yaml.dump(content, project.params)


def add_users(team: Team) -> None:
    """Do what docs/team.md says that whoever runs the server does."""
    for user in ("anna", "ben"):
        password = team.environment(user)["MLFLOW_TRACKING_PASSWORD"]
        grant = {"resource_type": "registered_model", "resource_id": "mnist", "permission": "MANAGE"}
        for request, content in {
            "2.0/mlflow/users/create": {"username": user, "password": password},
            "3.0/mlflow/users/permissions/grant": {"username": user, **grant},
        }.items():
            answer = requests.post(f"{team.address}/api/{request}", json=content, auth=ADMIN, timeout=60)
            assert answer.ok, answer.text


@pytest.fixture(autouse=True)
def as_anna(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in team.environment("anna").items():
        monkeypatch.setenv(name, value)


def test_what_one_person_does_works_with_users_on_a_server(team: Team, capsys: pytest.CaptureFixture[str]) -> None:
    project, params = team.anna, load_params(team.anna.params)
    for name in ("cnn", "mlp"):  # the better one last
        train.run(project, params, ModelId(name))
        evaluate.run(project, params, ModelId(name))
        register.run(project, params.model_copy(update={"train": (name,)}))
    versions = team.versions()
    champion = team.registry().find(CHAMPION)
    assert champion
    assert len(versions) == 2
    sync_versions(project, params, found := sync(project, params))
    assert (found.restored, found.lost, found.refused) == ([], [], [])

    with walk(project, f"models:/mnist/{champion.number}", everywhere=True) as found:
        assert {step.state for step in found.findings[0].all()} == {"verified"}
        check(found)
        assert compare(found, project, "") == SAME

    tune(Plan(project, params, "mlp", "mlp", 2), Resources(), scripted())
    client = MlflowClient(team.address)
    studies = client.get_experiment_by_name(tuning_experiment_name(project))
    assert studies
    assert {run.info.status for run in client.search_runs([studies.experiment_id])} == {"FINISHED"}
    assert len(client.search_runs([studies.experiment_id])) == 3  # the study and its two trials

    rollback(project)
    assert [version.aliases for version in team.versions()] == [[PREVIOUS], [CHAMPION]]


def test_of_two_machines_that_register_at_once_one_goes_first_and_the_other_competes_with_it(team: Team) -> None:
    MlflowClient(team.address).delete_registered_model("mnist")
    for folder in ("models", "reports"):
        shutil.copytree(team.anna.root / folder, team.ben.root / folder)
    for project, name in ((team.anna, "cnn"), (team.ben, "mlp")):
        edit(project, ("train",), [name])
    team.at_once(register_at)
    second, first = team.versions()
    assert {first.model, second.model} == {"cnn", "mlp"}
    assert (first.tags[COMPARED_WITH], second.tags[COMPARED_WITH]) == ("none", "1")
    champion = team.registry().find(CHAMPION)
    assert champion
    assert champion.model == "mlp"


def test_of_two_machines_that_promote_at_once_each_takes_the_place_of_the_one_it_was_compared_with(team: Team) -> None:
    MlflowClient(team.address).delete_registered_model("mnist")
    team.at_once(contend, 3)
    versions = {version.number: version for version in team.versions()}
    assert len(versions) == 6
    champion = team.registry().find(CHAMPION)
    assert champion
    client = MlflowClient(team.address)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    (labelled,) = client.search_runs(experiments, f"tags.{CHAMPION} LIKE '%'")
    assert labelled.info.run_id == champion.run_id
    before = team.registry().find(PREVIOUS)
    assert before
    assert before.number == champion.tags[REPLACED]
    line = [champion]
    while (number := line[-1].tags[COMPARED_WITH]) != "none":
        assert line[-1].tags[REPLACED] == number
        line.append(versions[number])
    assert len(line) == 6
    assert not [tag for tag in client.get_registered_model("mnist").tags if tag.startswith("turn")]
