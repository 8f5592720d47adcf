"""`mnist serve`: answers as Keras does, refuses in sentences, follows the alias, and loses no request."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
from drawings import draw
from numpy.typing import NDArray
from PIL import Image
from registered import register

from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.registry import open_registry
from mnist_pipeline.serving.images import read_image
from small_project import MNIST, draw_digits, make_project

COMMAND = str(Path(sys.executable).with_name("mnist"))
IMAGES = draw_digits(40, seed=5).images


@dataclass
class Server:
    """A running `mnist serve`, and the folder of the models that it may serve, as `<version>.keras`."""

    process: subprocess.Popen[str]
    port: int
    said: list[str]
    models: Path

    def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> tuple[int, Any]:
        """Return status and answer, on a connection of its own."""
        connection = HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(method, path, body, {"Content-Type": kind})
        response = connection.getresponse()
        content = response.read()
        connection.close()
        is_json = response.headers["content-type"] == "application/json"
        return response.status, json.loads(content) if is_json else content.decode(errors="replace")

    def read(self, pixels: NDArray[np.uint8]) -> tuple[str, NDArray[np.float32]]:
        """Return the version that answered, and its probabilities."""
        status, answer = self.ask("POST", "/predict", json.dumps({"pixels": pixels.tolist()}))
        assert status == 200
        assert [np.argmax(each["probabilities"]) for each in answer["readings"]] == [
            each["label"] for each in answer["readings"]
        ]
        return answer["version"], np.array([each["probabilities"] for each in answer["readings"]], np.float32)

    def expected(self, version: str, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return what Keras makes of the same images."""
        import keras

        return np.asarray(keras.saving.load_model(self.models / f"{version}.keras")(pixels))  # pyright: ignore[reportCallIssue, reportOptionalCall]


def start(project: Project, *arguments: str) -> Server:
    """Start a server, and wait until it says where it answers."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    process = subprocess.Popen(
        [COMMAND, "serve", "--port", "0", *arguments],
        cwd=project.root, env=ours, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    said: list[str] = []
    for line in process.stdout:
        said.append(line)
        if found := re.search(r":(\d+)/predict", line):
            return Server(process, int(found[1]), said, project.root / "registered")
    raise AssertionError(process.communicate())


def end(server: Server) -> str:
    """Ask a server to end; return what standard error said."""
    server.process.send_signal(signal.SIGTERM)
    _, errors = server.process.communicate(timeout=60)
    assert server.process.returncode == 0
    return errors


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project with two versions, of which the first is champion."""
    for package in ("ai_edge_litert", "fastapi_offline"):
        pytest.importorskip(package, reason="`pip install '.[serve]'`")
    project = make_project(tmp_path_factory.mktemp("served"))
    models = project.root / "registered"
    models.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        for name in ("MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"):
            patch.delenv(name, raising=False)
        for seed in (1, 2):
            register(project, models, seed)
        promote(project, "1")
    return project


def promote(project: Project, number: str) -> None:
    with open_registry(project) as registry:
        registry.promote(next(version for version in registry.versions() if version.number == number))


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[Server]:
    server = start(project, "--reload-on-promotion")
    yield server
    assert "Traceback" not in end(server)


def test_it_answers_as_keras_does_with_the_version_that_is_ready(server: Server) -> None:
    version, probabilities = server.read(IMAGES)
    np.testing.assert_allclose(probabilities, server.expected("1", IMAGES), atol=1e-5)
    status, answer = server.ask("GET", "/ready")
    assert (status, answer["status"], answer["version"], version) == (200, "ready", "1", "1")
    assert server.ask("GET", "/health") == (200, {"status": "alive"})


def test_an_image_gets_the_same_answer_in_whatever_company_it_comes(server: Server) -> None:
    _, together = server.read(IMAGES)
    for index in (0, 17, 39):
        np.testing.assert_array_equal(server.read(IMAGES[index : index + 1])[1][0], together[index])


