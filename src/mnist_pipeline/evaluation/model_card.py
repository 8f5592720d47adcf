"""The model card: what a registered model is, how good it is and where it fails, in Markdown. Pure."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mnist_pipeline.evaluation.metrics import DIGITS, wilson_interval

CONFUSIONS = 5
"""Kinds of mistakes that the card names, the most frequent first."""
MODEL_CARD = "model_card.md"
"""Where the run keeps the card."""
TEST_REPORT = "test_report"
"""Where the run keeps `reports/<name>`."""
FIGURES = f"{TEST_REPORT}/figures"
"""Where the run keeps the figures, seen from the card."""


@dataclass(frozen=True)
class CardFacts:
    """All that a card says about one model."""

    name: str
    """Under `models` in params.yaml."""
    run_id: str
    """Of its MLflow run."""
    commit: str
    """Git commit of the training, or `no commit`."""
    dirty: bool
    """Whether tracked files differed from that commit."""
    params: Mapping[str, Any]
    """`seed`, `normalize` and, of its entry in params.yaml, `architecture`, `training` and `augmentation`."""
    images: Mapping[str, int]
    """How many train and validation images there were."""
    data: Mapping[str, str]
    """MD5 of the files of those subsets."""
    training: Mapping[str, Any]
    """Content of `models/<name>/metrics.json`."""
    test: Mapping[str, Any]
    """Content of `reports/<name>/metrics.json`."""
    mistakes: Mapping[tuple[int, int], int]
    """How often a true digit (first) was read as another (second)."""
    digits: Mapping[int, int]
    """How many test images of each digit there were."""


def count_predictions(
    pairs: Iterable[tuple[int, int]],
) -> tuple[dict[tuple[int, int], int], dict[int, int]]:
    """Count the mistakes and the digits in pairs of a true and a predicted digit."""
    counts = Counter(pairs)
    digits: Counter[int] = Counter()
    for (actual, _), images in counts.items():
        digits[actual] += images
    return {pair: images for pair, images in counts.items() if pair[0] != pair[1]}, dict(digits)


def model_card(facts: CardFacts) -> str:
    """Write the card."""
    sections = (
        _what(facts),
        _quality(facts),
        _digits(facts),
        _failures(facts),
        _LIMITS,
        _data(facts),
        _training(facts),
    )
    return "\n".join((*sections, _rebuild(facts)))


def description(card: str, artifacts: str, limit: int) -> str:
    """Make of a card what a registry shows: links instead of pictures, and no more than it can hold.

    Args:
        card: what `model_card` wrote.
        artifacts: address of the page that shows the artifacts of the run.
        limit: characters; what does not fit is cut off after a whole section, or else after a whole line.
    """
    linked = card.replace("![", "[").replace(f"]({FIGURES}/", f"]({artifacts}/{FIGURES}/")
    end = f"\n[The whole card, with its pictures]({artifacts}/{MODEL_CARD})\n"
    if len(linked) + len(end) <= limit:
        return linked + end
    kept = linked[: limit - len(end)]
    section = kept.rfind("\n## ") + 1
    return kept[: section or kept.rfind("\n") + 1] + end


def _what(facts: CardFacts) -> str:
    return f"""\
# {facts.name}: handwritten digits

Reads one handwritten digit per image. Takes raw pixels 0-255, `uint8` or float, of shape (n, 28, 28), light ink on dark
paper; returns the probabilities of the digits 0 to 9, of shape (n, 10). The normalization
(`{facts.params["normalize"]["scheme"]}`) is inside. {facts.training["parameters"]:,} parameters.
"""


def _quality(facts: CardFacts) -> str:
    images, accuracy = facts.images["validation"], facts.training["validation_accuracy"]
    validation = _interval(*wilson_interval(round(accuracy * images), images))
    test = facts.test
    return f"""\
## How good it is

| split | images | accuracy | 95 % interval | loss |
| --- | ---: | ---: | --- | ---: |
| validation (chosen by this) | {images:,} | {accuracy:.2%} | {validation} | {facts.training["validation_loss"]:.4f} |
| test (only reported) | {test["images"]:,} | {test["accuracy"]:.2%} | \
{_interval(test["accuracy_low"], test["accuracy_high"])} | {test["loss"]:.4f} |

On the test split: macro precision {test["macro_precision"]:.2%}, macro recall {test["macro_recall"]:.2%}, macro F1 \
{test["macro_f1"]:.2%}.

