"""The champion behind HTTP: what may be asked, and how a wrong question is answered."""

import io
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import anyio
import numpy as np
from fastapi import APIRouter, FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from fastapi_offline import FastAPIOffline
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.requests import ClientDisconnect

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import IMAGE_SIDE
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

ALLOWED = (
    f'send {{"pixels": [image, …]}}, 1 to {MOST_IMAGES} images, each {IMAGE_SIDE} lists of {IMAGE_SIDE} integers '
    "from 0 (paper) to 255 (ink)."
)
TOO_LARGE = f"The body has more than {MOST_BYTES:,} bytes: send fewer images at a time, or a smaller picture."
WRONG_TYPE = (
    "Send pixels as application/json, or the bytes of a picture as image/png or whatever image it is: "
    "curl --data-binary @digit.png -H 'Content-Type: image/png' …"
)

Pixel = Annotated[int, Field(strict=True, ge=0, le=255)]
Line = Annotated[list[Pixel], Field(min_length=IMAGE_SIDE, max_length=IMAGE_SIDE, fail_fast=True)]
Pixels = Annotated[list[Line], Field(min_length=IMAGE_SIDE, max_length=IMAGE_SIDE, fail_fast=True)]


class Images(BaseModel):
    """Images as MNIST has them: raw pixels, light ink (255) on dark paper (0)."""

    model_config = ConfigDict(extra="forbid")

    pixels: Annotated[list[Pixels], Field(min_length=1, max_length=MOST_IMAGES, fail_fast=True)]


class Reading(BaseModel):
    """What the model reads in one image."""

    digit: int
    probabilities: list[float]


class Answer(BaseModel):
    """What one version of the model reads in all images of a request."""

    version: str
    readings: list[Reading]
    notes: list[str] = []


class Problem(BaseModel):
    """What is wrong with a request, in one sentence."""

    detail: str


@dataclass(frozen=True)
class Served:
    """A version in memory."""

    champion: Champion
    model: LiteModel

    @classmethod
    def load(cls, project: Project, champion: Champion) -> "Served":
        """Load its export."""
        return cls(champion, LiteModel(project.serving / champion.file))

    def answer(self, images: NDArray[np.uint8]) -> Answer:
        """Return what it reads in images, uint8 (n, 28, 28)."""
        readings = [Reading(digit=int(scores.argmax()), probabilities=scores.tolist()) for scores in self.model(images)]
        return Answer(version=self.champion.version, readings=readings)


BAR = [[255 * (4 <= y < 24 and 13 <= x < 15) for x in range(IMAGE_SIDE)] for y in range(IMAGE_SIDE)]
"""An example for the page: a 1."""
BODY = {
    "required": True,
    "content": {
        "application/json": {"schema": Images.model_json_schema(), "example": {"pixels": [BAR]}},
        "image/*": {"schema": {"type": "string", "format": "binary"}},
    },
}
PROBLEMS: dict[int | str, dict[str, Any]] = {code: {"model": Problem} for code in (413, 415, 422)}
ONE_PICTURE = anyio.CapacityLimiter(1)
"""Pictures are prepared in a thread, one after the other, because they take memory."""
router = APIRouter()


def make_app(served: Served, lifespan: Callable[[FastAPI], AbstractAsyncContextManager[None]]) -> FastAPI:
    """Return the application.

    Args:
        served: the version that answers, until another one is put into `app.state.served`.
        lifespan: what goes on while the application runs.
    """
    Image.MAX_IMAGE_PIXELS = MOST_PICTURE_PIXELS
    app = FastAPIOffline(title="mnist", lifespan=lifespan, redoc_url=None)  # FastAPI's own page needs the internet
    app.state.served = served
    app.include_router(router)
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


@router.post("/predict", openapi_extra={"requestBody": BODY}, responses=PROBLEMS)
async def predict(request: Request) -> Answer:
    """Read images given as pixels in JSON, or one picture file as the body, as `mnist predict` would."""
    kind = request.headers.get("content-type", "").lower()
    if kind.startswith("application/json"):
        images = parse_pixels(await read_body(request))
        return _served(request).answer(images)
    if not kind.startswith("image/"):
        raise HTTPException(415, WRONG_TYPE)
    file = io.BytesIO(await read_body(request))
    picture = await anyio.to_thread.run_sync(read_picture, file, Path("the picture"), limiter=ONE_PICTURE)
    answer = _served(request).answer(picture.pixels[np.newaxis])
    answer.notes = doubts(picture, np.array(answer.readings[0].probabilities))
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


def parse_pixels(body: bytes) -> NDArray[np.uint8]:
    """Return the images of a request in JSON, uint8 (n, 28, 28).

    Raises:
        UserError: it is something else; the message names the first place that is wrong, and what is allowed.
    """
    try:
        return np.array(Images.model_validate_json(body).pixels, np.uint8)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "The body"
        reason = first["msg"].replace("Input should", "it should").replace(" after validation", "")
        raise UserError(f"{where}: {reason}; {ALLOWED}") from error


def _served(request: Request) -> Served:
    return request.app.state.served


async def _refuse(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


async def _give_up(_: Request, __: Exception) -> Response:
    return Response(status_code=400)  # nobody is left to read it; without, the log would show a traceback
