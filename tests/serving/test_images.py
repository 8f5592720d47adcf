"""Reading pictures: what a user draws or photographs becomes what MNIST holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from drawings import pen, photograph
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.serving.images import LEAST_CONTRAST, count_items, fit, lift_ink, read_image
from small_project import MNIST

Pixels = NDArray[np.uint8]

quick = settings(max_examples=30, deadline=None)  # no deadline: a busy machine is no failure


def seven(scale: float = 10, shift: tuple[float, float] = (0, 0), field: int = 400) -> Pixels:
    """Draw a 7, white on black: `scale` pixels to the unit, in a square field of `field` pixels."""
    image = Image.new("L", (field, field))
    corners = [(5, 4), (13, 4), (8, 18)]
    line = [(x * scale + shift[0], y * scale + shift[1]) for x, y in corners]
    ImageDraw.Draw(image).line(line, fill=255, width=round(2 * scale), joint="curve")
    return np.asarray(image)


def save(path: Path, pixels: NDArray[np.uint8 | np.uint16], **options: Any) -> Path:
    Image.fromarray(pixels).save(path, **options)
    return path


def prepared(pixels: Pixels) -> Pixels:
    return fit(lift_ink(pixels)[0], MNIST.image_size)


def difference(one: Pixels, other: Pixels) -> float:
    """Mean absolute difference in grey levels."""
    return float(np.abs(one.astype(float) - other).mean())


def test_a_drawing_is_sized_and_centred_as_mnist_s_digits_are(tmp_path: Path) -> None:
    image = read_image(MNIST, save(tmp_path / "seven.png", seven(shift=(150, 90))))
    assert image.pixels.shape == (28, 28)
    assert image.pixels.dtype == np.uint8
    assert not image.inverted
    rows, columns = np.nonzero(image.pixels)
    assert np.ptp(rows) + 1 == 20
    assert np.ptp(columns) + 1 < 20, "the aspect ratio is kept"
    assert image.pixels.max() == 255
    mass = image.pixels / image.pixels.sum()
    assert (mass.sum(axis=1) * np.arange(28)).sum() == pytest.approx(14, abs=0.5)
    assert (mass.sum(axis=0) * np.arange(28)).sum() == pytest.approx(14, abs=0.5)


@quick
@given(
    scale=st.floats(4, 14), horizontal=st.integers(0, 150), vertical=st.integers(0, 100), field=st.integers(400, 600)
)
def test_size_and_place_on_the_paper_do_not_matter(scale: float, horizontal: int, vertical: int, field: int) -> None:
    moved = prepared(seven(scale, (horizontal, vertical), field))
    assert difference(moved, prepared(seven())) < 14  # at most 10.5 in 6,000 draws; other digits are 22 or more away


@pytest.mark.parametrize("side", [28, 200])
def test_dark_on_light_is_inverted_and_said_to_be(tmp_path: Path, side: int) -> None:
    pixels = seven(scale=side / 22, field=side)
    light = read_image(MNIST, save(tmp_path / "light.png", pixels))
    dark = read_image(MNIST, save(tmp_path / "dark.png", 255 - pixels))
    assert (light.inverted, dark.inverted) == (False, True)
    np.testing.assert_array_equal(light.pixels, dark.pixels)


@quick
@given(seed=st.integers(0, 2**32 - 1), peak=st.integers(LEAST_CONTRAST, 255))
def test_a_28x28_image_light_on_dark_is_left_alone(
    tmp_path_factory: pytest.TempPathFactory, seed: int, peak: int
) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[5:22, 3:19] = np.random.default_rng(seed).integers(0, peak, (17, 16), endpoint=True)
    pixels[10, 10] = peak
    folder = tmp_path_factory.mktemp("mnist")
    grey = read_image(MNIST, save(folder / "digit.png", pixels))
    colour = read_image(MNIST, save(folder / "colour.png", np.repeat(pixels[:, :, None], 3, axis=2)))
    for image in (grey, colour):
        np.testing.assert_array_equal(image.pixels, pixels)
        assert not image.inverted


def test_jpeg_noise_and_grey_paper_hardly_matter(tmp_path: Path) -> None:
    paper_and_ink = (180 - seven() * (140 / 255)).astype(np.uint8)
    image = read_image(MNIST, save(tmp_path / "photo.jpg", paper_and_ink, quality=50))
    assert image.inverted
    assert difference(image.pixels, prepared(seven())) < 6


@pytest.mark.parametrize("ink", ["black", "white", "crimson"])
def test_ink_on_transparent_paper_is_seen(tmp_path: Path, ink: str) -> None:
    drawing = Image.new("RGBA", (400, 400), ink)
    drawing.putalpha(Image.fromarray(seven()))
    drawing.save(tmp_path / "drawing.png")
    image = read_image(MNIST, tmp_path / "drawing.png")
    assert image.inverted == (ink != "white")
    assert difference(image.pixels, prepared(seven())) < 2


def test_a_picture_with_a_palette_and_one_of_16_bits_are_read(tmp_path: Path) -> None:
    Image.fromarray(255 - seven()).convert("P").save(tmp_path / "palette.gif")
    save(tmp_path / "deep.png", 10_000 + seven().astype(np.uint16) * 200)
    for name in ("palette.gif", "deep.png"):
        assert difference(read_image(MNIST, tmp_path / name).pixels, prepared(seven())) < 1


def test_a_camera_held_sideways_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # Orientation: the top of the scene is at the right of the stored picture.
    sideways = np.ascontiguousarray(np.rot90(seven()))
    image = read_image(MNIST, save(tmp_path / "photo.jpg", sideways, exif=exif, quality=95))
    assert difference(image.pixels, prepared(seven())) < 2


def test_a_thin_line_stays_visible(tmp_path: Path) -> None:
    drawing = Image.new("L", (2000, 2000))
    ImageDraw.Draw(drawing).line([(1100, 300), (900, 1700)], fill=255, width=4)
    image = read_image(MNIST, save(tmp_path / "one.png", np.asarray(drawing)))
    assert image.pixels.max() == 255
    assert (image.pixels > 128).sum() >= 15


@pytest.mark.parametrize("shade", [0, 128, 255])
def test_an_empty_page_is_refused(tmp_path: Path, shade: int) -> None:
    path = save(tmp_path / "empty.png", np.full((50, 50), shade, np.uint8))
    with pytest.raises(UserError, match=r"empty\.png shows nothing"):
        read_image(MNIST, path)


def test_a_fully_transparent_picture_is_refused(tmp_path: Path) -> None:
    Image.new("RGBA", (50, 50), (0, 0, 0, 0)).save(tmp_path / "empty.png")
    with pytest.raises(UserError, match="shows nothing"):
        read_image(MNIST, tmp_path / "empty.png")


def test_what_is_no_picture_is_refused_with_the_formats_allowed(tmp_path: Path) -> None:
    text = tmp_path / "letter.png"
    text.write_text("Dear Yann,")
    whole = save(tmp_path / "whole.png", seven()).read_bytes()
    cut = tmp_path / "cut.png"
    cut.write_bytes(whole[: len(whole) // 2])
    for path in (text, cut):
        with pytest.raises(UserError, match=rf"{path.name} cannot be read as a picture: give a PNG, JPEG"):
            read_image(MNIST, path)


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere.png", tmp_path):
        for index in (None, 0):
            with pytest.raises(UserError, match="is not a file"):
                read_image(MNIST, path, index)


@pytest.mark.parametrize("times_the_limit", [1.5, 3])  # Pillow warns above its limit and refuses above twice of it.
def test_a_decompression_bomb_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times_the_limit: float
) -> None:
    path = save(tmp_path / "bomb.png", seven())
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(400 * 400 / times_the_limit))
    with pytest.raises(UserError, match=r"bomb\.png is too large"):
        read_image(MNIST, path)


@pytest.fixture
def idx(tmp_path: Path) -> Path:
    """Three images of 28x28 as MNIST publishes them; image i is all i."""
    path = tmp_path / "t10k-images-idx3-ubyte"
    images = np.repeat(np.arange(3, dtype=np.uint8), 28 * 28)
    path.write_bytes(bytes.fromhex("00000803 00000003 0000001c 0000001c") + images.tobytes())
    return path


def test_an_image_of_an_idx_file_is_taken_as_it_is(idx: Path) -> None:
    image = read_image(MNIST, idx, 2)
    np.testing.assert_array_equal(image.pixels, np.full((28, 28), 2))
    assert not image.inverted
    assert image.name == f"{idx}[2]"


@pytest.mark.parametrize("index", [-1, 3])
def test_an_index_out_of_range_is_refused_with_the_range(idx: Path, index: int) -> None:
    with pytest.raises(UserError, match=f"has no image {index}: --index goes from 0 to 2"):
        read_image(MNIST, idx, index)


def test_a_picture_with_an_index_and_idx_without_one_are_told_apart(tmp_path: Path, idx: Path) -> None:
    with pytest.raises(UserError, match="leave out --index"):
        read_image(MNIST, save(tmp_path / "seven.png", seven()), 0)
    with pytest.raises(UserError, match="together with --index"):
        read_image(MNIST, idx)


@pytest.mark.parametrize("kind", ["gradient", "shadow", "noisy"])
def test_light_and_grain_hardly_change_what_the_model_sees(kind: str) -> None:
    differences: list[float] = []
    for digit in range(10):
        random = np.random.default_rng(digit)
        ink = pen(digit, kind, random)
        plain, found = (prepared(photograph(ink, each, random)) for each in ("plain", kind))
        differences.append(difference(plain, found))
    assert np.mean(differences) < 5, differences  # one that is centred a pixel away differs by 12


def test_a_thin_pen_writes_as_thick_as_mnist_s() -> None:
    thin, thick = (prepared(np.asarray(pen(3, kind, np.random.default_rng(0)))) for kind in ("thin", "plain"))
    assert 0.6 < (thin > 100).sum() / (thick > 100).sum() < 1.6


def test_digits_side_by_side_are_counted_and_strokes_of_one_digit_are_not() -> None:
    four, seven_ = (pen(digit, "plain", np.random.default_rng(digit)) for digit in (4, 7))
    both = Image.new("L", (480, 240))
    both.paste(four, (0, 0))
    both.paste(seven_, (240, 0))
    counts = [count_items(lift_ink(np.asarray(picture))[0]) for picture in (four, seven_, both)]
    assert counts == [1, 1, 2]


OBJECTS = MNIST.model_copy(update={"preparation": "object", "image_size": (24, 32)})
"""Data whose pictures show something before an even background."""


def test_an_object_fills_the_image_light_on_dark_whatever_is_behind_it(tmp_path: Path) -> None:
    pixels = np.full((200, 300), 90, np.uint8)
    pixels[40:100, 150:170] = 250
    light = read_image(OBJECTS, save(tmp_path / "light.png", pixels))
    dark = read_image(OBJECTS, save(tmp_path / "dark.png", 255 - pixels))
    assert (light.inverted, dark.inverted) == (False, True)
    np.testing.assert_array_equal(light.pixels, dark.pixels)
    assert light.pixels.shape == (24, 32)
    rows, columns = np.nonzero(light.pixels)
    assert (np.ptp(rows) + 1, np.ptp(columns) + 1) == (24, 8), "three times as high as it is wide"
    assert light.pixels[0, 0] == 0


def test_an_image_of_the_right_size_before_a_dark_background_is_left_alone(tmp_path: Path) -> None:
    pixels = np.zeros((24, 32), np.uint8)
    pixels[2:22, :] = np.arange(32) * 8
    image = read_image(OBJECTS, save(tmp_path / "image.png", pixels))
    np.testing.assert_array_equal(image.pixels, pixels)


def test_strokes_are_centred_in_images_of_other_shapes(tmp_path: Path) -> None:
    wide = MNIST.model_copy(update={"image_size": (28, 42)})
    image = read_image(wide, save(tmp_path / "seven.png", seven(shift=(150, 90))))
    assert image.pixels.shape == (28, 42)
    rows, columns = np.nonzero(image.pixels)
    assert np.ptp(rows) + 1 == 20
    assert np.average(columns, weights=image.pixels[rows, columns]) == pytest.approx(21, abs=0.5)


def test_a_picture_of_one_shade_is_refused_whatever_the_preparation(tmp_path: Path) -> None:
    grey = save(tmp_path / "grey.png", np.full((50, 50), 128, np.uint8))
    for preparation in ("object", "picture"):
        with pytest.raises(UserError, match="only one shade of grey: give a picture of one digit"):
            read_image(MNIST.model_copy(update={"preparation": preparation}), grey)