Calibration: its confidence is off by {100 * test["expected_calibration_error"]:.2f} percentage points on average \
(expected calibration error, 15 bins); see [the reliability diagram]({FIGURES}/calibration.png).
"""


def _digits(facts: CardFacts) -> str:
    rows = "\n".join(_digit(facts, digit) for digit in DIGITS)
    return f"""\
## Digit by digit, on the test split

| digit | images | recall | 95 % interval | most often misread as |
| ---: | ---: | ---: | --- | --- |
{rows}
"""


def _digit(facts: CardFacts, digit: int) -> str:
    images, recall = facts.digits.get(digit, 0), facts.test["recall"][str(digit)]
    read_as = {predicted: count for (actual, predicted), count in facts.mistakes.items() if actual == digit}
    worst = max(read_as, key=lambda predicted: (read_as[predicted], -predicted), default=None)
    interval = _interval(*wilson_interval(round(recall * images), images))
    return (
        f"| {digit} | {images:,} | {recall:.2%} | {interval} | "
        f"{'-' if worst is None else f'{worst} ({read_as[worst]} times)'} |"
    )


def _failures(facts: CardFacts) -> str:
    wrong = sum(facts.mistakes.values())
    ranked = sorted(facts.mistakes.items(), key=lambda item: (-item[1], item[0]))[:CONFUSIONS]
    kinds = "\n".join(f"* {actual} read as {predicted}: {images}" for (actual, predicted), images in ranked)
    return f"""\
## Known failure cases

{wrong:,} of {facts.test["images"]:,} test images are misread. The most frequent mistakes:

{kinds or "* none"}

The mistakes it was most sure of, as pictures:

![The mistakes it was most sure of]({FIGURES}/confidently_wrong.png)
"""


_LIMITS = """\
## Limits

* It knows digits only, and always names one: a letter, two digits or an empty image get an answer too.
* It was trained on digits that are centred and fill about 20 of 28 pixels. Other pictures have to be brought into that
  form first, as `mnist predict` does.
* MNIST's writers are American census workers and students: other hands, such as a 1 with a long stroke or a crossed 7,
  are rare in it.
* It is one training with one seed. The intervals are those of the images; another seed moves the accuracy as well.
"""


def _data(facts: CardFacts) -> str:
    rows = "\n".join(f"| {subset} | {facts.images[subset]:,} | `{digest}` |" for subset, digest in facts.data.items())
    return f"""\
## Data

MNIST (LeCun, Cortes and Burges). The official 10,000 test images are the test split; the other 60,000 are divided into
train and validation, stratified by digit.

| split | images | MD5 |
| --- | ---: | --- |
{rows}
"""


def _training(facts: CardFacts) -> str:
    training = facts.training
    knobs = "\n".join(
        f"* {section}: {_inline(facts.params[section])}" for section in ("architecture", "training", "augmentation")
    )
    return f"""\
## How it was trained

{training["epochs"]:.0f} epochs in {training["seconds"]:.0f} seconds, of which epoch {training["best_epoch"]:.0f} was \
the best on validation and is kept; seed {facts.params["seed"]}.

{knobs}
"""


def _rebuild(facts: CardFacts) -> str:
    made_by = f"MLflow run `{facts.run_id}` made it; among its artifacts is the params.yaml of that day."
    if facts.commit == "no commit":
        how = (
            "It was trained in a copy without git, so which code that was is not recorded. Put that params.yaml in "
            f"place and run `dvc repro train@{facts.name} evaluate@{facts.name}`."
        )
    else:
        changes = ", what was not committed then," if facts.dirty else ""
        how = f"""\
```console
mnist reproduce {facts.run_id}
```

takes commit `{facts.commit}`{changes} and the parameters and data of that day, trains it again in a temporary copy, and
compares the weights bit by bit."""
    return f"""\
## How to rebuild it

{made_by}

{how}

On one machine the weights repeat to the bit; another processor may round differently.
"""


def _interval(low: float, high: float) -> str:
    return f"{low:.2%} to {high:.2%}"


def _inline(values: Any) -> str:
    """Write nested values in one line, as YAML people would."""
    if isinstance(values, Mapping):
        return ", ".join(
            f"{key} {{{_inline(value)}}}" if isinstance(value, Mapping) else f"{key} {_inline(value)}"
            for key, value in values.items()
        )
    if isinstance(values, list | tuple):
        return (
            f"[{', '.join(f'{{{_inline(item)}}}' if isinstance(item, Mapping) else _inline(item) for item in values)}]"
        )
    return str(values)
