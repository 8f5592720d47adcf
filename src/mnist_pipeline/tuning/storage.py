"""Where studies are kept: in Optuna's journals below `mlruns/optuna`, or in a team's PostgreSQL.

Whoever writes to a study holds its session, and there is one session per study at a time.
"""

import os
import socket
import time
import zlib
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState, create_trial

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.processes import held
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri, redact

LOCK_CLASS = 0x6D6E
"""First half of the number of an advisory lock: it tells ours from those of other programs in the database."""
LOCK = "select pg_try_advisory_lock(%s, %s), set_config('application_name', %s, false)"
"""Takes an advisory lock, unless another connection has it."""
HOLDER = """
    select application_name || ' since ' || backend_start::timestamp(0)
    from pg_locks join pg_stat_activity using (pid)
    where locktype = 'advisory' and classid = %s and objid = %s and granted and datname = current_database()
"""
"""Tells who holds an advisory lock."""
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds to wait for a connection, and milliseconds for a server that has vanished; by default it is minutes."""


def find_studies(project: Project, url: str | None = None) -> "Studies":
    """Return the studies in the database at `url`, or the project's; a UserError says if that is no PostgreSQL."""
    if url is None:
        return Journals(project.studies)
    if not url.startswith(("postgresql://", "postgresql+")):
        raise UserError(
            f"--storage {public_uri(url)!r} is no PostgreSQL database: write postgresql://USER@HOST/DATABASE (with the "
            "password in PGPASSWORD), or leave it out to keep the study in mlruns/optuna."
        )
    return Database(url)


@dataclass(frozen=True)
class Journals:
    """A folder with one journal for each study, which `optuna-dashboard` reads too."""

    folder: Path

    @property
    def place(self) -> str:
        """The folder."""
        return str(self.folder)

    def file(self, name: str) -> Path:
        """Return the journal of a study."""
        return self.folder / f"{name}.log"

    def names(self) -> list[str]:
        """Return the names of all studies, sorted."""
        return sorted(file.stem for file in self.folder.glob("*.log"))

    def open(self, name: str) -> BaseStorage:
        """Open the journal of a study, creating it if it is not there; a UserError says if it is damaged."""
        self.folder.mkdir(parents=True, exist_ok=True)
        # Optuna's own locks stay for 30 seconds when their holder is killed; the operating system releases this one.
        lock: Any = FileLock(self.folder / f".{name}.lock")
        try:
            return JournalStorage(JournalFileBackend(str(self.file(name)), lock_obj=lock))
        except OSError:
            raise
        except Exception as error:  # Optuna raises whatever it stumbles on in a damaged journal
            raise UserError(
                f"{self.file(name)} is damaged ({type(error).__name__}: {error}): `mnist tune` with --study {name} "
                "moves it aside."
            ) from error

    @contextmanager
    def session(self, name: str) -> Generator[BaseStorage]:
        """Hold a study for as long as this process writes to its journal, which is whole from then on.

        Raises:
            UserError: another process holds it, which is named; or the journal was damaged, and is moved aside.
        """
        file = self.file(name)
        with held(self.folder / f".{name}.session", f"The study {name} is running", "start another with --study NAME"):
            try:
                _cut_torn_line(file)
                journal = self.open(name)
            except (UserError, ValueError) as error:
                damaged = (file.with_suffix(f".damaged{number}") for number in count(1))
                aside = file.replace(next(path for path in damaged if not path.exists()))
                raise UserError(
                    f"{file} is damaged, and is {aside} now: the same command starts the study anew; or repair that "
                    "file, and move it back."
                ) from error
            yield journal


def _cut_torn_line(file: Path) -> None:
    """Cut what a killed writer or a power loss left of a journal's last line: the beginning of a record, or zeros.

    Optuna reads on without it, but would append to it.

    Raises:
        ValueError: the last line is nothing that Optuna could have begun.
    """
    content = file.read_bytes() if file.exists() else b""
    last = b"".join(content.splitlines(keepends=True)[-1:])
    if not last or (last.startswith(b"{") and last.endswith(b"}\n")):
        return
    if not last.startswith((b"{", b"\0")):
        raise ValueError(last)
    os.truncate(file, len(content) - len(last))


