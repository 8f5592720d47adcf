"""`mnist reproduce`: does a run, repeated, give the same model?"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import console, say, warn
from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import Subset, load_validation
from mnist_pipeline.models.model import load_model
from mnist_pipeline.provenance.environment import environment
from mnist_pipeline.reproduction.lineage import Walk, walk
from mnist_pipeline.reproduction.rebuild import ImpossibleError, build_environment, differences, lay_out, train_again
from mnist_pipeline.tracking.artifacts import KEPT_MODEL, MODEL_DIGEST
from mnist_pipeline.tracking.studies import STUDY, TRIAL

if TYPE_CHECKING:
    import keras

SAME, DIFFERENT, IMPOSSIBLE = 0, 3, 4
"""Exit statuses."""


def run(project: Project, reference: str, *, install: bool) -> int:
    """Train the model of a run or of a registered version again, compare, and return the exit status.

    The reference is a run's id, `models:/NAME@champion` or `models:/NAME/3`. With `install`, train in a new
    environment from the recorded lock.

    Raises:
        UserError: there is no such run or version, or a model cannot be loaded.
    """
    say(f"Looking for what {reference} was trained from")
    try:
        with walk(project, reference, everywhere=True) as found:
            check(found)
            for what, finding in found.needed.items():
                say(f"  {what}: {finding.found}")
            return _reproduce(found, install=install)
    except ImpossibleError as error:
        lines = (f"{reference} cannot be reproduced here:", *(f"  * {reason}" for reason in error.args))
        console(stderr=True).print("\n".join(lines), markup=False, style="red")
        return IMPOSSIBLE


def check(found: Walk) -> None:
    """Raise an ImpossibleError that names all that is in the way, if a run is no training that can be repeated."""
    tags = found.tags
    if TRIAL in tags:
        raise ImpossibleError(
            f"it is trial {tags[TRIAL]} of a study, and a trial keeps no model to compare with: `mnist adopt` its "
            "parameters and train with them"
        )
    if STUDY in tags:
        raise ImpossibleError("it is the run of a study, not of a training")
    if found.run and not {MODEL_DIGEST, "model"} <= tags.keys():
        raise ImpossibleError(f"its training left no model to compare with (the run is {found.run.info.status})")
    if missing := [finding for finding in found.needed.values() if finding.state != "verified"]:
        raise ImpossibleError(
            *(f"{each.what}: {each.found}{each.recorded and f' ({each.recorded})'}" for each in missing)
        )


def _reproduce(found: Walk, *, install: bool) -> int:
    """Train again and compare."""
    tree, python = lay_out(found), Path(sys.executable)
    if install:
        say(f"Installing {tree.lock.name} of that commit; this takes minutes and gigabytes")
        python = build_environment(found, tree)
    elif other := differences(found.environment, environment(tree)):
        warn(f"Not as it was recorded: {other}. (--install brings the recorded packages, not the machine.)")
    say(f"Training it again: mnist {' '.join(found.arguments)}")
    here = train_again(found, tree, python)
    say("Comparing the models")
    return compare(found, tree, differences(found.environment, here))


def compare(found: Walk, tree: Project, environments: str) -> int:
    """Compare the model of the run and the one trained again in `tree`, print what differs; return the exit status.

    `environments` says what differed around the two trainings.
    """
    files = found.files[KEPT_MODEL], tree.model_file(found.tags["model"])
    digests = [file_digest(file) for file in files]
    if digests[0] == digests[1]:
        console().print(f"The same file, byte for byte: md5 {digests[0]}.", style="green")
        return SAME
    models = [load_model(file) for file in files]
    match compare_weights(*(model.get_weights() for model in models)):
        case (count, 0, _):
            console().print(f"The same, bit for bit: all {count:,} weights.", style="green")
            return SAME
        case (count, differing, largest):
            weights = f"{differing:,} of {count:,} differ, by {largest:.2g} at most"
        case None:
            weights = "of other shapes: it is another network"
    facts = {
        "weights": weights,
        **_agreement(models, load_validation(tree.split)),
        "environment": environments or "nothing recorded differs: look for a file that git ignores, or a variable",
    }
    console().print("Trained again, but not the same:", style="yellow")
    for what, fact in facts.items():
        say(f"  {what:<20} {fact}")
    return DIFFERENT


def compare_weights(recorded: Sequence[NDArray[Any]], rebuilt: Sequence[NDArray[Any]]) -> tuple[int, int, float] | None:
    """Compare the weights of two models, as arrays of floats, of 64 bits at most, in the same order.

    Return how many numbers there are, how many are not the same to the bit, and their largest absolute difference; None
    if the arrays have other shapes or types.
    """
    forms = [[(array.shape, array.dtype) for array in side] for side in (recorded, rebuilt)]
    if forms[0] != forms[1]:
        return None
    # A float of 16 or 32 bits has its own float of 64 bits, -0.0 included.
    old, new = (np.concatenate([np.float64(array).ravel() for array in side]) for side in (recorded, rebuilt))
    differing = int((old.view(np.int64) != new.view(np.int64)).sum())
    return old.size, differing, float(np.abs(old - new).max(initial=0))


def _agreement(models: "Sequence[keras.Model]", validation: Subset) -> dict[str, str]:
    """Say how much two models agree on the validation split."""
    from mnist_pipeline.evaluation.metrics import predict_probabilities

    recorded, rebuilt = (predict_probabilities(model, validation.images).argmax(axis=1) for model in models)
    right = [f"{(answers == validation.labels).mean():.2%}" for answers in (recorded, rebuilt)]
    same = recorded == rebuilt
    return {
        "validation accuracy": f"{right[0]} recorded, {right[1]} rebuilt",
        "the same class": f"given to {same.sum():,} of {same.size:,} validation images ({same.mean():.2%})",
    }
