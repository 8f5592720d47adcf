"""Drawings of digits: two halves of sixty, of six kinds with ten digits each, made by fonts and by strokes of a pen.

`python tests/serving/drawings.py FOLDER` writes them as PNG files. The preparation of pictures was tuned on the first
half, before anyone or any model had looked at the second.
"""

import sys
from pathlib import Path

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SIDE = 240
HALF = 60
"""Number of drawings in each half."""
KINDS = ("plain", "gradient", "shadow", "noisy", "rotated", "thin")
FONTS = ("DejaVuSans.ttf", "DejaVuSerif.ttf", "DejaVuSansMono.ttf", "STIXGeneral.ttf", "cmss10.ttf")
STROKES: dict[int, list[list[tuple[float, float]]]] = {
    0: [[(5, 0), (1, 3), (0, 8), (2, 14), (5, 16), (8, 14), (10, 8), (9, 3), (5, 0)]],
    1: [[(4, 2), (6, 0), (5, 16)]],
    2: [[(1, 3), (5, 0), (9, 3), (8, 7), (1, 15), (0, 16), (10, 16)]],
    3: [[(1, 1), (6, 0), (9, 3), (7, 7), (4, 8), (8, 9), (10, 13), (6, 16), (1, 15)]],
    4: [[(6, 0), (0, 10), (10, 10)], [(7, 6), (6, 16)]],
    5: [[(2, 0), (1, 7), (6, 6), (9, 9), (9, 13), (5, 16), (1, 14)], [(2, 0), (9, 0)]],
    6: [[(7, 0), (3, 5), (1, 10), (2, 15), (6, 16), (9, 13), (8, 10), (5, 9), (1, 12)]],
    7: [[(0, 1), (10, 0), (6, 8), (4, 16)]],
    8: [[(8, 2), (5, 0), (2, 2), (3, 6), (8, 10), (9, 14), (5, 16), (1, 14), (2, 10), (7, 6), (8, 2)]],
    9: [[(9, 3), (5, 0), (1, 3), (2, 7), (6, 8), (9, 4), (9, 3), (8, 10), (7, 16)]],
}
"""The ten digits as a pen draws them, in a box of 10 by 16."""


def draw(number: int) -> tuple[NDArray[np.uint8], int]:
    """Return a drawing, dark ink on light paper, uint8 (240, 240), and its digit; number 0 to 119."""
    random, digit, kind = np.random.default_rng(number), number % 10, KINDS[number % HALF // 10]
    by_pen = kind == "thin" or (number // 10 + digit + number // HALF) % 2
    ink = pen(digit, kind, random) if by_pen else font(digit, random)
    angle = random.uniform(10, 18) * random.choice([-1, 1]) if kind == "rotated" else random.uniform(-4, 4)
    return photograph(ink.rotate(angle, Image.Resampling.BICUBIC), kind, random), digit


def photograph(ink: Image.Image, kind: str, random: np.random.Generator) -> NDArray[np.uint8]:
    """Return the picture of ink, 255 where it is, on paper in the light and with the noise of its kind."""
    x, y = np.meshgrid(np.linspace(-1, 1, SIDE), np.linspace(-1, 1, SIDE))
    paper = np.full((SIDE, SIDE), random.uniform(190, 245))
    if kind == "gradient":
        direction = random.uniform(0, 2 * np.pi)
        paper *= 0.65 + 0.35 * (x * np.cos(direction) + y * np.sin(direction)) / np.sqrt(2)
    if kind == "shadow":
        centre = random.uniform(-1, 1, 2)
        paper *= 1 - 0.5 * np.exp(-((x - centre[0]) ** 2 + (y - centre[1]) ** 2) / 1.2)
    darkness = random.uniform(0.55, 0.9)
    picture = paper * (1 - darkness * np.asarray(ink, float) / 255)
    if kind in ("noisy", "gradient"):
        picture += random.normal(0, 14 if kind == "noisy" else 6, picture.shape)
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def pen(digit: int, kind: str, random: np.random.Generator) -> Image.Image:
    """Draw a digit by hand: with slant, size, place and a little unrest."""
    image = Image.new("L", (SIDE, SIDE))
    scale, slant = random.uniform(6, 9.5), random.uniform(-0.25, 0.05)
    left, top = random.uniform(40, 80), random.uniform(30, 60)
    width = round(random.uniform(2, 3) if kind == "thin" else random.uniform(8, 16))
    for stroke in STROKES[digit]:
        points = np.array(stroke) + random.normal(0, 0.25, (len(stroke), 2))
        line = [(left + scale * (px + slant * (py - 8)), top + scale * py) for px, py in _smooth(points)]
        ImageDraw.Draw(image).line(line, fill=255, width=width, joint="curve")
        for px, py in (line[0], line[-1]):
            ImageDraw.Draw(image).ellipse([px - width / 2, py - width / 2, px + width / 2, py + width / 2], fill=255)
    return image


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round the corners of a polyline (Chaikin, twice); its ends stay."""
    for _ in range(2):
        before, after = points[:-1], points[1:]
        cut = np.stack([0.75 * before + 0.25 * after, 0.25 * before + 0.75 * after], axis=1).reshape(-1, 2)
        points = np.concatenate([points[:1], cut, points[-1:]])
    return points


def font(digit: int, random: np.random.Generator) -> Image.Image:
    """Write a digit in one of matplotlib's fonts."""
    image = Image.new("L", (SIDE, SIDE))
    fonts = Path(mpl.get_data_path()) / "fonts" / "ttf"
    face = ImageFont.truetype(str(fonts / str(random.choice(FONTS))), random.uniform(90, 170))
    place = (random.uniform(50, 90), random.uniform(10, 50))
    ImageDraw.Draw(image).text(place, str(digit), 255, face)
    return image


def main() -> None:
    """Write all drawings into a folder."""
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(2 * HALF):
        pixels, digit = draw(number)
        Image.fromarray(pixels).save(folder / f"{number:03}-{digit}-{KINDS[number % HALF // 10]}.png")


if __name__ == "__main__":
    main()
