"""What a user sees of a prediction."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from mnist_pipeline.serving.images import InputImage
from mnist_pipeline.serving.show import as_json, render
from small_project import MNIST

PIXELS = np.zeros((28, 28), np.uint8)
PIXELS[5:23, 13:16] = 255
IMAGE = InputImage(Path("one[1].png"), PIXELS, inverted=True)
PROBABILITIES = np.array([0.1, 0.74, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02, 0.02], np.float32)


def printed(encoding: str = "utf-8", *, terminal: bool = False) -> str:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="\n")
    console = Console(file=stream, force_terminal=terminal, width=80, soft_wrap=True)
    console.print(render(MNIST, IMAGE, PROBABILITIES, ascii_only=console.options.ascii_only))
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
    image = InputImage(IMAGE.file, PIXELS, inverted=True, index=index)
    answer = json.loads(json.dumps(as_json(MNIST, image, PROBABILITIES), allow_nan=False))
    assert answer.pop("probabilities") == pytest.approx(PROBABILITIES.tolist())
    assert answer == {"file": "one[1].png", "index": index, "label": 1, "class_name": "1", "inverted": True}
