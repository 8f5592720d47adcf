"""The champion behind HTTP: what may be asked, and how a wrong question is answered."""

import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError, create_model
from starlette.requests import ClientDisconnect

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import upright_bar
from mnist_pipeline.data.params import Data
from mnist_pipeline.serving.champion import Champion
from mnist_pipeline.serving.images import read_picture
from mnist_pipeline.serving.lite import LiteModel
from mnist_pipeline.serving.predict import doubts

MOST_IMAGES = 256
"""In one request."""
MOST_BYTES = 4_000_000
"""In the body of a request."""
MOST_PICTURE_PIXELS = 16_000_000
"""In an uploaded picture, which a small file may hold many of."""

TOO_LARGE = f"The body has more than {MOST_BYTES:,} bytes: send fewer images at a time, or a smaller picture."
WRONG_TYPE = (
    "Send pixels as application/json, or the bytes of a picture as image/png or whatever image it is: "
    "curl --data-binary @picture.png -H 'Content-Type: image/png' …"
)

Pixel = Annotated[int, Field(strict=True, ge=0, le=255)]


@cache
def question(height: int, width: int) -> Any:
    """Return the class of a request in JSON: raw pixels of some images of one size."""

    def many(each: Any, least: int, most: int) -> Any:
        return Annotated[list[each], Field(min_length=least, max_length=most, fail_fast=True)]

    image = many(many(Pixel, width, width), height, height)
    return create_model("Images", __config__=ConfigDict(extra="forbid"), pixels=(many(image, 1, MOST_IMAGES), ...))


def parse(body: bytes, height: int, width: int) -> NDArray[np.uint8]:
    """Return the images of a request in JSON, uint8 (n, height, width).

    Raises:
        UserError: it is something else; the message names the first place that is wrong, and what is allowed.
    """
    try:
        return np.array(question(height, width).model_validate_json(body).pixels, np.uint8)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        reason = first["msg"].replace("Input should", "it should").replace(" after validation", "")
        raise UserError(
            f'{where}: {reason}; send {{"pixels": [image, …]}}, 1 to {MOST_IMAGES} images, each {height} lists of '
            f"{width} integers from 0 (black) to 255 (white)."
        ) from error


class Reading(BaseModel):
    """What the model takes one image for."""

    label: int
    class_name: str
    probabilities: list[float]


class Answer(BaseModel):
    """What one version of the model takes all images of a request for."""

    version: str
    readings: list[Reading]
    notes: list[str] = []


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str


@dataclass(frozen=True)
class Served:
    """A version in memory."""

    data: Data
    champion: Champion
    model: LiteModel

    @classmethod
    def load(cls, project: Project, data: Data, champion: Champion) -> "Served":
        """Load its export; a UserError says that it is damaged, or for other data."""
        model = LiteModel(project.serving / champion.file)
        data.check_fit(f"models:/{data.name}/{champion.version}", model.image_size, model.classes)
        return cls(data, champion, model)

    def answer(self, images: NDArray[np.uint8]) -> Answer:
        """Return what it takes images, uint8 (n, height, width), for."""
        readings = [
            Reading(label=label, class_name=self.data.classes[label], probabilities=scores.tolist())
            for scores in self.model(images)
            for label in [int(scores.argmax())]
        ]
        return Answer(version=self.champion.version, readings=readings)


PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (413, 415, 422)}
ONE_PICTURE = anyio.CapacityLimiter(1)
"""Pictures are prepared in a thread, one after the other, because they take memory."""
router = APIRouter()


def make_app(served: Served, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """Return the application: `served` answers, until another version is put into `app.state.served`."""
    Image.MAX_IMAGE_PIXELS = MOST_PICTURE_PIXELS
    size = served.data.image_size
    pixels = {"schema": question(*size).model_json_schema(), "example": {"pixels": [upright_bar(*size).tolist()]}}
    picture = {"schema": {"type": "string", "format": "binary"}}
    body = {"required": True, "content": {"application/json": pixels, "image/*": picture}}
    # FastAPI's own page needs the internet.
    app = FastAPIOffline(title=served.data.name, lifespan=lifespan, redoc_url=None)
    app.state.served = served
    app.include_router(router)
    app.post("/predict", openapi_extra={"requestBody": body}, responses=PROBLEMS)(predict)
    app.add_exception_handler(UserError, _refuse)
    app.add_exception_handler(ClientDisconnect, _give_up)
    return app


@router.get("/health")
async def health() -> dict[str, str]:
    """Say that the process is alive."""
    return {"status": "alive"}


@router.get("/ready")
async def ready(request: Request) -> dict[str, str]:
    """Say which version answers."""
    champion = _served(request).champion
    return {"status": "ready", "version": champion.version, "model_md5": champion.model_md5}


async def predict(request: Request) -> Answer:
    """Classify images given as pixels in JSON, or one picture file as the body, as `mnist predict` would."""
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith("application/json"):
        images = parse(await read_body(request), *_served(request).data.image_size)
        return _served(request).answer(images)
    if not kind.startswith("image/"):
        raise HTTPException(415, WRONG_TYPE)
    file, data = io.BytesIO(await read_body(request)), _served(request).data
    picture = await anyio.to_thread.run_sync(read_picture, data, file, Path("the picture"), limiter=ONE_PICTURE)
    answer = _served(request).answer(picture.pixels[np.newaxis])
    answer.notes = doubts(data, picture, np.array(answer.readings[0].probabilities))
    return answer


async def read_body(request: Request) -> bytes:
    """Return the body of a request, unless it is larger than allowed.

    FastAPI's own limit says neither what is allowed nor anything in JSON.
    """
    body, size = bytearray(), 0
    async for chunk in request.stream():
        size += len(chunk)
        if size <= MOST_BYTES:
            body += chunk
        elif size > 16 * MOST_BYTES:  # until then it is read all the same: who is cut off does not see the answer
            break
    if size > MOST_BYTES:
        raise HTTPException(413, TOO_LARGE)
    return bytes(body)


def _served(request: Request) -> Served:
    return request.app.state.served


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _give_up(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it; without, the log would show a traceback