@dataclass(frozen=True)
class Database:
    """A PostgreSQL database of a team, which `optuna-dashboard` reads too."""

    url: str

    @property
    def place(self) -> str:
        """The address, without a password."""
        return public_uri(self.url)

    def names(self) -> list[str]:
        """Return the names of all studies, sorted."""
        return sorted(optuna.get_all_study_names(self.open("")))

    def open(self, name: str) -> RDBStorage:
        """Open the database, creating Optuna's tables if they are not there; a UserError says if it cannot be used."""
        # The ping replaces a connection that a restarted server has closed. Optuna needs two at the start.
        pool = {"pool_size": 2, "max_overflow": 0, "pool_pre_ping": True, "connect_args": PATIENCE}
        try:
            return RDBStorage(self.url, engine_kwargs=pool)
        except ImportError as error:
            raise UserError(
                "--storage needs the driver of PostgreSQL: install it with `pip install '.[postgres]'`."
            ) from error
        except Exception as error:  # SQLAlchemy and the driver each have their own
            raise UserError(f"The database {self.place} cannot be used ({_reason(error)}): check --storage.") from error

    @contextmanager
    def session(self, name: str) -> Generator[BaseStorage]:
        """Hold a study by an advisory lock of the connection that writes, so that whoever writes has it.

        The server releases it when this process or the connection is gone; a connection that takes its place takes it.

        Raises:
            UserError: another process holds it, which is named.
        """
        from sqlalchemy import event

        storage = self.open(name)
        event.listen(storage.engine, "connect", partial(_lock, name))
        storage.engine.dispose()
        try:
            storage.get_all_studies()  # which connects
            yield storage
        except StorageInternalError as error:
            raise UserError(
                f"The database {self.place} was lost ({_reason(error.__cause__ or error)}): the same command goes on "
                "from here when it is back."
            ) from error
        finally:
            storage.engine.dispose()


def _lock(study: str, connection: Any, _: object) -> None:
    """Take the lock of a study with a new connection of whatever driver."""
    key = LOCK_CLASS, zlib.crc32(study.encode()) & 0x7FFFFFFF
    holder = f"process {os.getpid()} on {socket.gethostname()}"[:63]
    with connection.cursor() as cursor:
        for _ in range(30):  # a server needs a moment to notice that a process was killed
            cursor.execute(LOCK, (*key, holder))
            if cursor.fetchone()[0]:
                connection.commit()
                return
            time.sleep(0.1)
        cursor.execute(HOLDER, key)
        running = (cursor.fetchone() or ["another process"])[0]
    raise UserError(f"The study {study} is running in {running}: wait for it, or start another with --study NAME.")


def _reason(error: BaseException) -> str:
    """Return the first line of what the driver says, without a password."""
    return redact(str(getattr(error, "orig", error)).partition("\n")[0])


Studies = Journals | Database
"""Some studies in one place."""


class OneWriter(InMemoryStorage):
    """A study in memory and in the storage that keeps it, for the one process that writes to it.

    What it wrote itself it reads from memory; a new trial is kept once it has all its parameters, in one transaction:
    a trial takes a quarter of the requests to a database.
    """

    def __init__(self, kept: BaseStorage, study: str, parameters: int) -> None:
        """Read a study whose trials have so many parameters."""
        super().__init__()
        self._kept, self._kept_study, self._parameters = kept, kept.get_study_id_from_name(study), parameters
        self._kept_ids: dict[int, int] = {}  # of the trials that have not ended, by those in memory, which are numbers
        self.create_new_study(kept.get_study_directions(self._kept_study), study)
        for key, value in kept.get_study_user_attrs(self._kept_study).items():
            self.set_study_user_attr(0, key, value)
        trials = kept.get_all_trials(self._kept_study, deepcopy=False)
        for trial in sorted(trials, key=lambda trial: trial.number):
            number = self.create_new_trial(0, trial)
            if not trial.state.is_finished():
                self._kept_ids[number] = kept.get_trial_id_from_study_id_trial_number(self._kept_study, number)

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        """Set a parameter; the last one makes a trial worth keeping."""
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        trial = self.get_trial(trial_id)
        if trial_id in self._kept_ids:
            self._kept.set_trial_param(self._kept_ids[trial_id], param_name, param_value_internal, distribution)
        elif len(trial.params) == self._parameters:
            # Without what Optuna notes for itself while it samples.
            new = create_trial(
                state=trial.state, params=trial.params, distributions=trial.distributions, user_attrs=trial.user_attrs
            )
            self._kept_ids[trial_id] = self._kept.create_new_trial(self._kept_study, new)

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        """Set the number that decides in an epoch."""
        self._kept.set_trial_intermediate_value(self._kept_ids[trial_id], step, intermediate_value)
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of ours."""
        self._kept.set_trial_user_attr(self._kept_ids[trial_id], key, value)
        super().set_trial_user_attr(trial_id, key, value)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Set an attribute of Optuna's, before or after the trial is kept."""
        if trial_id in self._kept_ids:
            self._kept.set_trial_system_attr(self._kept_ids[trial_id], key, value)
        super().set_trial_system_attr(trial_id, key, value)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        """Start or end a trial."""
        if trial_id in self._kept_ids:
            self._kept.set_trial_state_values(self._kept_ids[trial_id], state, values)
        return super().set_trial_state_values(trial_id, state, values)
