"""Other data than MNIST: the walk of docs/your-own-data.md on pictures in a folder, and IDX files from a mirror."""

import gzip
import json
import re
import struct
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from hashlib import sha256
from io import StringIO
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from matplotlib.text import Text
from mlflow import MlflowClient
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from ruamel.yaml import YAML
from shown import commands

from mnist_pipeline.cli import app
from mnist_pipeline.core.project import Project, find_project
from mnist_pipeline.data.dataset import load_test
from mnist_pipeline.data.params import load_data
from mnist_pipeline.evaluation import figures
from mnist_pipeline.models.model import load_model
from mnist_pipeline.serving import demo
from mnist_pipeline.serving.images import read_image
from mnist_pipeline.serving.server import parse
from small_project import ROOT

PAGE = "docs/your-own-data.md"
CLASSES = ("cross", "disc", "ring", "square")
SIDE = 20


def shape(name: str, seed: int, side: int = SIDE) -> NDArray[np.uint8]:
    """Draw a shape, black on white, uint8 (side, side); where and how large, the seed decides."""
    random = np.random.default_rng(seed)
    unit = side / SIDE
    x, y, r = (random.uniform(9, 11) * unit, random.uniform(9, 11) * unit, random.uniform(5, 7) * unit)
    image, width = Image.new("L", (side, side), "white"), max(1, round(2 * unit))
    pen = ImageDraw.Draw(image)
    box = (x - r, y - r, x + r, y + r)
    match name:
        case "cross":
            pen.line((x - r, y, x + r, y), 0, width)
            pen.line((x, y - r, x, y + r), 0, width)
        case "disc":
            pen.ellipse(box, 0)
        case "ring":
            pen.ellipse(box, None, 0, width)
        case _:
            pen.rectangle(box, 0)
    return np.asarray(image)


@dataclass(frozen=True)
class Followed:
    """A project whose page was followed to its end."""

    project: Project
    said: dict[str, str]
    """What each command printed."""


def prepare(folder: Path, data: Any, split: Any) -> None:
    """Write params.yaml and dvc.yaml as the page has them changed, with small networks."""
    yaml, page = YAML(), (ROOT / PAGE).read_text(encoding="utf-8")
    content = yaml.load(ROOT / "params.yaml")
    content |= {"data": data, "split": split, "train": ["cnn"]}
    cnn = content["models"]["cnn"]
    (keys,) = re.findall(r"set\n?\s*`(batch_size.*?)`, `(epochs.*?)` and `(weight_average.*?)`", page)
    cnn["training"] |= YAML(typ="safe").load("\n".join(keys))
    cnn["architecture"] |= {
        "blocks": [{"filters": 8, "kernel_size": 3, "convolutions": 1, "pooling": 2, "dropout": 0.0}],
        "dense_units": [],
    }
    cnn["training"]["optimizer"]["learning_rate"] = 0.02
    content["models"] = {"cnn": cnn}
    del content["tune"]
    yaml.dump(content, folder / "params.yaml")
    pipeline = yaml.load(ROOT / "dvc.yaml")
    pipeline["stages"]["download"]["deps"].append("${data.source.path}")
    yaml.dump(pipeline, folder / "dvc.yaml")


def type_command(text: str) -> str:
    """Type a command of `mnist`; return what it prints."""
    with redirect_stdout(StringIO()) as said:
        app(text.split()[1:], standalone_mode=False)
    return said.getvalue()


def reproduce(folder: Path) -> str:
    """Do what `dvc repro` does, in this process: it would load TensorFlow once for each stage."""
    stages = YAML(typ="safe").load(folder / "dvc.yaml")["stages"].values()
    return "".join(type_command(stage["cmd"].replace("${item.model}", "cnn")) for stage in stages)


def answer_nobody(_: object, **__: object) -> None:
    """Do not wait for requests, as a server would for ever."""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One MLflow store for both projects, as a team may have it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db")
        yield


