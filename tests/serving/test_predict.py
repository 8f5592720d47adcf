"""`mnist predict` reads pictures with the model that is named, and says what is wrong before it loads anything."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.serving.predict import find_trained, run
from small_project import MNIST


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
