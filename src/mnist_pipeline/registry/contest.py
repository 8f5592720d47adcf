"""Whether a model takes the title from the champion: both are shown the same images, which neither was trained on."""

import json
import tempfile
from dataclasses import asdict
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import reading
from mnist_pipeline.data.dataset import fingerprints, load_validation
from mnist_pipeline.data.params import OtherDataError
from mnist_pipeline.evaluation.comparison import MINIMUM_IMAGES, RULE, Comparison, compare
from mnist_pipeline.evaluation.metrics import predict_probabilities
from mnist_pipeline.evaluation.robustness import less_robust
from mnist_pipeline.models.model import load_model
from mnist_pipeline.registry.registry import CHALLENGER, CHAMPION, Registry, Version

DECISION = "decision"
"""Tag of a version: `champion` or `challenger`, as decided when it was compared last."""
REASON = "reason"
"""Tag beside `decision`: the numbers that decided."""
COMPARED_WITH = "compared_with"
"""Tag beside `decision`: number of the version that it was compared with; `none` if there was no champion."""
TRAINED_ON = "trained_on.npy"
"""Artifact of a run: fingerprints of its training images, by which later splits can be told what it has seen."""
ROBUSTNESS = "robustness"
"""Tag of a version: the mean accuracy under each corruption of validation images, as JSON."""
CHANGED = "the split or the data changed"


def decide(
    project: Project, registry: Registry, file: Path, version: Version, champion: Version | None
) -> tuple[str, str]:
    """Decide whether a version, of this model file, becomes champion; record it before anything follows from it.

    What was decided between these two already, perhaps by a process that was killed before it acted, stays decided.
    Return `champion` or `challenger`, and the numbers that decided, for people.
    """
    opponent = champion.number if champion else "none"
    if version.tags.get(COMPARED_WITH) == opponent:
        return version.tags[DECISION], version.tags[REASON]
    outcome, reason, comparison = CHAMPION, "there was no champion before it", None
    if champion:
        outcome, reason, comparison = _compete(project, registry, file, version, champion)
        # It is said, and decides nothing.
        reason += less_robust(*(json.loads(each.tags.get(ROBUSTNESS, "{}")) for each in (version, champion)))
    content = {
        "outcome": outcome,
        "reason": reason,
        "rule": RULE,
        "candidate": {"version": version.number, **version.tags},
        "champion": {"version": champion.number, **champion.tags} if champion else None,
        "comparison": asdict(comparison) if comparison else None,
    }
    # A model that comes back later keeps the earlier records.
    record = f"against_version_{opponent}" if champion else "without_champion"
    registry.client.log_dict(version.run_id, content, f"decisions/{record}.json")
    # In this order, because the last one says that the others are there.
    registry.tag(version, {DECISION: outcome, REASON: reason, COMPARED_WITH: opponent})
    return outcome, reason


def trained_on(images: NDArray[np.uint8]) -> bytes:
    """Return the content of `trained_on.npy` for a model that was trained on these images."""
    np.save(content := BytesIO(), fingerprints(images))
    return content.getvalue()


def _compete(
    project: Project, registry: Registry, file: Path, version: Version, champion: Version
) -> tuple[str, str, Comparison | None]:
    """Show both models the validation images that neither was trained on; without enough of them, the new one wins."""
    validation = load_validation(project.split)
    rival = f"version {champion.number} ({champion.model})"
    unfair = f"replaces {rival} without a comparison: {CHANGED}, and"
    seen = _seen(registry, version, champion, validation.images)
    if seen is None:
        return CHAMPION, f"{unfair} which images that one was trained on is not recorded", None
    fair = ~seen
    if fair.sum() < MINIMUM_IMAGES:
        return CHAMPION, f"{unfair} only {fair.sum()} of {len(fair):,} validation images are new to that one", None
    images, labels = validation.images[fair], validation.labels[fair]
    try:
        old, new = (predict_probabilities(model, images) for model in (registry.load(champion), load_model(file)))
    except OtherDataError:
        return CHAMPION, f"{unfair} that one is for another size of images or other classes", None
    comparison = compare(labels, new, old)
    which = f"{comparison.images:,} validation images"
    if seen.any():
        which = f"the {comparison.images:,} of {len(seen):,} validation images that are new to it ({CHANGED})"
    outcome, verdict = (CHAMPION, "better") if comparison.is_better else (CHALLENGER, "not better")
    return outcome, f"{verdict} than {rival} on {which}: {comparison.sentence()}", comparison


def _seen(
    registry: Registry, version: Version, champion: Version, images: NDArray[np.uint8]
) -> NDArray[np.bool_] | None:
    """Say for each validation image whether the champion was trained on it; None if nobody knows any more."""
    from mlflow.exceptions import MlflowException

    if all(version.tags[key] == champion.tags.get(key) for key in ("train_md5", "validation_md5")):
        return np.zeros(len(images), np.bool_)
    try:
        artifacts = {artifact.path for artifact in registry.client.list_artifacts(champion.run_id)}
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None  # a version may outlive its run
    if TRAINED_ON not in artifacts:
        return None
    with tempfile.TemporaryDirectory() as folder:
        file = Path(registry.client.download_artifacts(champion.run_id, TRAINED_ON, folder))
        with reading(file, f"delete this artifact of run {champion.run_id}, and run `mnist register` again"):
            return np.isin(fingerprints(images), np.load(file))
