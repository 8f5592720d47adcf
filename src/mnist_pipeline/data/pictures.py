"""A folder of pictures, packed into the files of `data/raw` one picture at a time, whatever their number."""

import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from rich.progress import Progress

from mnist_pipeline.core.console import console
from mnist_pipeline.core.errors import UserError, did_you_mean
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.data.idx import Part, header, images_name, labels_name
from mnist_pipeline.data.params import Data, FolderSource

Add = Callable[[NDArray[np.uint8], int, str], None]
"""Appends an image, its label and its name."""


def names_file(part: Part) -> str:
    """Return the name of the file that lists the pictures behind the images of `part`, one a line."""
    return f"{part}-pictures.txt"


def pack(folder: Path, raw: Path, data: Data, source: FolderSource) -> Counter[str]:
    """Write the pictures of `folder` into `raw`: IDX files of images and labels, and the list of the pictures.

    The same pictures give the same bytes: classes come in the order of `data.classes`, pictures in that of their names.

    Returns:
        How many images each part has, and how many pictures were converted to grey from each of Pillow's modes.

    Raises:
        UserError: the folder is not as `source` says, a picture is unreadable or of another size, or a class has too
            few; the message names the file or folder.
    """
    counts, screen = Counter[str](), console(stderr=True)
    halves = _halves(folder, data, source)
    with (
        _writer(raw, "train", data.image_size) as add_train,
        _writer(raw, "t10k", data.image_size) as add_test,
        Progress(console=screen, transient=True, disable=not screen.is_terminal) as progress,
    ):
        add, bar = {"train": add_train, "t10k": add_test}, progress.add_task("")
        for label, name in enumerate(data.classes):
            for part, pictures in _pictures(halves, name, source.test_share).items():
                progress.reset(bar, description=f"{name} ({part})", total=len(pictures))
                for path in pictures:
                    pixels, mode = read_picture(path, data.image_size, source.background)
                    add[part](pixels, label, path.relative_to(folder).as_posix())
                    counts[part] += 1
                    counts[mode] += mode not in ("1", "L")
                    progress.advance(bar)
    return +counts


def _halves(folder: Path, data: Data, source: FolderSource) -> dict[Part, Path]:
    """Return the folders that hold the subfolders of the classes; only one if `test_share` is to divide it."""
    if not folder.is_dir():
        raise UserError(f"params.yaml: data.source.path (found {source.path!r}): {folder} is no folder.")
    halves: dict[Part, Path] = {"train": folder / "train", "t10k": folder / "test"}
    if not all(half.is_dir() for half in halves.values()):
        halves = {"train": folder}
    if (len(halves) == 1) != (source.test_share is not None):
        state = "has no folders `train` and `test`: add" if len(halves) == 1 else "has a folder `test`: remove"
        raise UserError(f"{folder} {state} data.source.test_share in params.yaml.")
    for half in halves.values():
        found = {path.name for path in half.iterdir() if path.is_dir() and not path.name.startswith(".")}
        for name in sorted(found.difference(data.classes)):
            hint = did_you_mean(name, data.classes)
            raise UserError(
                f"{half / name} is no class: {hint}rename it, move it away, or add it to data.classes in params.yaml."
            )
        for name in data.classes:
            if name not in found:
                raise UserError(f"{half} has no folder {name}, which is a class in params.yaml: add it.")
    return halves


def _pictures(halves: Mapping[Part, Path], name: str, test_share: float | None) -> dict[Part, list[Path]]:
    """Return the pictures of a class in each part, by name."""
    found: dict[Part, list[Path]] = {part: _listed(half / name) for part, half in halves.items()}
    if test_share is not None:
        pictures = found["train"]
        size = round(len(pictures) * test_share)
        if not 0 < size < len(pictures):
            raise UserError(
                f"{halves['train'] / name} has {len(pictures)} pictures: a data.source.test_share of {test_share:g} "
                "leaves none for test or for train; add pictures or change the share in params.yaml."
            )
        chosen = set(sorted(pictures, key=_draw)[:size])
        found = {"train": [each for each in pictures if each not in chosen], "t10k": sorted(chosen)}
    return found


def _draw(picture: Path) -> bytes:
    """Return what decides whether a picture is in the test split: its name alone, as if by chance."""
    return blake2b(picture.name.encode()).digest()


def _listed(folder: Path) -> list[Path]:
    pictures = list[Path]()
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir():
                raise UserError(f"{entry.path} is a folder, but a class is one of pictures: move what is in it up.")
            if not entry.name.startswith("."):  # what file managers leave
                pictures.append(folder / entry.name)
    if not pictures:
        raise UserError(f"{folder} is empty: add pictures of this class.")
    return sorted(pictures)


def read_picture(path: Path, size: tuple[int, int], background: str) -> tuple[NDArray[np.uint8], str]:
    """Read a picture upright and in shades of grey, its background black.

    Args:
        path: the file, in any format that Pillow reads.
        size: height and width that it must have, in pixels.
        background: `black`, or `white`, of pictures that are inverted; transparency takes this colour.

    Returns:
        The pixels, uint8 (height, width), and the file's mode in Pillow's words: `L` is grey, `RGB` colour.

    Raises:
        UserError: it cannot be read, has another size or more than 8 bits a pixel.
    """
    try:
        with Image.open(path) as image:
            mode, pixels = image.mode, image.width * image.height
            if pixels == size[0] * size[1]:  # others are refused before they are unpacked
                image = ImageOps.exif_transpose(image)
            if (image.height, image.width) != size:
                raise UserError(
                    f"{path} has {image.height}x{image.width} pixels (height x width), but data.image_size in "
                    f"params.yaml is {[*size]}: resize the picture, or correct image_size."
                )
            if mode.startswith(("I", "F")):  # which of its values are black and white, only its owner knows
                raise UserError(f"{path} has more than 8 bits a pixel (Pillow's mode {mode}): convert it to 8 bits.")
            grey = to_grey(image, background)
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:  # as Pillow's plugins have it
        raise UserError(f"{path} cannot be read as a picture: replace or remove it.") from error
    return (255 - grey if background == "white" else grey), mode


def to_grey(image: Image.Image, paper: str) -> NDArray[np.uint8]:
    """Return a picture in shades of grey, uint8 (height, width); where it is transparent, it lies on such paper."""
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, paper), image)
    return np.asarray(image.convert("L"))


@contextmanager
def _writer(raw: Path, part: Part, size: tuple[int, int]) -> Generator[Add]:
    """Yield what adds an image to the files of a part, which are there when all is well in the end."""
    with (
        atomic_path(raw / images_name(part)) as images_path,
        atomic_path(raw / labels_name(part)) as labels_path,
        atomic_path(raw / names_file(part)) as names_path,
        images_path.open("wb") as images,
        labels_path.open("wb") as labels,
        names_path.open("wb") as names,
    ):
        count = 0

        def write_headers() -> None:
            images.seek(0)
            images.write(header(count, *size))
            labels.seek(0)
            labels.write(header(count))

        def add(pixels: NDArray[np.uint8], label: int, name: str) -> None:
            nonlocal count
            images.write(pixels.tobytes())
            labels.write(bytes([label]))
            names.write(f"{name}\n".encode())
            count += 1

        write_headers()
        yield add
        write_headers()
