"""`mnist register`: the best model by validation becomes the champion, if it beats the one there is."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mnist_pipeline.console import say
from mnist_pipeline.errors import UserError
from mnist_pipeline.evaluation.comparison import RULE
from mnist_pipeline.evaluation.model_card import (
    MODEL_CARD,
    CardFacts,
    count_predictions,
    description,
    model_card,
)
from mnist_pipeline.files import file_digest, read_json, require, write_json
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.stages.contest import Decision, decide, known_decision, log_trained_on
from mnist_pipeline.tracking.registry import (
    CHAMPION,
    DESCRIPTION_LIMIT,
    MODEL,
    ROLLED_BACK_TO,
    Registry,
    Source,
    Version,
    open_registry,
)
from mnist_pipeline.tracking.sync import run_of, sync


def run(project: Project, params: Params) -> None:
    """Choose among the trained models, register the choice in MLflow, write `reports/champion.json`.

    The file names the best model of this workspace, a function of the workspace alone, as DVC needs it. Whether that
    model becomes the registry's champion depends on the champion that is there.

    Raises:
        UserError: a model of `train` in `params.yaml` is not trained or not evaluated yet, or what a comparison needs
            is missing.
    """
    results = {name: read_results(project, name) for name in params.train}
    with open_registry(project) as registry:
        _register(project, params, registry, results)
    name = choose(results)
    write_json(project.champion, {"model": name, **results[name]})
    sync(project, params)  # DVC may have taken the other models from its cache, without a word to MLflow


def read_results(project: Project, name: str) -> dict[str, Any]:
    """Return what training and evaluation found for one model."""
    return {
        **read_json(project.model(name) / "metrics.json", f"mnist train {name}"),
        **read_json(project.model(name) / "evaluation.json", f"mnist evaluate {name}"),
    }


def choose(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Return the name of the best model: by validation accuracy, ties by validation loss, then the first.

    The test results in `results` are carried along and never compared.
    """
    return max(results, key=lambda name: (results[name]["validation_accuracy"], -results[name]["validation_loss"]))


def _register(project: Project, params: Params, registry: Registry, results: Mapping[str, Mapping[str, Any]]) -> None:
    """Let the best model of the workspace compete for the title, if it has not done so before."""
    digests = {name: file_digest(project.model_file(name)) for name in results}
    allowed = _without_rolled_back(registry, digests)
    if not allowed:
        return
    name = choose({model: results[model] for model in allowed})
    version = registry.version_of(digests[name])
    if version is None:
        version = _add(project, params, registry, name, results[name])
    champion = registry.bearer(CHAMPION)
    if champion is not None and champion.number == version.number:
        decision = Decision(CHAMPION, "nothing has changed")
    else:
        decision = known_decision(version, champion) or decide(project, registry, name, version, champion)
        registry.promote(version) if decision.outcome == CHAMPION else registry.challenge(version)
    say(
        f"{decision.outcome}: {name} (version {version.number} of models:/{MODEL}), validation accuracy "
        f"{results[name]['validation_accuracy']:.2%}, test accuracy {results[name]['test_accuracy']:.2%}; "
        f"{decision.reason}"
    )


def _without_rolled_back(registry: Registry, digests: Mapping[str, str]) -> list[str]:
    """Return the models that may compete: not those that somebody took the title from; say which those are."""
    taken = {version.digest: version for version in registry.versions() if version.rolled_back}
    for name, digest in digests.items():
        if version := taken.get(digest):
            say(
                f"{name} stays out: it is version {version.number}, which was rolled back to version "
                f"{version.tags[ROLLED_BACK_TO]}. Train another, or take that back with `mnist rollback`."
            )
    return [name for name, digest in digests.items() if digest not in taken]


def _add(project: Project, params: Params, registry: Registry, name: str, results: Mapping[str, Any]) -> Version:
    """Register a model with its card, as nobody's champion yet."""
    source = registry.source(run_of(project, params, name))
    data = _training_data(project, name, source)
    facts = _card_facts(project, params, name, source, results, data)
    card = model_card(facts)
    registry.client.log_text(source.run_id, card, MODEL_CARD)
    log_trained_on(project, registry, source.run_id)
    artifacts = f"#/experiments/{source.experiment_id}/runs/{source.run_id}/artifacts"
    return registry.add(
        source.run_id,
        file_digest(project.model_file(name)),
        description=description(card, artifacts, DESCRIPTION_LIMIT),
        tags={
            "model": name,
            "git_commit": facts.commit,
            "rule": RULE,
            **{f"{subset}_md5": digest for subset, digest in data.items()},
            **{key: str(results[key]) for key in ("validation_accuracy", "validation_loss", "test_accuracy")},
        },
    )


def _training_data(project: Project, name: str, run: Source) -> dict[str, str]:
    """Return the MD5 of the subsets that the model was made from.

    Raises:
        UserError: they are not the ones in data/split, so nothing true could be said about the two together.
    """
    data = {subset: file_digest(project.split / f"{subset}.npz") for subset in ("train", "validation")}
    if any(run.datasets.get(f"mnist-{subset}", digest) != digest for subset, digest in data.items()):
        raise UserError(f"models/{name} was trained on another split than data/split holds now: run `dvc repro` first.")
    return data


def _card_facts(
    project: Project, params: Params, name: str, run: Source, results: Mapping[str, Any], data: Mapping[str, str]
) -> CardFacts:
    """Collect what the model card says from the files of the stages and the tags of the run."""
    import pandas as pd

    made_by = f"mnist evaluate {name}"
    confusion = pd.read_csv(require(project.report(name) / "confusion.csv", made_by))
    mistakes, digits = count_predictions(
        zip(confusion["actual"].tolist(), confusion["predicted"].tolist(), strict=True)
    )
    return CardFacts(
        name=name,
        run_id=run.run_id,
        commit=run.tags["git_commit"],
        dirty=run.tags.get("git_dirty") == "true",
        params=params.model_dump(mode="json") | params.model(name).model_dump(mode="json"),
        images={subset: _count(project.split / f"{subset}.npz") for subset in data},
        data=data,
        training=results,
        test=read_json(project.report(name) / "metrics.json", made_by),
        mistakes=mistakes,
        digits=digits,
    )


def _count(subset: Path) -> int:
    """Return how many images a subset holds, without reading them."""
    with np.load(subset) as arrays:
        return len(arrays["labels"])
