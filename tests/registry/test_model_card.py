"""The model card says what the files say."""

import pytest

from card import FACTS, PAIRS
from mnist_pipeline.registry.model_card import description, model_card
from small_project import MNIST


def test_the_card_states_the_facts() -> None:
    card = model_card(FACTS, PAIRS)
    for fact in (
        "# cnn: digits of MNIST",
        "The normalization (`unit`) is inside. 215,194 parameters.",
        "| validation (chosen by this) | 5,000 | 99.52% | 99.29% to 99.68% | 0.0150 |",
        "| test (only reported) | 986 | 99.39% | 98.68% to 99.72% | 0.0142 |",
        "off by 0.17 percentage points",
        "in 3 ways, in five strengths each, it gets 74.00% right, and least under uneven light, 50.00%;",
        "| 4 | 102 | 96.08% | 90.35% to 98.46% | 9 (3 times) |",
        "| 0 | 98 | 100.00% | 96.23% to 100.00% | - |",
        "6 of 986 test images are misclassified",
        "* 4 taken for 9: 3\n* 9 taken for 4: 2\n* 4 taken for 7: 1\n",
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
    assert "* none" in model_card(FACTS, [(digit, digit) for digit in MNIST.classes])
