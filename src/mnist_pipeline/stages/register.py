"""`mnist register`: the best model by validation becomes the champion, if it beats the one there is."""

import shutil
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import atomic_path, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.registry.candidate import Candidate, add_version, read_candidate
from mnist_pipeline.registry.contest import decide
from mnist_pipeline.registry.registry import CHAMPION, ROLLED_BACK_TO, Registry, open_registry
from mnist_pipeline.tracking.store import is_offline
from mnist_pipeline.tracking.sync import sync

if TYPE_CHECKING:
    from mnist_pipeline.training.params import Params


def run(project: Project, params: "Params") -> None:
    """Choose among the trained models, register the choice in MLflow, write `reports/best.json` and `best.keras`.

    The two are the best model of this workspace, a function of the workspace alone, as DVC needs it; git does not keep
    the latter, so this stage runs in a fresh clone. Whether that model becomes the registry's champion depends on the
    champion that is there.

    Raises:
        UserError: a model of `train` in `params.yaml` is not trained or not evaluated yet, or what a comparison needs
            is missing.
    """
    candidates = [read_candidate(project, ModelId(name)) for name in params.train]
    if is_offline(project):
        say("Offline: `mnist sync` registers the best model when the MLflow server is there.")
    else:
        _compete(project, params, candidates)
    best = max(candidates, key=Candidate.rank)
    with atomic_path(project.best_model) as temporary:
        shutil.copyfile(project.model_file(best.model), temporary)
    write_json(
        project.best,
        {
            "model": str(best.model),
            "model_md5": best.digest,
            "validation_accuracy": best.training.validation_accuracy,
            "validation_loss": best.training.validation_loss,
        },
    )
    if not is_offline(project):
        sync(project, params)  # DVC may have taken the other models from its cache, without a word to MLflow


def _compete(project: Project, params: "Params", candidates: Sequence[Candidate]) -> None:
    """Let the best of the models that may compete do so."""
    with open_registry(project) as registry:
        if allowed := _without_rolled_back(registry, candidates):
            _register(project, params, registry, max(allowed, key=Candidate.rank))


def _register(project: Project, params: "Params", registry: Registry, candidate: Candidate) -> None:
    """Let the best model of the workspace compete for the title, if it has not done so before."""
    champion = registry.find(CHAMPION)
    same = sorted(registry.of_file(candidate.digest), key=lambda version: CHAMPION not in version.aliases)
    version = same[0] if same else add_version(project, params, registry, candidate)
    if champion and champion.number == version.number:
        outcome, reason = CHAMPION, "nothing has changed"
    else:
        outcome, reason = decide(project, registry, project.model_file(candidate.model), version, champion)
        registry.promote(version) if outcome == CHAMPION else registry.challenge(version)
    say(
        f"{outcome}: {candidate.model} (version {version.number} of models:/{registry.name}), validation accuracy "
        f"{candidate.training.validation_accuracy:.2%}, test accuracy {candidate.test.accuracy:.2%}; {reason}"
    )


def _without_rolled_back(registry: Registry, candidates: Sequence[Candidate]) -> list[Candidate]:
    """Return the models that may compete: not those that somebody took the title from; say which those are."""
    versions = [version for candidate in candidates for version in registry.of_file(candidate.digest)]
    taken = {version.digest: version for version in versions if version.rolled_back}
    for candidate in candidates:
        if version := taken.get(candidate.digest):
            say(
                f"{candidate.model} stays out: it is version {version.number}, which was rolled back to version "
                f"{version.tags[ROLLED_BACK_TO]}. Train another, or take that back with `mnist rollback`."
            )
    return [candidate for candidate in candidates if candidate.digest not in taken]
