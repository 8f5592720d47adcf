"""Is a new model better than the champion? Pure: predictions of both on the same images in, a verdict out."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.evaluation.metrics import Score, score

RULE = "validation accuracy, ties by validation loss"
"""What decides. The p-value is reported beside it: it says how much the decision is worth."""
MINIMUM_IMAGES = 100
"""Fewer than these tell nothing: one image would be more than a point of accuracy."""


@dataclass(frozen=True)
class Comparison:
    """Two models on the same images."""

    images: int
    """How many both were shown."""
    candidate: Score
    champion: Score
    both_right: int
    only_candidate_right: int
    only_champion_right: int
    both_wrong: int
    mcnemar_p: float
    """How often two equally good models would differ at least as much, in (0, 1]."""

    @property
    def is_better(self) -> bool:
        """Whether the candidate beats the champion by `RULE`; of two equals, the champion stays."""
        candidate, champion = ((each.accuracy, -each.loss) for each in (self.candidate, self.champion))
        return candidate > champion

    def sentence(self) -> str:
        """Say what was found, without who the champion is."""
        accuracies = f"accuracy {self.candidate.accuracy:.2%} against {self.champion.accuracy:.2%}"
        if self.candidate.accuracy == self.champion.accuracy:
            accuracies += f", loss {self.candidate.loss:.4f} against {self.champion.loss:.4f}"
        return (
            f"{accuracies}; alone right on {self.only_candidate_right} against {self.only_champion_right} "
            f"(exact McNemar p = {self.mcnemar_p:.2g})"
        )


def compare(labels: NDArray[np.uint8], candidate: NDArray[np.float32], champion: NDArray[np.float32]) -> Comparison:
    """Compare two models by what they say about the same images, which neither was trained on.

    `labels` are the true classes, uint8 (n,), n > 0; the others are both models' probabilities, float32 (n, classes).
    """
    new, old = (probabilities.argmax(axis=1) == labels for probabilities in (candidate, champion))
    only_new, only_old = int((new & ~old).sum()), int((old & ~new).sum())
    return Comparison(
        images=len(labels),
        candidate=score(labels, candidate),
        champion=score(labels, champion),
        both_right=int((new & old).sum()),
        only_candidate_right=only_new,
        only_champion_right=only_old,
        both_wrong=int((~new & ~old).sum()),
        mcnemar_p=mcnemar(only_new, only_old),
    )


def mcnemar(only_one: int, only_other: int) -> float:
    """Return the exact two-sided p-value of McNemar's test: are the images that one alone gets right a fair coin's?"""
    from scipy.stats import binomtest

    differing = only_one + only_other
    return float(binomtest(only_one, differing).pvalue) if differing else 1.0
