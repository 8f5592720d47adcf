"""Studies in a real PostgreSQL: they resume, have one session at a time, and every trouble with it is a sentence."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace

import optuna
import pytest
from optuna.storages import RDBStorage
from sqlalchemy import event
from studies import scripted

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params, load_params
from mnist_pipeline.tuning import storage
from mnist_pipeline.tuning.adopt import adopt
from mnist_pipeline.tuning.cluster import Resources
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import show_studies, show_study
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import ask, count_done, create_or_resume, load_study
from mnist_pipeline.tuning.tune import tune
from servers import REASON, Postgres, running_postgres

pytest.importorskip("psycopg", reason=REASON)
SCIENTIST = "scientist:right"
"""A user and the password."""
HOLD = """
import sys, time
from pathlib import Path
from mnist_pipeline.tuning.storage import Database
with Database(sys.argv[1]).session("held"):
    print("held", flush=True)
    time.sleep(600)
"""
"""A program that holds a session until it is killed."""


def disconnect(server: Postgres) -> None:
    """End all connections, as a restart does."""
    server.run("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'scientist'")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A server of this module's own, where one role needs a password."""
    with running_postgres(tmp_path_factory.mktemp("postgres")) as server:
        server.add_user(*SCIENTIST.split(":"))
        yield server


@pytest.fixture
def plan(shared: Project, server: Postgres, request: pytest.FixtureRequest) -> Plan:
    """A study of 2 trials in the database, named after the test."""
    name = request.node.name.replace("_", "-")[:60]
    return Plan(shared, load_params(shared.params), "tiny", name, 2, storage=server.url(SCIENTIST))


def tell_one(study: optuna.Study, plan: Plan) -> None:
    study.tell(ask(study, plan), 0.5)


def test_a_study_in_a_database_is_resumed_listed_shown_and_adopted(
    project: Project, params: Params, server: Postgres, ray: Resources, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = Plan(project, params, "tiny", "team", 5, storage=server.url(SCIENTIST))
    studies = find_studies(project, server.url(SCIENTIST))
    with studies.session("team") as kept:
        study = create_or_resume(plan, kept)
        for _ in range(2):
            tell_one(study, plan)
    tune(plan, ray, scripted())
    assert [trial.state.name for trial in load_study(studies, "team").get_trials()] == ["COMPLETE"] * 5
    assert not project.studies.exists()
    capsys.readouterr()
    show_studies(studies)
    assert any(line.split()[:4] == ["team", "tiny", "accuracy", "5"] for line in capsys.readouterr().out.splitlines())
    show_study(load_study(studies, "team"))
    assert len(capsys.readouterr().out.splitlines()) == 6
    before = project.params.read_text()
    adopt(project, params, load_study(studies, "team"), confirm=0)
    assert project.params.read_text() != before


def test_what_the_session_wrote_itself_is_not_asked_of_the_database(plan: Plan, server: Postgres) -> None:
    requests = list[object]()
    with find_studies(plan.project, plan.storage).session(plan.study) as kept:
        assert isinstance(kept, RDBStorage)
        study = create_or_resume(plan, kept)
        tell_one(study, plan)
        event.listen(kept.engine, "before_cursor_execute", lambda *_: requests.append(_))
        trial = ask(study, plan)
        for epoch in (1, 2, 3):
            trial.report(0.5, epoch)
            assert not trial.should_prune()
        study.tell(trial, 0.5)
    assert len(requests) <= 30
    (_, stored) = load_study(find_studies(plan.project, plan.storage), plan.study).get_trials()
    assert (stored.params, stored.values) == (trial.params, [0.5])
    assert stored.intermediate_values == {1: 0.5, 2: 0.5, 3: 0.5}


def test_two_sessions_of_one_study_exclude_each_other_until_the_first_is_killed(server: Postgres) -> None:
    database = storage.Database(server.url(SCIENTIST))
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, server.url(SCIENTIST)], stdout=subprocess.PIPE, text=True
    ) as first:
        assert first.stdout
        try:
            assert first.stdout.readline() == "held\n"
            holder = f"process {first.pid} on {socket.gethostname()} since "
            with pytest.raises(UserError, match=f"The study held is running in {holder}"), database.session("held"):
                pass
            with database.session("another"):
                pass
        finally:
            os.kill(first.pid, signal.SIGKILL)
    with database.session("held"):
        pass


def test_a_session_goes_on_when_the_server_was_restarted_unless_another_one_was_faster(
    plan: Plan, server: Postgres
) -> None:
    studies = find_studies(plan.project, plan.storage)
    plan = replace(plan, trials=3)
    running = f"The study {plan.study} is running in process {os.getpid()} "
    with pytest.raises(UserError, match=running), studies.session(plan.study) as kept:  # noqa: PT012
        study = create_or_resume(plan, kept)
        tell_one(study, plan)
        disconnect(server)
        tell_one(study, plan)
        with pytest.raises(UserError, match=running), studies.session(plan.study):
            pass
        disconnect(server)
        with studies.session(plan.study) as other:
            assert count_done(create_or_resume(plan, other)) == 2
            tell_one(study, plan)


def test_a_database_that_is_lost_in_mid_study_ends_the_session_and_the_next_one_goes_on(
    plan: Plan, server: Postgres
) -> None:
    studies = find_studies(plan.project, plan.storage)
    lost = r"The database .* was lost \(.*\): the same command goes on from here when it is back."
    with pytest.raises(UserError, match=lost), studies.session(plan.study) as kept:  # noqa: PT012 - all of a session
        study = create_or_resume(plan, kept)
        tell_one(study, plan)
        server.run("alter role scientist nologin")
        disconnect(server)
        ask(study, plan)
    server.run("alter role scientist login")
    with studies.session(plan.study) as kept:
        assert count_done(create_or_resume(plan, kept)) == 1


@pytest.mark.parametrize(
    ("user", "database", "reason"),
    [
        ("scientist:wrong", "postgres", 'password authentication failed for user "scientist"'),
        ("nobody:wrong", "postgres", 'role "nobody" does not exist'),
        ("scientist:right", "nowhere", 'database "nowhere" does not exist'),
    ],
)
def test_a_database_that_lets_nobody_in_is_named_without_its_password(
    project: Project, server: Postgres, user: str, database: str, reason: str
) -> None:
    with pytest.raises(UserError, match=rf"cannot be used \(.*{reason}\): check --storage") as raised:
        find_studies(project, server.url(user, database)).names()
    assert user.partition(":")[2] not in str(raised.value)


def test_a_server_that_is_down_or_silent_is_one_sentence_within_seconds(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(storage.PATIENCE, "connect_timeout", 2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        url = f"postgresql://me:secret@127.0.0.1:{silent.getsockname()[1]}/studies"
        with pytest.raises(UserError, match=r"The database postgresql://127.0.0.1:\d+/studies cannot be used"):
            find_studies(project, url).names()
        silent.listen()
        with pytest.raises(UserError, match="timeout expired"), find_studies(project, url).session("any"):
            pass
