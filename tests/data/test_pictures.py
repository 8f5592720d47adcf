"""A folder of pictures becomes the same files as any other source, or one sentence names what is wrong with it."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from ruamel.yaml import YAML

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_json
from mnist_pipeline.data.dataset import load_test, load_train, load_validation
from mnist_pipeline.data.idx import Part, read_part
from mnist_pipeline.data.params import Split, load_data
from mnist_pipeline.data.pictures import read_picture
from mnist_pipeline.stages import download, split

CLASSES = ("bar", "cross", "disc", "ring")
SIZE = (20, 24)
COUNT = 12


def shades(seed: int) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, SIZE, dtype=np.uint8)


def draw(folder: Path, seed: int = 0) -> None:
    """Write `COUNT` pictures of each class."""
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(COUNT):
            Image.fromarray(shades(seed + COUNT * label + index)).save(folder / name / f"{index:02}.png")


def project_of(folder: Path, **source: Any) -> Project:
    """Return a project whose params.yaml names the folder `pictures` beside it."""
    data = {
        "name": "shapes", "title": "Shapes", "item": "shape", "classes": [*CLASSES], "image_size": [*SIZE],
        "preparation": "picture", "source": {"format": "folder", "path": "pictures", "background": "black"} | source,
    }  # fmt: skip
    YAML().dump({"data": data}, folder / "params.yaml")
    return Project(root=folder, top=folder, home=folder)


@pytest.fixture
def flat(tmp_path: Path) -> Project:
    """A project with one folder per class, a quarter of which is for test."""
    draw(tmp_path / "pictures")
    return project_of(tmp_path, test_share=0.25)


@pytest.fixture
def divided(tmp_path: Path) -> Project:
    """A project with folders `train` and `test`."""
    draw(tmp_path / "pictures" / "train")
    draw(tmp_path / "pictures" / "test", seed=1000)
    return project_of(tmp_path)


def contents(project: Project) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in project.raw.iterdir()}


def test_folders_of_train_and_test_pictures_are_taken_in_the_order_of_their_names(divided: Project) -> None:
    download.run(divided)
    seeds: dict[Part, int] = {"train": 0, "t10k": 1000}
    for part, seed in seeds.items():
        images, labels = read_part(divided.raw, part, load_data(divided))
        np.testing.assert_array_equal(labels, np.repeat(np.arange(len(CLASSES)), COUNT))
        for index, image in enumerate(images):
            np.testing.assert_array_equal(image, shades(seed + index))
    listed = (divided.raw / "t10k-pictures.txt").read_text().splitlines()
    assert listed == [f"test/{name}/{index:02}.png" for name in CLASSES for index in range(COUNT)]


def test_where_there_is_no_test_folder_the_names_of_the_files_choose_and_more_pictures_change_little(
    flat: Project, capsys: pytest.CaptureFixture[str]
) -> None:
    def tested() -> set[str]:
        return {*(flat.raw / "t10k-pictures.txt").read_text().splitlines()}

    download.run(flat)
    assert "48 pictures of pictures are in" in (said := capsys.readouterr().out)
    assert "12 of them for test." in said
    images, labels = read_part(flat.raw, "t10k", load_data(flat))
    assert np.bincount(labels).tolist() == [3, 3, 3, 3]
    before, learned = tested(), {*(flat.raw / "train-pictures.txt").read_text().splitlines()}
    assert len(before | learned) == 48
    assert {image.tobytes() for image in images} == {
        np.asarray(Image.open(flat.top / "pictures" / name)).tobytes() for name in before
    }
    for name in CLASSES:
        shutil.copy(flat.top / "pictures" / name / "00.png", flat.top / "pictures" / name / "more.png")
    download.run(flat)
    assert len(before - tested()) <= len(CLASSES)


def test_the_same_pictures_give_the_same_bytes(flat: Project, tmp_path: Path) -> None:
    download.run(flat)
    first = contents(flat)
    assert len(first) == 6
    other = tmp_path / "other"
    for name in sorted((flat.top / "pictures").rglob("*.png"), reverse=True):  # created in another order
        copy = other / name.relative_to(flat.top)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(name, copy)
    again = project_of(other, test_share=0.25)
    download.run(again)
    assert contents(again) == first
    (other / "pictures" / "disc" / ".DS_Store").write_text("left by a file manager")
    download.run(again)
    assert contents(again) == first


def test_pictures_go_the_way_of_other_images_and_what_is_in_two_subsets_is_counted(flat: Project) -> None:
    for index in range(COUNT):
        shutil.copy(flat.top / "pictures/bar/00.png", flat.top / f"pictures/bar/copy-{index:02}.png")
    download.run(flat)
    split.run(flat, Split(validation_size=8, seed=0))
    sizes = [len(load(flat.split)) for load in (load_train, load_validation, load_test)]
    assert sizes == [37, 8, 15]
    assert load_train(flat.split).images.shape[1:] == SIZE
    counts = pd.read_csv(flat.class_counts)
    assert counts.query("subset == 'test'").set_index("label")["images"].to_dict() == dict(
        zip(CLASSES, (6, 3, 3, 3), strict=True)
    )
    duplicates = read_json(flat.split_summary, dict[str, Any], "")["duplicates"]
    assert sum(count for pair, count in duplicates.items() if "_in_" in pair) > 0
    assert duplicates["train"] > 0


# --- one picture


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def test_colour_becomes_grey_and_is_said_with_a_count(flat: Project, capsys: pytest.CaptureFixture[str]) -> None:
    colour = Image.merge("RGB", [Image.fromarray(shades(seed)) for seed in range(3)])
    colour.save(flat.top / "pictures/bar/03.png")
    colour.quantize(16).save(flat.top / "pictures/bar/04.png")
    colour.save(flat.top / "pictures/ring/05.png")
    download.run(flat)
    assert "; 3 were converted to grey (1 P, 2 RGB)." in capsys.readouterr().out
    pixels, _ = read_picture(flat.top / "pictures/bar/03.png", SIZE, "black")
    np.testing.assert_array_equal(pixels, np.asarray(colour.convert("L")))


def test_on_white_pictures_are_inverted_and_transparency_is_background(tmp_path: Path) -> None:
    grey = Image.fromarray(shades(0))
    path = saved(tmp_path / "grey.png", grey)
    np.testing.assert_array_equal(read_picture(path, SIZE, "white")[0], 255 - shades(0))
    clear = Image.merge("LA", [grey, Image.new("L", grey.size, 0)])
    path = saved(tmp_path / "clear.png", clear)
    for background in ("black", "white"):
        assert not read_picture(path, SIZE, background)[0].any()


def test_a_photograph_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn clockwise to see it
    lying = Image.fromarray(np.rot90(shades(0)))
    pixels, _ = read_picture(saved(tmp_path / "a.png", lying, exif=exif), SIZE, "black")
    np.testing.assert_array_equal(pixels, shades(0))


BOMB = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\1\0\0\0\1\0\0\x08\0\0\0\0"  # says that it has 65,536 x 65,536 pixels
BAD_PICTURES: dict[str, tuple[Callable[[Path], object], str]] = {
    "text": (lambda path: path.write_text("a note"), "cannot be read as a picture: replace or remove it"),
    "empty": (lambda path: path.write_bytes(b""), "cannot be read as a picture"),
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cannot be read as a picture"),
    "a bomb": (lambda path: path.write_bytes(BOMB + bytes(20)), "cannot be read as a picture"),
    "gone astray": (lambda path: (path.unlink(), path.symlink_to("nowhere")), "cannot be read as a picture"),
    "another size": (
        lambda path: Image.new("L", (30, 20)).save(path),
        r"has 20x30 pixels \(height x width\), but data\.image_size in params\.yaml is \[20, 24\]: resize",
    ),
    "lying": (lambda path: Image.new("L", SIZE).save(path), "has 24x20 pixels"),
    "16 bits": (
        lambda path: Image.fromarray(np.zeros(SIZE, np.uint16)).save(path),
        r"has more than 8 bits a pixel \(Pillow's mode I;16\): convert it to 8 bits",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_a_picture_that_cannot_be_used_is_named_and_nothing_is_written(
    spoil: Callable[[Path], object], said: str, flat: Project
) -> None:
    spoil(path := flat.top / "pictures" / "disc" / "07.png")
    with pytest.raises(UserError, match=said) as caught:
        download.run(flat)
    assert str(caught.value).startswith(f"{path} ")
    assert "\n" not in str(caught.value)
    assert list(flat.raw.iterdir()) == []


# --- the folder


def _empty(folder: Path) -> None:
    for path in (folder / "disc").iterdir():
        path.unlink()


def _single(folder: Path) -> None:
    for path in sorted((folder / "disc").iterdir())[1:]:
        path.unlink()


BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], str]] = {
    "none": (shutil.rmtree, r"^params\.yaml: data\.source\.path \(found 'pictures'\): .*/pictures is no folder\.$"),
    "a class is missing": (
        lambda folder: shutil.rmtree(folder / "disc"),
        "/pictures has no folder disc, which is a",
    ),
    "a class is empty": (_empty, "/pictures/disc is empty: add pictures of this class"),
    "too few": (_single, r"/pictures/disc has 1 pictures: a data\.source\.test_share of 0\.25 leaves none for test"),
    "no class": (lambda folder: (folder / "disk").mkdir(), "/pictures/disk is no class: did you mean `disc`"),
    "nested": (lambda folder: (folder / "disc" / "more").mkdir(), "/pictures/disc/more is a folder, but a class"),
    "a test folder": (
        lambda folder: (draw(folder / "train"), draw(folder / "test")),
        r"/pictures has a folder `test`: remove data\.source\.test_share in params\.yaml",
    ),
}


@pytest.mark.parametrize(("spoil", "said"), BAD_FOLDERS.values(), ids=BAD_FOLDERS)
def test_a_folder_that_cannot_be_used_is_named(spoil: Callable[[Path], object], said: str, flat: Project) -> None:
    spoil(flat.top / "pictures")
    with pytest.raises(UserError, match=said) as caught:
        download.run(flat)
    assert "\n" not in str(caught.value)


def test_without_a_test_folder_a_share_for_test_is_asked_for(tmp_path: Path) -> None:
    draw(tmp_path / "pictures")
    with pytest.raises(UserError, match=r"has no folders `train` and `test`: add data\.source\.test_share"):
        download.run(project_of(tmp_path))


def test_under_dvc_the_stage_must_depend_on_the_folder(flat: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DVC_STAGE", "download")
    stages = {"stages": {"download": {"cmd": "mnist download", "deps": ["src"]}}}
    YAML().dump(stages, flat.root / "dvc.yaml")
    with pytest.raises(UserError, match=r"dvc\.yaml: .* add the line `- \$\{data\.source\.path\}` to its deps\."):
        download.run(flat)
    for dependency in ("pictures", "${data.source.path}"):
        stages["stages"]["download"]["deps"] = ["src", dependency]
        YAML().dump(stages, flat.root / "dvc.yaml")
        download.run(flat)
    assert len(contents(flat)) == 6
