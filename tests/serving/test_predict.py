"""`mnist predict` reads pictures with the model that is named, and says what is wrong before it loads anything."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.serving.images import InputImage
from mnist_pipeline.serving.predict import as_json, find_trained, render, run
from small_project import MNIST

PIXELS = np.zeros((28, 28), np.uint8)
PIXELS[5:23, 13:16] = 255
IMAGE = InputImage(Path("one[1].png"), PIXELS, inverted=True)
PROBABILITIES = np.array([0.1, 0.74, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02], np.float32)


def refuse_to_load() -> Any:
    raise AssertionError("the model was loaded")


def test_each_picture_gets_its_answer_from_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import keras
    from keras import layers

    pixels = keras.Input((28, 28), dtype="uint8", name="pixels")
    model = keras.Model(
        pixels, layers.Dense(10, activation="softmax")(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28), dtype=np.uint8)
    images[:, [0, -1]] = images[:, :, [0, -1]] = 0
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    run(MNIST, files, lambda: model, index=None, as_lines=True)
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = np.asarray(model.predict(images, verbose=0))  # pyright: ignore[reportArgumentType]
    np.testing.assert_allclose([answer["probabilities"] for answer in answers], expected, atol=1e-6)
    assert [answer["label"] for answer in answers] == expected.argmax(axis=1).tolist()


def test_mistakes_are_told_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file"):
        run(MNIST, [tmp_path / "none.png"], refuse_to_load, index=None, as_lines=False)
    with pytest.raises(UserError, match="--index is for one IDX file"):
        run(MNIST, [tmp_path, tmp_path], refuse_to_load, index=0, as_lines=False)


def test_a_model_that_is_not_there_is_refused_with_the_nearest_name(project: Project) -> None:
    for name in ("mlp", "cnn"):
        project.model_file(name).parent.mkdir(parents=True)
        project.model_file(name).touch()
    assert find_trained(project, "cnn") == project.model_file("cnn")
    with pytest.raises(UserError, match=r"--model cmn.*did you mean `cnn`.*cnn, mlp"):
        find_trained(project, "cmn")


def printed(*, terminal: bool = False) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=80, soft_wrap=True)
    with console.capture() as shown:
        console.print(render(MNIST, IMAGE, PROBABILITIES))
    return shown.get()


def test_the_answer_the_digit_and_ten_bars_are_shown() -> None:
    head, *rows = printed().splitlines()
    assert head == "one[1].png: 1 (74.00%)"
    assert len(rows) == 14
    assert [row[13:16] for row in rows] == ["   "] * 2 + ["▄▄▄"] + ["███"] * 8 + ["▀▀▀"] + ["   "] * 2
    bars = [row.count("━") for row in rows if row.rstrip().endswith("%")]
    assert len(bars) == 10
    assert bars[1] == max(bars) == int(0.74 * 30)
    assert bars[0] == 3
    assert max(map(len, rows)) < 80


def test_a_log_gets_no_colour_codes_and_a_terminal_does() -> None:
    assert "\x1b" not in printed()
    assert "\x1b[" in printed(terminal=True)


@pytest.mark.parametrize("index", [None, 7])
def test_json_says_all_there_is(index: int | None) -> None:
    image = InputImage(IMAGE.file, PIXELS, inverted=True, index=index)
    answer = json.loads(json.dumps(as_json(MNIST, image, PROBABILITIES), allow_nan=False))
    assert answer.pop("probabilities") == pytest.approx(PROBABILITIES.tolist())
    assert answer == {"file": "one[1].png", "index": index, "label": 1, "class_name": "1", "inverted": True}