@pytest.fixture(scope="module")
def followed(tmp_path_factory: pytest.TempPathFactory, store: None) -> Followed:
    """The page, followed with 240 pictures."""
    folder = tmp_path_factory.mktemp("shapes")
    block = re.findall(r"```yaml\n(.*?)```", (ROOT / PAGE).read_text(encoding="utf-8"), re.DOTALL)[0]
    prepare(folder, **YAML(typ="safe").load(block))
    for label, name in enumerate(CLASSES):
        (folder / "pictures" / name).mkdir(parents=True)
        for number in range(60):
            Image.fromarray(shape(name, 100 * label + number)).save(folder / "pictures" / name / f"{number}.png")
    Image.fromarray(shape("ring", 999, side=100)).convert("RGB").save(folder / "one_more.png")
    said = dict[str, str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("uvicorn.Server.run", answer_nobody)
        for command in commands([PAGE]):
            said[command.text] = reproduce(folder) if command.text == "dvc repro" else type_command(command.text)
    return Followed(find_project(folder), said)


def test_the_page_leads_from_a_folder_of_pictures_to_what_one_more_shows(followed: Followed) -> None:
    assert "192 pictures" not in followed.said["dvc repro"]
    assert "240 pictures of pictures are in" in followed.said["dvc repro"]
    assert "champion: cnn (version 1 of models:/shapes)" in followed.said["dvc repro"]
    assert "Versions of models:/shapes" in followed.said["mnist models"]
    answer = followed.said["mnist predict one_more.png"]
    assert "one_more.png: ring (" in answer
    assert all(name in answer for name in CLASSES)
    assert "Show pictures of shapes at http" in followed.said["mnist demo"]


def test_reports_figures_and_card_name_the_classes(followed: Followed) -> None:
    import pandas as pd

    project, data = followed.project, load_data(followed.project)
    report = json.loads(project.test_report("cnn").read_text())
    assert tuple(report["recall"]) == CLASSES
    confusion = pd.read_csv(project.report("cnn") / "confusion.csv")
    assert {*confusion["actual"]} == {*CLASSES}
    assert {*pd.read_csv(project.class_counts)["label"]} == {*CLASSES}
    test = load_test(project.split)
    certain = np.eye(4, dtype=np.float32)[test.labels]
    drawn = figures.confusion_matrix("cnn", data, test.labels, certain)
    texts = [text.get_text() for text in drawn.findobj(Text)]
    assert {"cnn: 0 of 48 test shapes misclassified", "true shape", *CLASSES} <= {*texts}
    client = MlflowClient()
    version = client.get_model_version_by_alias("shapes", "champion")
    card = Path(mlflow.artifacts.download_artifacts(f"runs:/{version.run_id}/model_card.md")).read_text()
    assert card.startswith("# cnn: shapes of Shapes\n")
    assert "in this order: cross, disc, ring, square." in card
    assert re.search(r"^\| square \| 12 \|", card, re.MULTILINE)
    assert "digit" not in card.lower()
    assert "cross, disc, ring, square" in str(client.get_registered_model("shapes").description)
    run = client.get_run(version.run_id or "")
    assert client.get_experiment(run.info.experiment_id).name == "shapes"
    assert {*CLASSES} == {key.removeprefix("test_recall.") for key in run.data.metrics if "recall." in key}


def test_the_page_to_try_a_model_and_the_server_name_the_classes(followed: Followed) -> None:
    project, data = followed.project, load_data(followed.project)
    picture = (project.root / "one_more.png").read_bytes()
    reading = demo.read_with(data, load_model(project.model_file("cnn")), picture)
    assert reading["class_name"] == "ring"
    assert np.shape(reading["pixels"]) == np.shape(reading["heat"]) == (SIDE, SIDE)
    body = json.dumps({"pixels": np.zeros((1, SIDE, SIDE), int).tolist()}).encode()
    assert parse(body, *data.image_size).shape == (1, SIDE, SIDE)


def test_a_picture_is_prepared_as_the_pictures_to_train_on_were(followed: Followed) -> None:
    project, data = followed.project, load_data(followed.project)
    test = load_test(project.split)
    names = (project.raw / "t10k-pictures.txt").read_text().splitlines()
    for index in (0, 20, 47):
        image = read_image(data, project.root / "pictures" / names[index])
        np.testing.assert_array_equal(image.pixels, test.images[index])


def write_idx(path: Path, array: NDArray[np.uint8]) -> dict[str, Any]:
    """Write an IDX file, compressed; return its entry in params.yaml."""
    content = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) + array.tobytes()
    path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(content))
    return {"name": path.name, "size": len(content), "sha256": sha256(content).hexdigest()}


def test_idx_files_of_another_size_go_from_a_mirror_to_a_prediction(
    tmp_path: Path, store: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "mirror").mkdir()
    labels = np.arange(260, dtype=np.uint8) % 4
    images = np.stack([255 - shape(CLASSES[label], number)[:, :16] for number, label in enumerate(labels)])
    parts = {"a-images": images[:200], "a-labels": labels[:200], "b-images": images[200:], "b-labels": labels[200:]}
    files = [write_idx(tmp_path / "mirror" / name, array) for name, array in parts.items()]
    data = {
        "name": "narrow",
        "title": "Narrow shapes",
        "item": "shape",
        "classes": [*CLASSES],
        "image_size": [SIDE, 16],
        "preparation": "object",
        "source": {"format": "idx", "files": files, "mirrors": ["mirror"]},
    }
    prepare(tmp_path, data, {"validation_size": 40, "seed": 0})
    monkeypatch.chdir(tmp_path)
    for command in ("download", "split", "normalize", "train cnn", "evaluate cnn"):
        type_command(f"mnist {command}")
    Image.fromarray(shape("cross", 999, side=200)).save("one_more.png")
    answer = json.loads(type_command("mnist predict one_more.png --model cnn --json").splitlines()[-1])
    assert answer["class_name"] == CLASSES[answer["label"]] == "cross"
    assert answer["inverted"]