def test_on_a_connection_that_is_kept_no_answer_waits_for_an_acknowledgement(server: Server) -> None:
    connection, times = HTTPConnection("127.0.0.1", server.port, timeout=60), list[float]()
    question = json.dumps({"pixels": IMAGES[:1].tolist()})
    for _ in range(31):
        begin = time.monotonic()
        connection.request("POST", "/predict", question, {"Content-Type": "application/json"})
        connection.getresponse().read()
        times.append(time.monotonic() - begin)
    connection.close()
    assert np.median(times) < 0.03  # with Nagle's algorithm it would be 0.04


def test_a_picture_is_prepared_as_mnist_predict_prepares_it(server: Server, tmp_path: Path) -> None:
    file = tmp_path / "digit.png"
    Image.fromarray(draw(3)[0]).save(file)
    status, answer = server.ask("POST", "/predict", file.read_bytes(), "image/png")
    assert status == 200
    expected = server.expected("1", read_image(MNIST, file).pixels[np.newaxis])
    np.testing.assert_allclose([answer["readings"][0]["probabilities"]], expected, atol=1e-5)
    assert "the picture is dark on light and was inverted" in answer["notes"][0]


def pixels(values: Any) -> str:
    return json.dumps({"pixels": values})


ZEROS = np.zeros((1, 28, 28), int)
ALLOWED = "integers from 0 (black) to 255 (white)"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (pixels((ZEROS + 0.5).tolist()), "pixels.0.0.0"),
        (pixels((ZEROS + 256).tolist()), "less than or equal to 255"),
        (pixels((ZEROS - 1).tolist()), "greater than or equal to 0"),
        (pixels([[[True] * 28] * 28]), "valid integer"),
        (pixels(ZEROS[0].tolist()), "pixels.0.0"),
        (pixels(ZEROS[:, 1:].tolist()), "at least 28 items, not 27"),
        (pixels(np.zeros((257, 28, 28), int).tolist()), "1 to 256 images"),
        (pixels([]), "at least 1 item"),
        (json.dumps({"image": []}), "pixels"),
        ("[" * 100_000, "Invalid JSON"),
        ('{"pixels": [[[NaN]]]}', "integer"),
        ("", "Invalid JSON"),
    ],
    ids=str.split("fractions large negative booleans one_image short_image many none other_key deep nan empty"),
)
def test_what_are_no_pixels_is_refused_in_a_sentence_that_says_what_is_allowed(
    server: Server, body: str, words: str
) -> None:
    status, answer = server.ask("POST", "/predict", body)
    assert status == 422
    assert words in answer["detail"]
    assert ALLOWED in answer["detail"]
    assert "\n" not in answer["detail"]


def test_other_bodies_are_refused_in_a_sentence_too(server: Server) -> None:
    def refused(body: bytes, kind: str) -> tuple[int, str]:
        status, answer = server.ask("POST", "/predict", body, kind)
        return status, answer["detail"]

    large, paper = io.BytesIO(), io.BytesIO()
    Image.new("1", (4001, 4001)).save(large, "PNG")
    Image.new("L", (100, 100), "white").save(paper, "PNG")
    assert refused(b"x", "text/plain")[0] == 415
    assert "image/png" in refused(b"x", "text/plain")[1]
    for body in (b" " * 4_000_001, b" " * 30_000_000):
        assert refused(body, "application/json")[0] == 413
        assert "more than 4,000,000 bytes" in refused(body, "image/png")[1]
    for body, words in (
        (b"x", "give a PNG, JPEG"),
        (large.getvalue(), "below 16,000,000"),
        (paper.getvalue(), "paper"),
    ):
        status, sentence = refused(body, "image/png")
        assert status == 422
        assert words in sentence
        assert "--index" not in sentence


def test_the_page_of_the_interface_needs_no_internet(server: Server) -> None:
    status, page = server.ask("GET", "/docs")
    assert status == 200
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert len(loaded) == 3
    assert all(server.ask("GET", address)[0] == 200 for address in loaded)
    described = server.ask("GET", "/openapi.json")[1]["paths"]["/predict"]["post"]["requestBody"]["content"]
    assert set(described) == {"application/json", "image/*"}
    assert server.ask("POST", "/predict", json.dumps(described["application/json"]["example"]))[0] == 200


