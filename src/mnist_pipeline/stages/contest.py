"""Whether a model takes the title from the champion: both are shown the same images, which neither was trained on."""

import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.data.originals import fingerprints, load_originals
from mnist_pipeline.errors import UserError
from mnist_pipeline.evaluation.comparison import MINIMUM_IMAGES, RULE, Comparison, compare
from mnist_pipeline.models.preprocessing import load_model
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.registry import CHALLENGER, CHAMPION, Registry, Version

DECISION = "decision"
"""Tag of a version: `champion` or `challenger`, as decided when it was compared last."""
REASON = "reason"
"""Tag beside it: by what numbers."""
COMPARED_WITH = "compared_with"
"""Tag beside it: with which version; `none` if there was no champion."""
TRAINED_ON = "trained_on.npy"
"""Artifact of a run: fingerprints of its training images, by which later splits can be told what it has seen."""
FACTS = ("model", "model_md5", "git_commit", "train_md5", "validation_md5", "validation_accuracy", "validation_loss")
"""Tags of the two versions that go into the record of a decision."""
CHANGED = "the split or the data changed"
BATCH = 1_000


@dataclass(frozen=True)
class Decision:
    """Whether a version becomes champion, and why."""

    outcome: str
    """`champion` or `challenger`."""
    reason: str
    """For people, with the numbers."""
    comparison: Comparison | None = None
    """The evidence; None if there was nobody, or nothing, to compare with."""


def known_decision(version: Version, champion: Version | None) -> Decision | None:
    """Return what was decided between these two already, perhaps by a process that was killed before it acted."""
    if version.tags.get(COMPARED_WITH) != _opponent(champion):
        return None
    return Decision(version.tags[DECISION], version.tags[REASON])


def _opponent(champion: Version | None) -> str:
    return champion.number if champion else "none"


def decide(project: Project, registry: Registry, name: str, version: Version, champion: Version | None) -> Decision:
    """Decide whether a version becomes champion, and write the decision down before anything follows from it."""
    if champion is None:
        decision = Decision(CHAMPION, "there was no champion before it")
    else:
        decision = _compete(project, registry, name, version, champion)
    comparison = decision.comparison
    content = {
        "outcome": decision.outcome,
        "reason": decision.reason,
        "rule": RULE,
        "candidate": _facts(version),
        "champion": _facts(champion) if champion else None,
        "comparison": asdict(comparison) if comparison else None,
    }
    registry.client.log_dict(version.run_id, content, f"decisions/{_against(champion)}.json")
    registry.tag(version, {DECISION: decision.outcome, REASON: decision.reason, **_numbers(comparison)})
    registry.tag(version, {COMPARED_WITH: _opponent(champion)})  # last: it says that the others are there
    return decision


def _against(champion: Version | None) -> str:
    """Return the name of the record: a model that comes back later keeps the earlier ones."""
    return f"against_version_{champion.number}" if champion else "without_champion"


def _facts(version: Version) -> dict[str, str]:
    """Return what the record of a decision says about one of the two."""
    return {"version": version.number, **{key: version.tags.get(key, "unknown") for key in FACTS}}


def _numbers(comparison: Comparison | None) -> dict[str, str]:
    """Return the evidence as tags, which replace those of an earlier comparison."""
    numbers = {
        "compared_images": comparison and comparison.images,
        "only_this_right": comparison and comparison.only_candidate_right,
        "only_champion_right": comparison and comparison.only_champion_right,
        "mcnemar_p": comparison and comparison.mcnemar_p,
    }
    return {key: str(value).lower() for key, value in numbers.items()}


def _compete(project: Project, registry: Registry, name: str, version: Version, champion: Version) -> Decision:
    """Show both models the validation images that neither was trained on; without enough of them, the new one wins."""
    pixels, labels = load_originals(project.raw, project.split, "validation")
    rival = f"version {champion.number} ({champion.model})"
    with tempfile.TemporaryDirectory() as folder:
        seen = _seen(registry, version, champion, pixels, Path(folder))
        if seen is None:
            lack = "which images that one was trained on is not recorded"
            return Decision(CHAMPION, f"replaces {rival} without a comparison: {CHANGED}, and {lack}")
        fair = ~seen
        if fair.sum() < MINIMUM_IMAGES:
            lack = f"only {fair.sum()} of {len(fair):,} validation images are new to that one"
            return Decision(CHAMPION, f"replaces {rival} without a comparison: {CHANGED}, and {lack}")
        old = _probabilities(registry.download_model(champion, Path(folder)), pixels[fair])
    comparison = compare(labels[fair], _probabilities(project.model_file(name), pixels[fair]), old)
    which = f"{comparison.images:,} validation images"
    if seen.any():
        which = f"the {comparison.images:,} of {len(seen):,} validation images that are new to it ({CHANGED})"
    verdict = "better" if comparison.is_better else "not better"
    return Decision(
        CHAMPION if comparison.is_better else CHALLENGER,
        f"{verdict} than {rival} on {which}: {comparison.sentence()}",
        comparison,
    )


def _seen(
    registry: Registry, version: Version, champion: Version, pixels: NDArray[np.uint8], folder: Path
) -> NDArray[np.bool_] | None:
    """Say for each validation image whether the champion was trained on it; None if nobody knows any more."""
    if all(version.tags[key] == champion.tags.get(key) for key in ("train_md5", "validation_md5")):
        return np.zeros(len(pixels), np.bool_)
    file = registry.download(champion, TRAINED_ON, folder)
    return None if file is None else np.isin(fingerprints(pixels), np.load(file))


def _probabilities(model_file: Path, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return what a finished model says about raw pixels, (n, 28, 28): float32 (n, 10)."""
    try:
        model = load_model(model_file)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{model_file} cannot be loaded by this Keras, so the models cannot be compared: train it again, or, if it "
            "is the champion's, delete that version in MLflow."
        ) from error
    return np.asarray(model.predict(pixels, BATCH, verbose=0), np.float32)  # pyright: ignore[reportArgumentType]


def log_trained_on(project: Project, registry: Registry, run_id: str) -> None:
    """Keep with the run which images it was trained on; a copy without the raw files has nothing to keep."""
    if not (project.raw.is_dir() and (project.split / "manifest.parquet").is_file()):
        return
    pixels, _ = load_originals(project.raw, project.split, "train")
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / TRAINED_ON
        np.save(file, fingerprints(pixels))
        registry.client.log_artifact(run_id, str(file))
