"""`mnist demo`: a page to draw digits on, which shows what a model reads, what it sees and where it looks."""

import io
import socket
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import pandas as pd
import uvicorn
from fastapi import Body, FastAPI
from fastapi.responses import FileResponse, JSONResponse, Response
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel
from starlette.requests import Request

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.page import free_port, open_page
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.idx import images_name
from mnist_pipeline.data.params import IMAGE_SIDE
from mnist_pipeline.evaluation.metrics import predict_probabilities
from mnist_pipeline.serving.images import read_digit, read_picture
from mnist_pipeline.serving.predict import doubts

if TYPE_CHECKING:
    import keras

COVER, STEP = 5, 2
"""Side of the square that is covered, and how far it is moved, in pixels."""
EXAMPLES = 12
"""Misread test images that are offered."""


@dataclass(frozen=True)
class Offer:
    """A version that may be chosen on the page."""

    label: str
    """What the page calls it."""
    model: str
    """Name of its folder in `models/`, which may hold another training by now."""
    load: "Callable[[], keras.Model]"
    """Returns the model."""


class Reading(BaseModel):
    """What a model reads in a picture."""

    digit: int
    """The most probable digit."""
    probabilities: list[float]
    """The probability of each digit."""
    pixels: list[list[int]]
    """What the model saw, 28x28, 0 for paper and 255 for ink."""
    heat: list[list[float]]
    """How much each pixel mattered, 28x28, from 0 to 1."""
    notes: list[str]
    """What to bear in mind, a sentence each."""


def run(project: Project, offers: Mapping[str, Offer], port: int | None, *, browser: bool) -> None:
    """Show the page until an interruption.

    Args:
        project: whose test images are offered as examples.
        offers: the versions, by name; the first is shown at first.
        port: where to listen, on this machine alone; the next free one from 8000 if None.
        browser: open the page in the browser, if there is a desktop.

    Raises:
        UserError: the port is taken, or the first version cannot be loaded.
    """
    app, port = make_page(project, offers), free_port(port, 8000)
    with suppress(KeyboardInterrupt), socket.create_server(("127.0.0.1", port)) as listener:
        say(f"Draw a digit at http://127.0.0.1:{port} (Ctrl+C ends it)")
        if browser:
            open_page(f"http://127.0.0.1:{port}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def make_page(project: Project, offers: Mapping[str, Offer]) -> FastAPI:
    """Return the application.

    Args:
        project: whose test images are offered as examples.
        offers: the versions, by name; the first is shown at first.
    """
    app = FastAPI(title="mnist demo", docs_url=None, redoc_url=None)

    @cache
    def model_of(version: str) -> "keras.Model":
        return _find(offers, version).load()

    model_of(next(iter(offers)))  # what is wrong with it is to be said before the page opens

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(Path(__file__).with_name("demo.html"))

    @app.get("/versions")
    def versions() -> list[tuple[str, str]]:
        return [(name, offer.label) for name, offer in offers.items()]

    @app.get("/examples")
    def examples(version: str) -> list[int]:
        return hardest(project, _find(offers, version).model)

    @app.get("/examples/{index}")
    def example(index: int) -> Response:
        digit = read_digit(project.raw / images_name("t10k"), index)
        Image.fromarray(digit.pixels).save(content := io.BytesIO(), "PNG")
        return Response(content.getvalue(), media_type="image/png")

    @app.post("/read")
    def read(version: str, picture: Annotated[bytes, Body(media_type="image/*")]) -> Reading:
        return read_with(model_of(version), picture)

    @app.exception_handler(UserError)
    def refuse(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    return app


def _find(offers: Mapping[str, Offer], version: str) -> Offer:
    if version not in offers:
        raise UserError(f"There is no version {version}: choose one of {', '.join(offers)}.")
    return offers[version]


def read_with(model: "keras.Model", picture: bytes) -> Reading:
    """Return what a model reads in the bytes of a picture file.

    Raises:
        UserError: it is no picture, or shows nothing.
    """
    digit = read_picture(io.BytesIO(picture), Path("The picture"))
    probabilities = predict_probabilities(model, digit.pixels[np.newaxis])[0]
    best = int(probabilities.argmax())
    return Reading(
        digit=best,
        probabilities=probabilities.tolist(),
        pixels=digit.pixels.tolist(),
        heat=heat_map(lambda images: predict_probabilities(model, images)[:, best], digit.pixels).tolist(),
        notes=doubts(digit, probabilities),
    )


def heat_map(
    score: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return how much less sure a model gets when a square around each pixel is covered (Zeiler and Fergus 2014).

    A gradient would say less: it is about small changes of single pixels, and nearly 0 where the model is sure.

    Args:
        score: returns a model's score for each image, float32 (n,), of raw pixels, uint8 (n, 28, 28).
        pixels: the image, uint8 (28, 28).

    Returns:
        float64 (28, 28) from 0 to 1, the most important pixel; all 0 if none matters.
    """
    places = [(y, x) for y in range(0, IMAGE_SIDE, STEP) for x in range(0, IMAGE_SIDE, STEP)]
    squares = np.zeros((len(places), IMAGE_SIDE, IMAGE_SIDE), bool)
    for square, (y, x) in zip(squares, places, strict=True):
        square[max(0, y - COVER // 2) : y + COVER // 2 + 1, max(0, x - COVER // 2) : x + COVER // 2 + 1] = True
    scores = score(np.concatenate([pixels[np.newaxis], np.where(squares, 0, pixels).astype(np.uint8)]))
    loss = np.clip(scores[0] - scores[1:], 0, None)
    heat = np.tensordot(loss, squares, 1) / squares.sum(axis=0)
    return np.asarray(heat / (heat.max() or 1))


def hardest(project: Project, model: str) -> list[int]:
    """Return which test images a trained model misread and was surest of, the surest first; none if nobody knows."""
    file = project.predictions(model)
    if not file.is_file():
        return []
    table: Any = pd.read_parquet(file)
    wrong = table[table["label"] != table["predicted"]]
    confidence = wrong.filter(like="probability_").max(axis=1)
    return wrong.loc[confidence.sort_values(ascending=False).index, "index"].head(EXAMPLES).tolist()
