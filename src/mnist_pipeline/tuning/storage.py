"""Where studies are kept: in Optuna's journals below `mlruns/optuna`, or in a team's PostgreSQL.

Whoever writes to a study holds its session, and there is one session per study at a time.
"""

import os
import socket
import zlib
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock
from optuna.exceptions import StorageInternalError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.processes import held
from mnist_pipeline.core.project import Project
from mnist_pipeline.provenance.redaction import public_uri, redact

LOCK_CLASS = 0x6D6E
"""First half of the number of an advisory lock: it tells ours from those of other programs in the database."""
PATIENCE = {"connect_timeout": 10, "tcp_user_timeout": 30_000}
"""Seconds to wait for a connection, and milliseconds for a server that has vanished; by default it is minutes."""


def find_studies(project: Project, url: str | None = None) -> "Studies":
    """Return the studies in the database at `url`, or those of the project.

    Raises:
        UserError: the address is not one of PostgreSQL.
    """
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
        """Open the journal of a study, creating it if it is not there.

        Raises:
            UserError: it is damaged.
        """
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
    def session(self, name: str) -> Generator[None]:
        """Hold a study for as long as this process writes to it; its journal is whole from then on.

        Raises:
            UserError: another process holds it, which is named; or the journal was damaged, and is moved aside.
        """
        file = self.file(name)
        with held(self.folder / f".{name}.session", f"The study {name} is running", "start another with --study NAME"):
            try:
                _cut_torn_line(file)
                self.open(name)
            except (UserError, ValueError) as error:
                damaged = (file.with_suffix(f".damaged{number}") for number in count(1))
                aside = file.replace(next(path for path in damaged if not path.exists()))
                raise UserError(
                    f"{file} is damaged, and is {aside} now: the same command starts the study anew; or repair that "
                    "file, and move it back."
                ) from error
            yield


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

    def open(self, name: str) -> BaseStorage:
        """Open the database, creating Optuna's tables if they are not there.

        Raises:
            UserError: it cannot be used.
        """
        # One process writes, so a small pool will do; the ping replaces connections that a restarted server has closed.
        pool = {"pool_size": 2, "max_overflow": 0, "pool_pre_ping": True, "connect_args": PATIENCE}
        with self._reached():
            return RDBStorage(self.url, engine_kwargs=pool)

    @contextmanager
    def session(self, name: str) -> Generator[None]:
        """Hold a study by an advisory lock, which the server releases when this process or its connection is gone.

        Raises:
            UserError: another process holds it, which is named.
        """
        import sqlalchemy as sql
        from sqlalchemy.exc import OperationalError

        holder = f"process {os.getpid()} on {socket.gethostname()}"
        key = {"class": LOCK_CLASS, "study": zlib.crc32(name.encode()) & 0x7FFFFFFF}
        who = """select application_name || ' since ' || backend_start::timestamp(0)
            from pg_locks join pg_stat_activity using (pid)
            where locktype = 'advisory' and classid = :class and objid = :study and granted
            and datname = current_database()"""
        # Some time to wait, because a server needs a moment to notice that a process was killed.
        settings = {"application_name": holder[:63], "options": "-c lock_timeout=3s"}
        with self._reached():
            connection = sql.create_engine(
                self.url, poolclass=sql.NullPool, isolation_level="AUTOCOMMIT", connect_args=PATIENCE | settings
            ).connect()
        with connection:
            try:
                connection.execute(sql.text("select pg_advisory_lock(:class, :study)"), key)
            except OperationalError as error:
                running = connection.scalar(sql.text(who), key) or "another process"
                raise UserError(
                    f"The study {name} is running in {running}: wait for it, or start another with --study NAME."
                ) from error
            try:
                yield
            except StorageInternalError as error:
                raise UserError(
                    f"The database {self.place} was lost ({_reason(error.__cause__ or error)}): the same command goes "
                    "on from here when it is back."
                ) from error

    @contextmanager
    def _reached(self) -> Generator[None]:
        try:
            yield
        except ImportError as error:
            raise UserError(
                "--storage needs the driver of PostgreSQL: install it with `pip install '.[postgres]'`."
            ) from error
        except Exception as error:  # SQLAlchemy and the driver each have their own
            raise UserError(f"The database {self.place} cannot be used ({_reason(error)}): check --storage.") from error


def _reason(error: BaseException) -> str:
    """Return the first line of what the driver says, without a password."""
    return redact(str(getattr(error, "orig", error)).partition("\n")[0])


Studies = Journals | Database
"""Some studies in one place."""
