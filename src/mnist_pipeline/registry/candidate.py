"""A trained and evaluated model on its way into the registry: what is known of it, and the version it becomes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import file_digest, known_digest, read_json, require
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.evaluation.comparison import RULE
from mnist_pipeline.registry.contest import log_trained_on
from mnist_pipeline.registry.model_card import MODEL_CARD, description, model_card
from mnist_pipeline.registry.registry import CHAMPION, Registry, Version
from mnist_pipeline.tracking.contents import command
from mnist_pipeline.tracking.runs import MODEL_DIGEST
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.sync import run_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mnist_pipeline.training.params import Params


@dataclass(frozen=True)
class Candidate:
    """A model of the workspace that may become champion."""

    model: ModelId
    """Which model."""
    digest: str
    """MD5 of the model file."""
    training: Mapping[str, Any]
    """Content of `reports/<model>/training.json`."""
    test: Mapping[str, Any]
    """Content of `reports/<model>/test.json`: carried along and never compared."""

    def rank(self) -> tuple[float, float]:
        """Higher is better: by validation accuracy, ties by validation loss."""
        return self.training["validation_accuracy"], -self.training["validation_loss"]


def read_candidate(project: Project, model: ModelId) -> Candidate:
    """Collect what training and evaluation found.

    Raises:
        UserError: the model is not trained or not evaluated, or its report is about another model file.
    """
    train, evaluate = command("train", model), command("evaluate", model)
    training = read_json(project.training_summary(model), train)
    test = read_json(project.test_report(model), evaluate)
    digest = file_digest(require(project.model_file(model), train))
    if test[MODEL_DIGEST] != digest:
        raise UserError(f"{project.test_report(model)} is about an earlier {model}: run `{evaluate}` (or `dvc repro`).")
    return Candidate(model, digest, training, test)


def add_version(project: Project, params: "Params", registry: Registry, candidate: Candidate) -> Version:
    """Register a model with its card, as nobody's champion yet.

    Raises:
        UserError: it was trained on another split than the one in the workspace.
    """
    run_id = run_of(project, params, candidate.model)
    run = registry.client.get_run(run_id)
    data = _training_data(project, candidate, run)
    train, validation = load_train(project.split), load_validation(project.split)
    images = {"train": len(train), "validation": len(validation)}
    card = _card(project, params, candidate, run, {"data": data, "images": images})
    registry.client.log_text(run_id, card, MODEL_CARD)
    log_trained_on(registry, run_id, train.images)
    artifacts = f"#/experiments/{run.info.experiment_id}/runs/{run_id}/artifacts"
    return registry.add(
        run_id,
        candidate.digest,
        description=description(card, artifacts),
        tags={
            "model": str(candidate.model),
            "git_commit": run.data.tags["git_commit"],
            "rule": RULE,
            **{f"{subset}_md5": digest for subset, digest in data.items()},
            **{key: str(candidate.training[key]) for key in ("validation_accuracy", "validation_loss")},
            "test_accuracy": str(candidate.test["accuracy"]),
        },
    )


def lacks_best(project: Project) -> bool:
    """Return whether the registry has no champion, or no version of the model that `reports/best.json` names."""
    if not project.best.is_file():
        return False
    best = read_json(project.best, "mnist register")
    file = project.model_file(best["model"])
    if not file.is_file() or known_digest(file) != best[MODEL_DIGEST]:
        return False
    registry = Registry(open_store(project))
    return registry.bearer(CHAMPION) is None or registry.version_of(best[MODEL_DIGEST]) is None


def _training_data(project: Project, candidate: Candidate, run: "Run") -> dict[str, str]:
    """Return the MD5 of the subsets that the model was trained on.

    Raises:
        UserError: they are not the ones in data/split, so nothing true could be said about the two together.
    """
    data = {subset: file_digest(project.split / f"{subset}.npz") for subset in ("train", "validation")}
    read = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    if any(read.get(f"mnist-{subset}", digest) != digest for subset, digest in data.items()):
        raise UserError(
            f"models/{candidate.model} was trained on another split than data/split holds now: run `dvc repro` first."
        )
    return data


def _card(project: Project, params: "Params", candidate: Candidate, run: "Run", data: Mapping[str, Any]) -> str:
    """Write the model card from the files of the stages, the tags of the run and what is known of the data."""
    import pandas as pd

    table = require(project.report(candidate.model) / "confusion.csv", command("evaluate", candidate.model))
    answers = pd.read_csv(table)[["actual", "predicted"]].itertuples(index=False, name=None)
    facts = {
        "name": str(candidate.model),
        "run_id": run.info.run_id,
        "commit": run.data.tags["git_commit"],
        "dirty": run.data.tags.get("git_dirty") == "true",
        "seed": params.seed,
        "params": params.model(candidate.model.entry).model_dump(mode="json"),
        "training": candidate.training,
        "test": candidate.test,
        **data,
    }
    return model_card(facts, list(answers))
