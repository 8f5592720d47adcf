"""Three servers of the champion, over HTTP: `mnist serve`, `mlflow models serve`, Keras' `predict` in FastAPI.

See README.md. One server at a time, one client that asks on one connection, in turns of all three.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import psutil
import typer
from numpy.typing import NDArray

from bench import HERE, RESULTS, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import load_test, load_validation
from mnist_pipeline.registry.candidate import Best
from mnist_pipeline.tracking.store import tracking_uri
from tables import Grid, Statistic, publish

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

BATCHES = (1, 64)
"""Images in a request."""
WARM_UP = 10
"""Requests that do not count."""
MNIST = str(Path(sys.executable).with_name("mnist"))
PACKAGES = ("mlflow", "ai-edge-litert", "fastapi", "uvicorn")


@dataclass(frozen=True)
class Contestant:
    """A server."""

    name: str
    command: Sequence[str]
    """What starts it; `PORT` stands for the port."""
    path: str
    """Where it is asked."""
    key: str
    """What the images are called in a question."""


@dataclass
class Measured:
    """What was measured of a server, a value per turn."""

    start: list[float] = field(default_factory=list[float])
    """Seconds from the command to the first answer."""
    memory: list[float] = field(default_factory=list[float])
    """Bytes resident after all requests, of all its processes together."""
    requests: int = 0
    """How many were timed in all."""
    median: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    """Median of the milliseconds from question to answer, by batch."""
    slowest: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    """Percentile 99 of the same."""
    throughput: dict[int, list[float]] = field(default_factory=lambda: {batch: [] for batch in BATCHES})
    """Images per second, by batch."""


@app.command()
def main(
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each server.")] = 5,
    requests: Annotated[int, typer.Option(min=1, help="Requests per batch and turn that are timed, at most.")] = 1000,
    seconds: Annotated[float, typer.Option(min=0.1, help="Seconds per batch and turn, at most.")] = 10,
    results: Annotated[Path, typer.Option(help="Markdown file.")] = RESULTS / "serving.md",
) -> None:
    """Compare start-up, memory, latency and throughput; check that the test images are answered as in the report.

    Run it inside the project, after `dvc repro`, with `pip install '.[serve]'`.
    """
    project = find_project()
    shutil.rmtree(project.serving, ignore_errors=True)
    begin = time.perf_counter()
    subprocess.run([MNIST, "prepare"], check=True)
    preparing = time.perf_counter() - begin
    best = read_json(project.best, Best, "mnist register")
    contestants = [
        Contestant("mnist serve", [MNIST, "serve", "--port", "PORT"], "/predict", "pixels"),
        Contestant(
            "mlflow models serve",
            f"{sys.executable} -m mlflow models serve -m models:/mnist@champion -p PORT --env-manager local".split(),
            "/invocations",
            "inputs",
        ),
        Contestant(
            "Keras' predict in FastAPI",
            [sys.executable, str(HERE / "naive_server.py"), "PORT", str(project.model_file(best.model))],
            "/predict",
            "pixels",
        ),
    ]
    measured = {contestant.name: Measured() for contestant in contestants}
    images = load_validation(project.split).images
    for turn in range(1, rounds + 1):
        for contestant in contestants:
            of = measured[contestant.name]
            with running(project, contestant, images, of) as (process, connection):
                for batch in BATCHES:
                    take_times(connection, contestant, images, batch, requests, seconds, of)
                of.memory.append(sum(each.memory_info().rss for each in (process, *process.children(recursive=True))))
            say(f"{turn}/{rounds}  {contestant.name}: {of.start[-1]:.1f} s, {of.median[1][-1]:.2f} ms")
    report(measured, rounds, [check_test(project, contestants[0], best), f"{preparing:.1f}"], results)


@contextmanager
def running(
    project: Project, contestant: Contestant, images: NDArray[np.uint8], measured: Measured
) -> Generator[tuple[psutil.Process, HTTPConnection]]:
    """Start a server, note how long it takes to its first answer, and end it."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    command = [part.replace("PORT", str(port)) for part in contestant.command]
    environment = {
        **os.environ,
        "MLFLOW_TRACKING_URI": tracking_uri(project),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",  # MLflow starts uvicorn by name
    }
    begin = time.perf_counter()
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    connection = HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        question = body(contestant, images[:1])
        while ask(connection, contestant, question) is None:
            if server.poll() is not None or time.perf_counter() > begin + 120:
                raise UserError(f"{contestant.name} did not start: try `{' '.join(command)}`.")
            time.sleep(0.02)
        measured.start.append(time.perf_counter() - begin)
        yield psutil.Process(server.pid), connection
    finally:
        connection.close()
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=60)


