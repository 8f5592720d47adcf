"""What a user sees of a prediction; the one test with a real model is at the end."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mnist_pipeline.errors import UserError
from mnist_pipeline.serving.images import DigitImage
from mnist_pipeline.serving.predictor import as_json, load_predictor, render

PIXELS = np.zeros((28, 28), np.uint8)
PIXELS[5:23, 13:16] = 255
IMAGE = DigitImage(Path("one[1].png"), PIXELS, inverted=True)
PROBABILITIES = np.array([0.1, 0.74, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02], np.float32)


def printed(encoding: str = "utf-8", *, terminal: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    Console(file=stream, force_terminal=terminal, width=80, soft_wrap=True).print(render(IMAGE, PROBABILITIES))
    stream.seek(0)
    return stream.read()


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


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_log_gets_no_colour_codes_and_a_terminal_does(encoding: str) -> None:
    assert "\x1b" not in printed(encoding)
    assert "\x1b[" in printed(encoding, terminal=True)


def test_ascii_output_has_nothing_but_ascii_and_still_shows_the_bars() -> None:
    assert "-" * 22 in printed("ascii")
    assert ":::" in printed("ascii")


@pytest.mark.parametrize("index", [None, 7])
def test_json_says_all_there_is(index: int | None) -> None:
    image = DigitImage(IMAGE.file, PIXELS, inverted=True, index=index)
    answer = json.loads(json.dumps(as_json(image, PROBABILITIES), allow_nan=False))
    assert answer.pop("probabilities") == pytest.approx(PROBABILITIES.tolist())
    assert answer == {"file": "one[1].png", "index": index, "digit": 1, "inverted": True}


def test_a_real_model_is_loaded_asked_and_checked(tmp_path: Path) -> None:
    import keras
    from keras import layers

    def build(side: int) -> keras.Model:
        pixels = keras.Input((side, side))
        logits = layers.Dense(10)(layers.Flatten()(layers.Rescaling(1 / 255)(pixels)))
        return keras.Model(pixels, layers.Softmax()(logits))

    model = build(28)
    model.save(tmp_path / "model.keras")
    images = np.stack([PIXELS, PIXELS.T, PIXELS[::-1]])
    answer = load_predictor(tmp_path / "model.keras").predict(images)
    assert answer.shape == (3, 10)
    assert answer.dtype == np.float32
    expected = np.asarray(model.predict(images.astype(np.float32)), np.float32)
    np.testing.assert_allclose(answer, expected, atol=1e-6)

    build(14).save(tmp_path / "other.keras")
    with pytest.raises(UserError, match="not a model of this project"):
        load_predictor(tmp_path / "other.keras")
    text = tmp_path / "text.keras"
    text.write_text("no model")
    with pytest.raises(UserError, match=r"text\.keras is not a Keras model"):
        load_predictor(text)
    with pytest.raises(UserError, match="run `mnist train`"):
        load_predictor(tmp_path / "missing.keras")
