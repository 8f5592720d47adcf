"""`mnist demo`: what the page is told; that it can be drawn on is tested with the whole pipeline."""

import io
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import requests
import uvicorn
from drawings import draw
from fastapi import FastAPI
from PIL import Image
from registered import register

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.catalogue import offers
from mnist_pipeline.registry.registry import open_registry
from mnist_pipeline.serving.demo import heat_map, make_page


def png(image: Image.Image) -> bytes:
    image.save(content := io.BytesIO(), "PNG")
    return content.getvalue()


@contextmanager
def served(app: FastAPI) -> Generator[str]:
    """Serve an application from a thread; yield its address."""
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.05)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_the_page_offers_the_champion_first_and_reads_what_it_is_sent(project: Project, tmp_path: Path) -> None:
    (tmp_path / "registered").mkdir()
    old, new = (register(project, tmp_path / "registered", seed) for seed in (1, 2))
    with open_registry(project) as registry:
        registry.promote(old)
    with served(make_page(project, offers(project))) as page:
        assert "<canvas" in requests.get(page, timeout=30).text
        about = requests.get(f"{page}/about", timeout=30).json()
        assert [number for number, _ in about["versions"]] == [old.number, new.number]
        assert about["classes"] == [*map(str, range(10))]
        assert about["versions"][0][1].startswith("champion, version 1: cnn")
        answers = [
            requests.post(f"{page}/read", picture, params={"version": "1"}, timeout=60)
            for picture in (png(Image.fromarray(draw(7)[0])), png(Image.new("L", (280, 280))))
        ]
        unknown = requests.post(f"{page}/read", png(Image.new("L", (9, 9))), params={"version": "9"}, timeout=60)
        examples = requests.get(f"{page}/examples", {"version": "1"}, timeout=30).json()
        example = requests.get(f"{page}/examples/0", timeout=30).content
    found = answers[0].json()
    assert found["class_name"] == str(np.argmax(found["probabilities"]))
    assert np.shape(found["pixels"]) == np.shape(found["heat"]) == (28, 28)
    assert np.max(found["pixels"]) == 255
    assert answers[1].status_code == 422
    assert answers[1].json()["detail"] == "The picture shows nothing but paper: give a picture of one digit."
    assert (unknown.status_code, unknown.json()["detail"]) == (422, "There is no version 9: choose one of 1, 2.")
    assert examples == []  # nobody has evaluated it
    assert Image.open(io.BytesIO(example)).size == (28, 28)


def test_without_a_registered_model_it_says_what_to_do(project: Project) -> None:
    with pytest.raises(UserError, match="No model is registered yet"):
        offers(project)


def test_the_map_is_hottest_where_covering_costs_most() -> None:
    pixels = np.full((28, 28), 200, np.uint8)
    heat = heat_map(lambda images: images[:, 8:12, 20:24].mean(axis=(1, 2)).astype(np.float32), pixels)
    assert heat.max() == 1
    y, x = np.unravel_index(heat.argmax(), heat.shape)
    assert 8 <= y < 12
    assert 20 <= x < 24
    assert heat[20:].max() == heat[:, :14].max() == 0