def body(contestant: Contestant, images: NDArray[np.uint8]) -> bytes:
    """Return a question."""
    return json.dumps({contestant.key: images.tolist()}).encode()


def ask(connection: HTTPConnection, contestant: Contestant, question: bytes) -> bytes | None:
    """Return the answer; None if there is none yet."""
    try:
        connection.request("POST", contestant.path, question, {"Content-Type": "application/json"})
        response = connection.getresponse()
        answer = response.read()
    except (OSError, HTTPException):
        connection.close()
        return None
    return answer if response.status == 200 else None


def take_times(
    connection: HTTPConnection, contestant: Contestant, images: NDArray[np.uint8], batch: int, requests: int,
    seconds: float, measured: Measured,
) -> None:  # fmt: skip
    """Ask until there are enough times or they have taken long enough, and note what they came to."""
    questions = [body(contestant, images[start : start + batch]) for start in range(0, 20 * batch, batch)]
    times: list[float] = []
    begin = 0.0
    for number in range(WARM_UP + requests):
        if number == WARM_UP:
            begin = time.perf_counter()
        started = time.perf_counter()
        if ask(connection, contestant, questions[number % len(questions)]) is None:
            raise UserError(f"{contestant.name} did not answer {batch} images.")
        if number >= WARM_UP:
            times.append((time.perf_counter() - started) * 1000)
            if time.perf_counter() - begin > seconds:
                break
    measured.throughput[batch].append(len(times) * batch / (time.perf_counter() - begin))
    measured.median[batch].append(float(np.median(times)))
    measured.slowest[batch].append(float(np.percentile(times, 99)))
    measured.requests += len(times)


def check_test(project: Project, ours: Contestant, best: Best) -> str:
    """Ask for all test images; return how the answers agree with those of `mnist evaluate`."""
    test = load_test(project.split)
    digits: list[int] = []
    with running(project, ours, test.images, Measured()) as (_, connection):
        connection.request("GET", "/ready")
        served = json.load(connection.getresponse())["model_md5"]
        for start in range(0, len(test), 250):
            answer = ask(connection, ours, body(ours, test.images[start : start + 250]))
            digits += [reading["label"] for reading in json.loads(answer or b"{}")["readings"]]
    evaluated: Any = pd.read_parquet(project.predictions(best.model))["predicted"].to_numpy()
    reported = json.loads(project.test_report(best.model).read_text(encoding="utf-8"))["accuracy"]
    others = (digits != evaluated).sum()
    return (
        f"Accuracy on the {len(test):,} test images, asked over HTTP: {np.mean(digits == test.labels):.4%}; the report "
        f"of `{best.model}` has {reported:.4%}. Images that are read otherwise than in it: {others}."
        + ("" if served == best.model_md5 else " But the champion is another model than that.")
    )


def report(measured: dict[str, Measured], rounds: int, found: Sequence[str], results: Path) -> None:
    """Print and write what was measured."""
    servers = [*measured.values()]
    rows = [
        ["start, s", *(Statistic.of(of.start).text(".1f") for of in servers)],
        ["memory, MB", *(Statistic.of(of.memory).text(".0f", 1e-6) for of in servers)],
    ]
    for batch in BATCHES:
        what = "1 image" if batch == 1 else f"{batch} images"
        rows += [
            [f"{what}: p50, ms", *(Statistic.of(of.median[batch]).text(".2f") for of in servers)],
            [f"{what}: p99, ms", *(Statistic.of(of.slowest[batch]).text(".1f") for of in servers)],
            [f"{what}: images per second", *(Statistic.of(of.throughput[batch]).text(",.0f") for of in servers)],
        ]
    accuracy, preparing = found
    notes = (
        machine() + "".join(f", {package} {version(package)}" for package in PACKAGES),
        f"n = {rounds} turns of each, mean and standard deviation over the turns; requests timed in all: "
        + ", ".join(f"{of.requests:,} ({name})" for name, of in measured.items()) + ".",
        "One client on the same machine, one connection, one request of 1 or 64 images at a time. Start is from the "
        "command to the first answer, memory what is resident of all processes after the requests.",
        f"`mnist serve` starts from an export that is there already; making it took {preparing} s before, once.",
        accuracy,
    )  # fmt: skip
    publish(results, Grid("Serving the champion", ("", *measured), rows), notes)


if __name__ == "__main__":
    run_command(app)
