"""From a picture file to what a model knows: 28x28 pixels, white ink on black, placed as in MNIST."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.idx import parse_idx
from mnist_pipeline.data.params import IMAGE_SIDE

BOX_SIDE = 20
"""Side of the box that MNIST's digits fill, in pixels."""
FAINT = 0.15
"""Share of the contrast of paper and ink below which a pixel is paper: JPEG's ringing, the paper's grain."""
LEAST_CONTRAST = 16
"""Grey levels between paper and ink below which there is nothing to read."""


@dataclass(frozen=True)
class DigitImage:
    """One image, ready for a model."""

    file: Path
    """Where it came from."""
    pixels: NDArray[np.uint8]
    """(28, 28); 0 is paper, 255 is ink."""
    inverted: bool = False
    """Whether the file showed dark ink on light paper."""
    index: int | None = None
    """Its place in an IDX file; None for a picture."""

    @property
    def name(self) -> str:
        """How to call it in a sentence."""
        return str(self.file) if self.index is None else f"{self.file}[{self.index}]"


def read_digit(path: Path, index: int | None = None) -> DigitImage:
    """Read the picture at `path` or, given an `index` (from 0), one image of the IDX file at `path`.

    Raises:
        UserError: it cannot be read, is too large, shows nothing, or has no image `index`.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of a picture or of an MNIST images file (IDX).")
    return _read_picture(path) if index is None else _read_from_idx(path, index)


def _read_from_idx(path: Path, index: int) -> DigitImage:
    """Read an image of an MNIST images file, uncompressed; its pixels are taken as they are."""
    try:
        images = parse_idx(path.read_bytes(), 3, str(path))
    except UserError as error:
        raise UserError(
            f"{path} is not an MNIST images file (IDX), as --index demands: leave out --index for a picture."
        ) from error
    if images.shape[1:] != (IMAGE_SIDE, IMAGE_SIDE):
        raise UserError(f"{path} holds images of {images.shape[1]}x{images.shape[2]} pixels: give one of 28x28.")
    if not 0 <= index < len(images):
        raise UserError(f"{path} has no image {index}: --index goes from 0 to {len(images) - 1}.")
    return DigitImage(path, images[index].copy(), index=index)


def _read_picture(path: Path) -> DigitImage:
    """Read a picture of one digit: any size, colour and polarity, any format Pillow opens.

    A picture of 28x28 is taken to be like MNIST's already: it is inverted if it is dark on light, otherwise
    left alone. Every other is sized and centred as `fit` says. Paper must be evenly lit: a shadow is ink.
    """
    pixels = _load_grey(path)
    low, high = int(pixels.min()), int(pixels.max())
    if high - low < LEAST_CONTRAST:
        raise UserError(f"{path} shows nothing, only one shade of grey: give a picture of one digit.")
    inverted = _paper(pixels) > (low + high) / 2
    if inverted:
        pixels = 255 - pixels
    return DigitImage(path, pixels if pixels.shape == (IMAGE_SIDE, IMAGE_SIDE) else fit(pixels), inverted)


def fit(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Size and centre a digit, light on dark, uint8 (height, width), as MNIST's were; return uint8 (28, 28).

    The recipe is LeCun's (yann.lecun.com/exdb/mnist): the digit fills a box of 20x20, keeping its aspect
    ratio, with grey levels from anti-aliasing; then its centre of mass is moved to the centre of the field,
    which in MNIST's files is pixel (14, 14), to the nearest whole pixel. Two steps are ours: paper becomes
    exactly 0, and the strongest ink, which thin strokes lose when they shrink, 255 again.
    """
    paper = _paper(pixels)
    ink = np.clip((pixels.astype(np.float32) - paper) / (pixels.max() - paper), 0, 1)
    ink[ink < FAINT] = 0
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = (max(1, round(side * BOX_SIDE / max(ink.shape))) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (_offset(small.sum(axis=1 - axis)) for axis in (0, 1))
    field = np.zeros((IMAGE_SIDE, IMAGE_SIDE), np.uint8)
    field[top : top + height, left : left + width] = np.rint(small * (255 / small.max()))
    return field


def _offset(mass: NDArray[np.float32]) -> int:
    """Return where a digit must begin, along one axis, to have its centre of mass at 14 and lie inside."""
    centre = np.average(np.arange(len(mass)), weights=mass)
    return int(np.clip(round(IMAGE_SIDE / 2 - centre), 0, IMAGE_SIDE - len(mass)))


def _paper(pixels: NDArray[np.uint8]) -> float:
    """Return the brightness of the paper: the median of the outermost pixels."""
    border = (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])
    return float(np.median(np.concatenate(border)))


def _load_grey(path: Path) -> NDArray[np.uint8]:
    """Return the picture upright and in shades of grey, uint8 (height, width)."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture of 90 to 180 million pixels: no drawing of a digit needs that.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                return _grey(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is too large: give a picture below {Image.MAX_IMAGE_PIXELS:,} pixels.") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's plugins raise all three on damaged files.
        raise UserError(
            f"{path} cannot be read as a picture: give a PNG, JPEG, GIF, BMP, TIFF or WebP file, "
            "or an MNIST images file (IDX) together with --index."
        ) from error


def _grey(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        # More than 8 bits, of unknown range: Pillow would cut off everything above 255.
        values = np.asarray(image, np.float64)
        return np.rint((values - values.min()) * (255 / (np.ptp(values) or 1))).astype(np.uint8)
    if not image.has_transparency_data:
        return np.asarray(image.convert("L"))
    image = image.convert("RGBA")
    # Transparent paper is white, unless the ink is white too.
    for paper in ("white", "black"):
        pixels = np.asarray(Image.alpha_composite(Image.new("RGBA", image.size, paper), image).convert("L"))
        if np.ptp(pixels) >= LEAST_CONTRAST:
            break
    return pixels
