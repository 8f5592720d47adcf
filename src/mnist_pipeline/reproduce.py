"""`mnist reproduce`: does a run, repeated, give the same model?"""

import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.console import console, say, warn
from mnist_pipeline.data.dataset import load_validation
from mnist_pipeline.errors import UserError
from mnist_pipeline.evaluation.difference import Agreement, WeightDifference, compare_predictions, compare_weights
from mnist_pipeline.models.preprocessing import load_model, network_of
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.lineage import lineage_tags
from mnist_pipeline.tracking.rebuild import build_environment, checked_out, differences, train_again
from mnist_pipeline.tracking.recipe import ImpossibleError, Recipe, collect

if TYPE_CHECKING:
    import keras

SAME, DIFFERENT, IMPOSSIBLE = 0, 3, 4
"""Exit statuses."""
BATCH = 1_000


def run(project: Project, reference: str, *, install: bool) -> int:
    """Train the model of a run or of a registered version again, compare, and return the exit status.

    Args:
        project: whose store, repository and data.
        reference: a run's id, `models:/mnist@champion` or `models:/mnist/3`.
        install: train in a new environment, installed from the recorded lock, and not in this one.

    Raises:
        UserError: there is no such run or version, or a model cannot be loaded.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="mnist-reproduce-") as folder:
            return _reproduce(project, reference, Path(folder), install=install)
    except ImpossibleError as error:
        lines = (f"{reference} cannot be rebuilt here:", *(f"  * {reason}" for reason in error.reasons))
        console(stderr=True).print("\n".join(lines), markup=False, style="red")
        return IMPOSSIBLE


def _reproduce(project: Project, reference: str, folder: Path, *, install: bool) -> int:
    say(f"Looking for what {reference} was made from")
    recipe = collect(project, reference, folder)
    for line in _ingredients(recipe):
        say(f"  {line}")
    with checked_out(project, recipe, folder) as tree:
        python = Path(sys.executable)
        if install:
            say(f"Installing {tree.lock.name} of that commit; this takes minutes and gigabytes")
            python = build_environment(tree, recipe, folder)
        elif other := differences(recipe.tags, lineage_tags(tree)):
            warn(f"Not as it was recorded: {_told(other)}. (--install brings the recorded packages, not the machine.)")
        say("Training it again")
        tags = train_again(tree, recipe, python, folder)
        say("Comparing the weights")
        return compare(tree, recipe, differences(recipe.tags, tags))


def _ingredients(recipe: Recipe) -> list[str]:
    """Say what was found, and where."""
    return [
        f"run {recipe.run_id}: mnist {' '.join(recipe.arguments)}",
        f"commit {recipe.commit}{' with what was not committed then' if recipe.diff else ''}",
        *(f"{path}: {evidence.where}" for path, (_, evidence) in recipe.data.items()),
    ]


def compare(tree: Project, recipe: Recipe, environment: Mapping[str, tuple[str, str]]) -> int:
    """Compare the recorded model and the one that was trained again, print what differs, and return the exit status.

    Args:
        tree: the project that it was trained in.
        recipe: what was repeated.
        environment: what differed around the two trainings.
    """
    models = [_load(file) for file in (recipe.model_file, tree.model_file(recipe.model))]
    weights = compare_weights(*(model.get_weights() for model in models))
    if weights and not weights.differing:
        console().print(f"The same, bit for bit: all {weights.count:,} weights.", style="green")
        return SAME
    validation = load_validation(tree.split)
    logits = (network_of(model).predict(validation.images, BATCH, verbose=0) for model in models)  # pyright: ignore[reportArgumentType]
    _show(weights, compare_predictions(validation.labels, *logits), environment)
    return DIFFERENT


def _load(file: Path) -> "keras.Model":
    try:
        return load_model(file)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{file} cannot be loaded by this Keras, so the two models cannot be compared.") from error


def _show(weights: WeightDifference | None, agreement: Agreement, environment: Mapping[str, tuple[str, str]]) -> None:
    """Print by how much two models differ, and what could be why."""
    facts = {
        "weights": f"{weights.differing:,} of {weights.count:,} differ, by {weights.largest:.2g} at most"
        if weights
        else "of other shapes: it is another network",
        "validation accuracy": f"{agreement.recorded_accuracy:.2%} recorded, {agreement.rebuilt_accuracy:.2%} rebuilt",
        "the same digit": f"seen on {agreement.agreeing:,} of {agreement.images:,} validation images "
        f"({agreement.agreeing / agreement.images:.2%})",
        "environment": _told(environment)
        or "all that the run recorded is the same here: look for a file that git ignores, or an environment variable",
    }
    console().print("Trained again, but not the same:", style="yellow")
    for what, fact in facts.items():
        say(f"  {what:<20} {fact}")


def _told(environment: Mapping[str, tuple[str, str]]) -> str:
    return ", ".join(f"{key} {recorded} then, {here} now" for key, (recorded, here) in environment.items())
