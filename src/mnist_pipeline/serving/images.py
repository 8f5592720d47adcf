"""From a picture file to what a model knows: grey pixels of one size, prepared as `data.preparation` says."""

import warnings
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from scipy.ndimage import distance_transform_edt, gaussian_filter, grey_dilation, label

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.data.idx import parse_idx
from mnist_pipeline.data.params import Data, FolderSource
from mnist_pipeline.data.pictures import to_grey

BOX = Fraction(20, 28)
"""Share of an image's height and width that MNIST's digits fill: 20 of 28 pixels."""
FAINT = 0.15
"""Share of the contrast of paper and ink below which a pixel is paper: JPEG's ringing, the paper's grain."""
WORKING_SIDE = 280
"""A larger picture of strokes is reduced to this: ten times the pixels that are left of MNIST's in the end."""
BLUR = 0.004
"""Share of the picture's longer side over which grain is averaged."""
POWERS = sorted([(i, j) for i in range(4) for j in range(4 - i)], key=sum)
"""Powers of x and y in a polynomial of third degree, the plane's first."""
RIM = 0.1
"""Share of half the picture's side that is taken for paper at first."""
LEAST_CONTRAST = 16
"""Grey levels between paper and ink below which there is nothing to read."""


@dataclass(frozen=True)
class InputImage:
    """One image, ready for a model."""

    file: Path
    """Where it came from."""
    pixels: NDArray[np.uint8]
    """(height, width)."""
    inverted: bool = False
    """Whether the file was dark on light, and must be light on dark."""
    index: int | None = None
    """Its place in an IDX file; None for a picture."""
    items: int = 1
    """How many items seem to stand side by side."""

    @property
    def name(self) -> str:
        """How to call it in a sentence."""
        return str(self.file) if self.index is None else f"{self.file}[{self.index}]"


