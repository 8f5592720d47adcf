"""The model card says what the files say."""

from collections import Counter
from typing import Any

import pytest

from mnist_pipeline.registry.model_card import description, model_card

PAIRS = [(digit, digit) for digit in range(10)] * 98 + [(4, 9)] * 3 + [(4, 7)] + [(9, 4)] * 2
COUNTS = Counter(digit for digit, _ in PAIRS)
FACTS: dict[str, Any] = {
    "name": "cnn",
    "run_id": "0123456789abcdef",
    "commit": "c0ffee",
    "dirty": False,
    "seed": 3,
    "params": {
        "normalization": "unit",
        "architecture": {"kind": "cnn", "blocks": [{"filters": 24, "dropout": 0.0}], "dense_units": [256]},
        "training": {"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.004}},
        "augmentation": {"rotation": 10},
    },
    "robustness": {"shift": 0.97, "uneven_light": 0.5, "noise": 0.75},
    "images": {"train": 55_000, "validation": 5_000},
    "data": {"train": "aaaa", "validation": "bbbb"},
    "training": {
        "parameters": 215_194, "validation_accuracy": 0.9952, "validation_loss": 0.01497, "best_epoch": 9, "epochs": 10,
    },
    "test": {
        "images": len(PAIRS), "accuracy": 980 / 986, "accuracy_low": 0.9868, "accuracy_high": 0.9972, "loss": 0.0142,
        "macro_precision": 0.9941, "macro_recall": 0.9942, "macro_f1": 0.9943, "expected_calibration_error": 0.0017,
        "recall": {str(digit): 98 / COUNTS[digit] for digit in range(10)},
    },
}  # fmt: skip


def test_the_card_states_the_facts() -> None:
    card = model_card(FACTS, PAIRS)
    for fact in (
        "# cnn: handwritten digits",
        "The normalization (`unit`) is inside.\n215,194 parameters.",
        "| validation (chosen by this) | 5,000 | 99.52% | 99.29% to 99.68% | 0.0150 |",
        "| test (only reported) | 986 | 99.39% | 98.68% to 99.72% | 0.0142 |",
        "off by 0.17 percentage points",
        "in 3 ways, in five strengths each, it reads 74.00%, and least under uneven light, 50.00%;",
        "| 4 | 102 | 96.08% | 90.35% to 98.46% | 9 (3 times) |",
        "| 0 | 98 | 100.00% | 96.23% to 100.00% | - |",
        "6 of 986 test images are misread",
        "* 4 read as 9: 3\n* 9 read as 4: 2\n* 4 read as 7: 1\n",
        "(report/figures/confidently_wrong.png)",
        "| train | 55,000 | `aaaa` |",
        "epoch 9 was the best on validation and is kept; seed 3.",
        '* architecture: `{"kind": "cnn", "blocks": [{"filters": 24, "dropout": 0.0}], "dense_units": [256]}`',
        '* training: `{"epochs": 10, "optimizer": {"name": "adamw", "learning_rate": 0.004}}`',
        "\nmnist reproduce 0123456789abcdef\n",
        "takes commit `c0ffee` and the parameters",
        "MLflow run `0123456789abcdef`",
    ):
        assert fact in card
    headings = [line for line in card.splitlines() if line.startswith("#")]
    assert len(headings) == len(set(headings)) == 8


def test_how_to_rebuild_depends_on_what_was_committed() -> None:
    assert "what was not committed then" not in model_card(FACTS, PAIRS)
    assert "commit `c0ffee`, what was not committed then, and" in model_card(FACTS | {"dirty": True}, PAIRS)
    without_git = model_card(FACTS | {"commit": "no commit"}, PAIRS)
    assert "mnist reproduce" not in without_git
    assert "which code that was is not recorded" in without_git


@pytest.mark.parametrize("limit", [5_000, 3_000, 2_000, 900, 300])
def test_a_description_fits_and_links_to_the_artifacts(limit: int) -> None:
    end = "\n[The whole card, with its pictures](page/model_card.md)\n"
    short = description(model_card(FACTS, PAIRS), "page", limit)
    assert len(short) <= limit
    assert short.endswith(end)
    assert "![" not in short
    assert "](report" not in short
    whole = description(model_card(FACTS, PAIRS), "page", 50_000).removesuffix(end)
    kept = short.removesuffix(end)
    assert kept
    assert whole.startswith(kept)
    rest = whole[len(kept) :]
    # Cut between sections, or, where not even one fits, between lines.
    assert rest == "" if limit == 5_000 else rest.startswith("## ") if limit > 300 else kept.endswith("\n")


def test_a_perfect_model_has_no_mistakes_to_name() -> None:
    assert "* none" in model_card(FACTS, [(digit, digit) for digit in range(10)])
