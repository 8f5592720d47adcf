"""The model card: what a registered model is, how good it is and where it fails, in Markdown. Pure.

What it says is in `model_card.md.j2`; here are the numbers.
"""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mnist_pipeline.evaluation.metrics import wilson_interval

MODEL_CARD = "model_card.md"
"""Artifact of a run: the card."""
FIGURES = "report/figures"
"""Artifact folder of a run with the figures, seen from the card."""


def model_card(facts: Mapping[str, Any], answers: Sequence[tuple[str, str]]) -> str:
    """Write the card.

    Args:
        facts: what the template says that does not follow from the answers.
        answers: for each test image, the name of its class and of the one that the model took it for.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(  # noqa: S701 - it is Markdown, which nothing needs to be escaped in
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        keep_trailing_newline=True,
    )
    environment.policies["json.dumps_kwargs"] = {}  # in the order of params.yaml, not sorted
    filters: Mapping[str, Any] = {"count": "{:,}".format, "percent": "{:.2%}".format, "interval": _interval}
    environment.filters.update(filters)
    mistakes = Counter(answer for answer in sorted(answers) if answer[0] != answer[1]).most_common()
    return environment.get_template("model_card.md.j2").render(
        facts,
        figures=FIGURES,
        images_of=Counter(actual for actual, _ in answers),
        mistakes=mistakes,
        taken_for={actual: f"{other} ({times} times)" for (actual, other), times in reversed(mistakes)},
    )


def description(card: str, artifacts: str, limit: int = 5_000) -> str:
    """Make of a card what a registry shows: links instead of pictures, and no more than it can hold.

    Args:
        card: what `model_card` wrote.
        artifacts: address of the page that shows the artifacts of the run.
        limit: characters that MLflow's column for descriptions holds; what does not fit is cut off after a whole
            section, or else after a whole line.
    """
    # MLflow's page puts the columns of a table next to each other.
    wide = re.sub(r"^\|(?! -).*$", lambda row: row[0].replace(" | ", "&emsp; | "), card, flags=re.MULTILINE)
    linked = wide.replace("![", "[").replace(f"]({FIGURES}/", f"]({artifacts}/{FIGURES}/")
    end = f"\n[The whole card, with its pictures]({artifacts}/{MODEL_CARD})\n"
    if len(linked) + len(end) <= limit:
        return linked + end
    kept = linked[: limit - len(end)]
    section = kept.rfind("\n## ") + 1
    return kept[: section or kept.rfind("\n") + 1] + end


def _interval(share: float, images: int) -> str:
    low, high = wilson_interval(round(share * images), images)
    return f"{low:.2%} to {high:.2%}"