def read_image(data: Data, path: Path, index: int | None = None) -> InputImage:
    """Read the picture at `path` or, given an `index` (from 0), one image of the IDX file at `path`.

    Raises:
        UserError: it cannot be read, is too large, shows nothing, or has no image `index`.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a file: give the path of a picture or of an IDX file of images.")
    return read_picture(data, path, path) if index is None else _read_from_idx(data, path, index)


def _read_from_idx(data: Data, path: Path, index: int) -> InputImage:
    """Read an image of an IDX file, uncompressed; its pixels are taken as they are."""
    try:
        images = parse_idx(path.read_bytes(), 3, str(path))
    except UserError as error:
        raise UserError(
            f"{path} is not an IDX file of images, as --index demands: leave out --index for a picture."
        ) from error
    if images.shape[1:] != data.image_size:
        found, wanted = ("x".join(map(str, size)) for size in (images.shape[1:], data.image_size))
        raise UserError(f"{path} holds images of {found} pixels: give one of {wanted}.")
    if not 0 <= index < len(images):
        raise UserError(f"{path} has no image {index}: --index goes from 0 to {len(images) - 1}.")
    return InputImage(path, images[index].copy(), index=index)


def read_picture(data: Data, source: Path | BinaryIO, path: Path) -> InputImage:
    """Read a picture of one item: any size, colour, light and polarity, any format Pillow opens.

    A picture of the images' own size is taken to be one of them already: at most it is inverted.

    Args:
        data: what the model knows, and how a picture becomes one of these images.
        source: the file.
        path: what to call it.

    Raises:
        UserError: it cannot be read, is too large or shows nothing.
    """
    background = data.source.background if isinstance(data.source, FolderSource) else "black"
    pixels = _load_grey(source, path, background if data.preparation == "picture" else "white")
    if data.preparation == "strokes" and pixels.shape != data.image_size:
        ink, inverted = lift_ink(pixels)
        if not ink.any():
            raise UserError(f"{path} shows nothing but paper: give a picture of one {data.item}.")
        return InputImage(path, fit(ink, data.image_size), inverted, items=count_items(ink))
    if np.ptp(pixels) < LEAST_CONTRAST:
        raise UserError(f"{path} shows nothing, only one shade of grey: give a picture of one {data.item}.")
    if data.preparation == "picture":
        pixels = 255 - pixels if background == "white" else pixels
        return InputImage(path, _resize(pixels, data.image_size, round(float(np.median(_rim(pixels))))))
    if pixels.shape == data.image_size:
        inverted = bool(np.median(_rim(pixels)) > (int(pixels.min()) + int(pixels.max())) / 2)
        return InputImage(path, 255 - pixels if inverted else pixels, inverted)
    return InputImage(path, *cut_out(pixels, data.image_size))


def cut_out(pixels: NDArray[np.uint8], size: tuple[int, int]) -> tuple[NDArray[np.uint8], bool]:
    """Let what stands before an even background fill an image of `size`, light on dark; say whether it was inverted.

    Pixels are uint8 (height, width), with some contrast.
    """
    background = int(np.median(_rim(pixels)))
    difference = pixels.astype(int) - background
    inverted = bool(-difference.min() > difference.max())
    rows, columns = (
        np.flatnonzero((abs(difference) > FAINT * abs(difference).max()).any(axis=axis)) for axis in (1, 0)
    )
    light = np.clip(-difference if inverted else difference, 0, 255).astype(np.uint8)
    return _resize(light[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1], size, 0), inverted


def _resize(pixels: NDArray[np.uint8], size: tuple[int, int], background: int) -> NDArray[np.uint8]:
    """Bring a picture to a height and width; it keeps its aspect ratio, and the rest becomes background."""
    height, width = size
    image = ImageOps.pad(Image.fromarray(pixels), (width, height), Image.Resampling.BILINEAR, background)
    return np.asarray(image)


def _rim(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]])


def lift_ink(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float32], bool]:
    """Take away the paper, however unevenly it is lit: a smooth surface is fitted to what is not ink.

    Args:
        pixels: shades of grey, uint8 (height, width).

    Returns:
        The ink, float32 (height, width) of a picture no larger than `WORKING_SIDE`, 0 for paper and 1 for the strongest
        ink, all 0 if there is none; and whether it was darker than the paper.
    """
    picture = Image.fromarray(pixels)
    picture.thumbnail((WORKING_SIDE, WORKING_SIDE), Image.Resampling.BOX)
    grey: Any = gaussian_filter(np.asarray(picture, np.float32), max(picture.size) * BLUR)
    paper, spread = _paper(grey)
    beyond = grey - paper
    strongest = [float(np.percentile(side * beyond, 99.9)) for side in (1, -1)]
    mass = [float(np.clip(side * beyond - 4 * spread, 0, None).sum()) for side in (1, -1)]
    inverted = mass[1] > mass[0]
    if strongest[inverted] < max(LEAST_CONTRAST, 6 * spread):
        return np.zeros(grey.shape, np.float32), inverted
    if inverted:  # ink swallows a share of the light, so it differs less from the paper where there is less of it
        beyond = beyond / -np.maximum(paper, 1)
    strength = float(np.percentile(beyond, 99.9))
    ink = np.clip(beyond / strength, 0, 1)
    ink[ink < max(FAINT, 4 * spread / strongest[inverted])] = 0
    return _without_specks(ink), inverted


def _paper(grey: NDArray[np.float32]) -> tuple[NDArray[np.float32], float]:
    """Return how bright the paper is in each pixel, also below the ink, and the spread of its grain.

    It is a polynomial of third degree, fitted by least squares to the outermost pixels first and then, again and again,
    to all that lie near it.
    """
    y, x = np.meshgrid(*(np.linspace(-1, 1, side, dtype=np.float32) for side in grey.shape), indexing="ij")
    terms = np.stack([x**i * y**j for i, j in POWERS], axis=-1)
    few, seen = terms[::4, ::4], grey[::4, ::4]  # enough for what is smooth
    near = np.maximum(np.abs(x), np.abs(y))[::4, ::4] > 1 - RIM
    count, spread = 3, 1.0  # a plane to begin with: the rim says nothing of the middle
    weights = np.zeros(len(POWERS), np.float32)
    for _ in range(12):
        weights[:count] = np.linalg.lstsq(few[near][:, :count], seen[near], rcond=None)[0]
        distance = np.abs(seen - few @ weights)
        spread, count = 1.5 * float(np.median(distance[near])) + 0.5, len(POWERS)
        near = distance < 3 * spread
    return (terms @ weights).astype(np.float32), spread


def _without_specks(ink: NDArray[np.float32]) -> NDArray[np.float32]:
    """Remove what is no stroke: specks, and what reaches in from the rim, as a shadow does."""
    parts, count = _label(ink > 0)
    mass = np.bincount(parts.ravel(), ink.ravel(), count + 1)
    keep = mass >= mass.max() / 30
    keep[np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))] = False
    keep[mass.argmax()] = True
    return np.where(keep[parts], ink, 0).astype(np.float32)


def _label(mask: NDArray[np.bool]) -> tuple[NDArray[np.int32], int]:
    """Number the connected parts of a mask from 1, corners touching included; return how many there are, too."""
    parts: Any = label(mask, np.ones((3,) * mask.ndim))
    return parts


def count_items(ink: NDArray[np.float32]) -> int:
    """Return how many items stand side by side: groups of strokes at least half as tall as all, with paper between."""
    columns: Any = (ink > 0).any(axis=0)
    groups, count = _label(columns)
    tallest = np.ptp(np.flatnonzero((ink > 0).any(axis=1))) + 1
    heights = [np.ptp(np.flatnonzero((ink[:, groups == group] > 0).any(axis=1))) + 1 for group in range(1, count + 1)]
    return sum(int(height >= tallest / 2) for height in heights)


def fit(ink: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.uint8]:
    """Size and centre ink, float (height, width), 0 for paper, as MNIST's digits were; return uint8 of `size`.

    The recipe is LeCun's (yann.lecun.com/exdb/mnist): the digit fills a box of 20x20 of 28x28 pixels, keeping its
    aspect ratio, with grey levels from anti-aliasing; then its centre of mass is moved to the centre of the field,
    which in MNIST's files is pixel (14, 14), to the nearest whole pixel. Two steps are ours: strokes thinner than
    a pen of MNIST's are made as thick, and the strongest ink becomes 255 again.
    """
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    ink = _thicken(ink, _shrinkage(ink, size))
    shrink = _shrinkage(ink, size)  # thicker strokes reach further
    height, width = (max(1, round(side / shrink)) for side in ink.shape)
    small = np.asarray(Image.fromarray(ink).resize((width, height), Image.Resampling.BILINEAR))
    top, left = (_offset(small.sum(axis=1 - axis), size[axis]) for axis in (0, 1))
    field = np.zeros(size, np.uint8)
    field[top : top + height, left : left + width] = np.rint(small * (255 / small.max()))
    return field


def _shrinkage(ink: NDArray[np.float32], size: tuple[int, int]) -> Fraction:
    """Return how many times smaller ink gets in its box of an image of this size."""
    return max(Fraction(have) / (whole * BOX) for have, whole in zip(ink.shape, size, strict=True))


def _thicken(ink: NDArray[np.float32], shrink: Fraction) -> NDArray[np.float32]:
    """Make strokes as thick as two pixels of the finished image, which is smaller by `shrink`, if they are thinner."""
    wanted = float(2 * shrink)
    depth: Any = distance_transform_edt(np.pad(ink > 0, 1))  # how far each pixel of a stroke is from paper
    missing = round(wanted - 2 * float(np.percentile(depth[1:-1, 1:-1][ink > 0], 90)))
    thick: Any = grey_dilation(np.pad(ink, missing), (missing + 1,) * 2) if missing > 0 else ink
    return thick


def _offset(mass: NDArray[np.float32], length: int) -> int:
    """Return where ink must begin, along an axis of this length, to have its centre of mass in the middle."""
    centre = np.average(np.arange(len(mass)), weights=mass)
    return int(np.clip(round(length / 2 - centre), 0, length - len(mass)))


def _load_grey(source: Path | BinaryIO, path: Path, paper: str) -> NDArray[np.uint8]:
    """Return the picture upright and in shades of grey, uint8 (height, width), on paper of this colour."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns of a picture of 90 to 180 million pixels: nothing of ours needs that.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                return _grey(ImageOps.exif_transpose(image), paper)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise UserError(f"{path} is too large: give a picture below {Image.MAX_IMAGE_PIXELS:,} pixels.") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's plugins raise all three on damaged files.
        raise UserError(
            f"{path} cannot be read as a picture: give a PNG, JPEG, GIF, BMP, TIFF or WebP file"
            f"{', or an IDX file of images together with --index' if source is path else ''}."
        ) from error


def _grey(image: Image.Image, paper: str) -> NDArray[np.uint8]:
    if image.mode.startswith(("I", "F")):
        # More than 8 bits, of unknown range: Pillow would cut off everything above 255.
        values = np.asarray(image, np.float64)
        return np.rint((values - values.min()) * (255 / (np.ptp(values) or 1))).astype(np.uint8)
    pixels = to_grey(image, paper)
    # Transparent paper has the other colour only where nothing could be seen on this one.
    return pixels if np.ptp(pixels) >= LEAST_CONTRAST else to_grey(image, "black" if paper == "white" else "white")
