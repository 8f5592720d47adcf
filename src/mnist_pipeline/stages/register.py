"""`mnist register`: the best model by validation becomes the champion."""

from collections.abc import Mapping
from typing import Any

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.files import file_digest, read_json, write_json
from mnist_pipeline.models.preprocessing import load_model
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.lineage import code_state
from mnist_pipeline.tracking.registry import CHAMPION, MODEL, register_champion
from mnist_pipeline.tracking.runs import find_or_restore_run, find_run
from mnist_pipeline.tracking.store import open_store


def run(project: Project, params: Params) -> None:
    """Choose among the trained models, register the choice in MLflow, write `reports/champion.json`.

    Raises:
        UserError: a model of `train` in `params.yaml` is not trained or not evaluated yet.
    """
    results = {name: read_results(project, name) for name in params.train}
    name = choose(results)
    chosen = results[name]
    run_id = _run_of(project, params, name, chosen)
    data = {subset: file_digest(project.split / f"{subset}.npz") for subset in ("train", "validation")}
    version = register_champion(
        open_store(project),
        run_id,
        file_digest(project.model_file(name)),
        description=describe(name, chosen, list(results)),
        tags={
            "model": name,
            "git_commit": code_state(project.root)["git_commit"],
            **{f"{subset}_md5": digest for subset, digest in data.items()},
            **{key: str(chosen[key]) for key in ("validation_accuracy", "validation_loss", "test_accuracy")},
        },
    )
    write_json(project.champion, {"model": name, **chosen})
    say(
        f"champion: {name}, validation accuracy {chosen['validation_accuracy']:.2%}, test accuracy "
        f"{chosen['test_accuracy']:.2%}; registered as models:/{MODEL}@{CHAMPION} (version {version.version})"
    )


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


def describe(name: str, results: Mapping[str, Any], rivals: list[str]) -> str:
    """Return the version's description, in Markdown."""
    return (
        f"**{name}**, the best of {', '.join(rivals)} by validation accuracy.\n\n"
        f"* validation accuracy {results['validation_accuracy']:.2%}, loss {results['validation_loss']:.4f} "
        f"(epoch {results['best_epoch']})\n"
        f"* test accuracy {results['test_accuracy']:.2%} (95 % interval {results['test_accuracy_low']:.2%} to "
        f"{results['test_accuracy_high']:.2%}), reported, not used to choose\n"
        f"* {results['parameters']:,} parameters\n"
    )


def _run_of(project: Project, params: Params, name: str, metrics: Mapping[str, Any]) -> str:
    """Return the id of the run that made the model; loads Keras only where the run has to be rebuilt."""
    if found := find_run(open_store(project), project.model_file(name)):
        return found.info.run_id
    model = load_model(project.model_file(name))
    subsets = {"train": load_train(project.split), "validation": load_validation(project.split)}
    return find_or_restore_run(project, params, name, model, subsets, metrics)
