"""`mnist demo`: a page to draw on, or to give a picture: what a model takes it for, what it sees and where it looks."""

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
from starlette.requests import Request

from mnist_pipeline.core.console import say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.page import free_port, open_page
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.idx import images_name
from mnist_pipeline.data.params import Data, load_data
from mnist_pipeline.evaluation.metrics import predict_probabilities
from mnist_pipeline.serving.images import read_image, read_picture
from mnist_pipeline.serving.predict import doubts

if TYPE_CHECKING:
    import keras

COVER, STEP = 5, 2
"""Side of the square that is covered, and how far it is moved, in pixels of an image whose shorter side has 28."""
EXAMPLES = 12
"""Misclassified test images that are offered."""


@dataclass(frozen=True)
class Offer:
    """A version that may be chosen on the page."""

    label: str
    """What the page calls it."""
    model: str
    """Name of its folder in `models/`, which may hold another training by now."""
    load: "Callable[[], keras.Model]"
    """Returns the model."""


def run(project: Project, offers: Mapping[str, Offer], port: int | None, *, browser: bool) -> None:
    """Show the page until an interruption.

    Args:
        project: whose test images are offered as examples.
        offers: the versions, by number; the first is shown at first.
        port: where to listen, on this machine alone; the next free one from 8000 if None.
        browser: open the page in the browser, if there is a desktop.

    Raises:
        UserError: the port is taken, or the first version cannot be loaded.
    """
    app, port, data = make_page(project, offers), free_port(port, 8000), load_data(project)
    todo = f"Draw {data.one_item}" if data.preparation == "strokes" else f"Show pictures of {data.items}"
    with suppress(KeyboardInterrupt), socket.create_server(("127.0.0.1", port)) as listener:
        say(f"{todo} at http://127.0.0.1:{port} (Ctrl+C ends it)")
        if browser:
            open_page(f"http://127.0.0.1:{port}")
        uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False)).run(sockets=[listener])


def make_page(project: Project, offers: Mapping[str, Offer]) -> FastAPI:
    """Return the application, which asks the versions `offers`, by number."""
    data = load_data(project)
    app = FastAPI(docs_url=None, redoc_url=None)

    @cache
    def model_of(version: str) -> "keras.Model":
        return _find(offers, version).load()

    model_of(next(iter(offers)))  # what is wrong with it is to be said before the page opens

    @app.get("/")
    def page() -> FileResponse:
        return FileResponse(Path(__file__).with_name("demo.html"))

    @app.get("/about")
    def about() -> dict[str, Any]:
        shown = data.model_dump(mode="json", include={"name", "title", "item", "classes", "image_size", "preparation"})
        return {**shown, "one_item": data.one_item, "versions": [(each, offers[each].label) for each in offers]}

    @app.get("/examples")
    def examples(version: str) -> list[int]:
        return hardest(project, _find(offers, version).model)

    @app.get("/examples/{index}")
    def example(index: int) -> Response:
        image = read_image(data, project.raw / images_name("t10k"), index)
        Image.fromarray(image.pixels).save(content := io.BytesIO(), "PNG")
        return Response(content.getvalue(), media_type="image/png")

    @app.post("/read")
    def read(version: str, picture: Annotated[bytes, Body(media_type="image/*")]) -> dict[str, Any]:
        return read_with(data, model_of(version), picture)

    @app.exception_handler(UserError)
    def refuse(_: Request, error: UserError) -> JSONResponse:
        return JSONResponse({"detail": str(error)}, 422)

    return app


def _find(offers: Mapping[str, Offer], version: str) -> Offer:
    if version not in offers:
        raise UserError(f"There is no version {version}: choose one of {', '.join(offers)}.")
    return offers[version]


def read_with(data: Data, model: "keras.Model", picture: bytes) -> dict[str, Any]:
    """Return what a model takes the bytes of a picture file for; a UserError says that it is none or shows nothing.

    Keys: the most probable class, the probability of each, the pixels that the model saw and how much each mattered,
    from 0 to 1, both (height, width), and what to bear in mind, a sentence each.
    """
    image = read_picture(data, io.BytesIO(picture), Path("The picture"))
    probabilities = predict_probabilities(model, image.pixels[np.newaxis])[0]
    best = int(probabilities.argmax())
    return {
        "class_name": data.classes[best],
        "probabilities": probabilities.tolist(),
        "pixels": image.pixels.tolist(),
        "heat": heat_map(lambda images: predict_probabilities(model, images)[:, best], image.pixels).tolist(),
        "notes": doubts(data, image, probabilities),
    }


def heat_map(
    score: Callable[[NDArray[np.uint8]], NDArray[np.float32]], pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    """Return how much less sure a model gets when a square around each pixel is covered (Zeiler and Fergus 2014).

    A gradient would say less: it is about small changes of single pixels, and nearly 0 where the model is sure.

    Args:
        score: returns a model's score for each image, float32 (n,), of raw pixels, uint8 (n, height, width).
        pixels: the image, uint8 (height, width).

    Returns:
        float64 (height, width) from 0 to 1, the most important pixel; all 0 if none matters.
    """
    (height, width), scale = pixels.shape, min(pixels.shape) / 28
    reach, step = round(COVER // 2 * scale), max(1, round(STEP * scale))
    places = [(y, x) for y in range(0, height, step) for x in range(0, width, step)]
    squares = np.zeros((len(places), height, width), bool)
    for square, (y, x) in zip(squares, places, strict=True):
        square[max(0, y - reach) : y + reach + 1, max(0, x - reach) : x + reach + 1] = True
    scores = score(np.concatenate([pixels[np.newaxis], np.where(squares, 0, pixels).astype(np.uint8)]))
    loss = np.clip(scores[0] - scores[1:], 0, None)
    heat = np.tensordot(loss, squares, 1) / squares.sum(axis=0)
    return np.asarray(heat / (heat.max() or 1))


def hardest(project: Project, model: str) -> list[int]:
    """Return which test images a trained model misclassified, the surest mistakes first; none if nobody knows."""
    file = project.predictions(model)
    if not file.is_file():
        return []
    table: Any = pd.read_parquet(file)
    wrong = table[table["label"] != table["predicted"]]
    confidence = wrong.filter(like="probability_").max(axis=1)
    return wrong.loc[confidence.sort_values(ascending=False).index, "index"].head(EXAMPLES).tolist()