def test_it_is_small_because_it_knows_neither_tensorflow_nor_mlflow(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    assert not process.children()
    assert process.memory_info().rss < 300e6
    heavy = "{'tensorflow', 'keras', 'mlflow', 'pandas', 'sklearn'}"
    code = f"import sys, mnist_pipeline.serving.serve, mnist_pipeline.tracking.store; print({heavy} & {{*sys.modules}})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_a_client_that_goes_away_leaves_no_traceback_in_the_log(server: Server) -> None:
    for head in ("Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{", "Content-Le"):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"POST /predict HTTP/1.1\r\nHost: here\r\n{head}".encode())
    assert server.ask("GET", "/health")[0] == 200  # what the log says is checked when the server ends


def test_it_follows_the_alias_and_drops_no_request(server: Server, project: Project) -> None:
    answers: list[tuple[str, NDArray[np.float32]]] = []
    enough = threading.Event()

    def keep_asking() -> None:
        while not enough.is_set():
            answers.append(server.read(IMAGES[:4]))

    askers = [threading.Thread(target=keep_asking) for _ in range(3)]
    for asker in askers:
        asker.start()
    promote(project, "2")
    patience = time.monotonic() + 120
    while server.ask("GET", "/ready")[1]["version"] != "2" and time.monotonic() < patience:
        time.sleep(0.2)
    asked = len(answers)
    while len(answers) < asked + 10 and any(asker.is_alive() for asker in askers):
        time.sleep(0.05)
    enough.set()
    for asker in askers:
        asker.join()
    assert len(answers) >= asked + 10  # a request that fails ends the one who asks
    assert {version for version, _ in answers} == {"1", "2"}
    for number in ("1", "2"):
        given = np.array([probabilities for version, probabilities in answers if version == number])
        expected = server.expected(number, IMAGES[:4])
        np.testing.assert_allclose(given, np.broadcast_to(expected, given.shape), atol=1e-5)


def test_it_starts_at_once_if_nothing_has_changed_and_asks_if_something_has(project: Project) -> None:
    first = start(project)
    version = first.ask("GET", "/ready")[1]["version"]
    end(first)
    second = start(project)
    end(second)
    assert len(second.said) == 1
    other = "2" if version == "1" else "1"
    promote(project, other)
    third = start(project)
    assert third.said[0].startswith("Asking MLflow")
    assert third.ask("GET", "/ready")[1]["version"] == other
    end(third)


def test_what_was_asked_before_the_end_is_answered(project: Project) -> None:
    server = start(project)
    connection = HTTPConnection("127.0.0.1", server.port, timeout=30)
    body = json.dumps({"pixels": IMAGES.tolist()}).encode()
    connection.putrequest("POST", "/predict")
    connection.putheader("Content-Type", "application/json")
    connection.putheader("Content-Length", str(len(body)))
    connection.endheaders(body[:1000])
    time.sleep(0.5)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.5)
    connection.send(body[1000:])
    response = connection.getresponse()
    assert response.status == 200
    assert len(json.loads(response.read())["readings"]) == len(IMAGES)
    with server.process:
        assert server.process.wait(timeout=30) == 0
    connection.close()


def test_it_takes_the_process_that_asks_mlflow_with_it_when_it_ends(project: Project) -> None:
    server = start(project, "--reload-on-promotion")
    os.utime(project.tracking_database)  # looks like a change
    process, patience = psutil.Process(server.process.pid), time.monotonic() + 30
    while not (children := process.children()) and time.monotonic() < patience:
        time.sleep(0.05)
    assert len(children) == 1
    end(server)
    assert not children[0].is_running()


def test_a_taken_port_and_a_missing_champion_are_told_in_a_sentence(project: Project, tmp_path: Path) -> None:
    def serve(folder: Path, port: int) -> list[str]:
        done = subprocess.run(
            [COMMAND, "serve", "--port", str(port)],
            cwd=folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == 1
        return done.stderr.splitlines()

    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert serve(project.root, port) == [
            f"error: 127.0.0.1, port {port}: Address already in use; name another one with --port or --host."
        ]
    (told,) = serve(make_project(tmp_path).root, 0)
    assert told.startswith("error: There is no version champion of models:/mnist")
