"""A trained and evaluated model on its way into the registry: what is known of it, and the version it becomes."""

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import content_digest, file_digest, known_digest, require
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.core.records import read_json, read_table
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.data.params import load_data
from mnist_pipeline.evaluation.comparison import RULE
from mnist_pipeline.evaluation.robustness import accuracies, read_robustness
from mnist_pipeline.registry.contest import ROBUSTNESS, TRAINED_ON, trained_on
from mnist_pipeline.registry.model_card import MODEL_CARD, description, model_card
from mnist_pipeline.registry.registry import Registry, Version
from mnist_pipeline.tracking.artifacts import log_contents
from mnist_pipeline.tracking.contents import Evaluation, artifacts_page, command, read_evaluation, read_training
from mnist_pipeline.tracking.sync import run_of

if TYPE_CHECKING:
    from mlflow.entities import Run

    from mnist_pipeline.training.history import TrainingSummary
    from mnist_pipeline.training.params import Params


DIGESTS = {MODEL_CARD: "model_card_md5", TRAINED_ON: "trained_on_md5"}
"""Tags of a version: the MD5 of what its registration adds to the run's artifacts, by name."""


@dataclass(frozen=True)
class Candidate:
    """A model of the workspace that may become champion."""

    model: ModelId
    """Which model."""
    digest: str
    """MD5 of the model file."""
    training: "TrainingSummary"
    """What its training came to."""
    test: Evaluation
    """What it does on the test split: carried along and never compared."""

    def rank(self) -> tuple[float, float]:
        """Higher is better: by validation accuracy, ties by validation loss."""
        return self.training.validation_accuracy, -self.training.validation_loss


@dataclass(frozen=True)
class Best:
    """Which model is the best of this workspace, by `reports/best.json`."""

    model: str
    """Name of its folders."""
    model_md5: str
    """MD5 of its file."""


class Answer(NamedTuple):
    """What a model made of a test image, by `reports/<model>/confusion.csv`: names of classes."""

    actual: str
    predicted: str


def read_best(project: Project) -> Best | None:
    """Read which model is the best of this workspace; None if none is registered yet."""
    return read_json(project.best, Best, "mnist register") if project.best.is_file() else None


def read_candidate(project: Project, model: ModelId) -> Candidate:
    """Collect what training and evaluation found.

    Raises:
        UserError: the model is not trained or not evaluated, or its report is about another model file.
    """
    training, test = read_training(project, model), read_evaluation(project, model)
    digest, again = file_digest(require(project.model_file(model), command("train", model))), command("evaluate", model)
    if test.model_md5 != digest:
        raise UserError(f"{project.test_report(model)} is about an earlier {model}: run `{again}` (or `dvc repro`).")
    return Candidate(model, digest, training, test)


def add_version(project: Project, params: "Params", registry: Registry, candidate: Candidate) -> Version:
    """Register a model with its card, as nobody's champion yet.

    Raises:
        UserError: it was trained on another split than the one in the workspace.
    """
    run = registry.client.get_run(run_of(project, params, candidate.model))
    facts, card = write_card(project, params, candidate, run)
    content = {MODEL_CARD: card.encode(), TRAINED_ON: trained_on(load_train(project.split).images)}
    log_contents(registry.client, run.info.run_id, content)
    tags = {
        "model": str(candidate.model),
        "git_commit": facts["commit"],
        "rule": RULE,
        **{f"{subset}_md5": digest for subset, digest in facts["digests"].items()},
        **{DIGESTS[name]: content_digest(file) for name, file in content.items()},
        "validation_accuracy": str(candidate.training.validation_accuracy),
        "validation_loss": str(candidate.training.validation_loss),
        "test_accuracy": str(candidate.test.accuracy),
        ROBUSTNESS: json.dumps(facts["robustness"]),
    }
    return registry.add(
        run.info.run_id, candidate.digest, description=description(card, artifacts_page(run)), tags=tags
    )


def write_card(project: Project, params: "Params", candidate: Candidate, run: "Run") -> tuple[dict[str, Any], str]:
    """Write the model card from the files of the stages, the tags of the run and what is known of the data.

    Return the facts that it is made of and the card. A UserError says that the model was trained on another split than
    the one in the workspace, so that nothing true could be said about the two together.
    """
    data = load_data(project)
    digests = {subset: known_digest(project.split / f"{subset}.npz") for subset in ("train", "validation")}
    read = {entry.dataset.name: entry.dataset.digest for entry in run.inputs.dataset_inputs}
    if any(read.get(f"{data.name}-{subset}", digest) != digest for subset, digest in digests.items()):
        raise UserError(
            f"models/{candidate.model} was trained on another split than data/split holds now: run `dvc repro` first."
        )
    facts = {
        "name": str(candidate.model),
        "run_id": run.info.run_id,
        "commit": run.data.tags["git_commit"],
        "dirty": run.data.tags.get("git_dirty") == "true",
        "seed": params.seed,
        "params": params.model(candidate.model.entry).model_dump(mode="json"),
        "training": candidate.training,
        "test": candidate.test,
        "data": data,
        "digests": digests,
        "robustness": accuracies(read_robustness(project.robustness(candidate.model))),
        "images": {"train": len(load_train(project.split)), "validation": len(load_validation(project.split))},
    }
    table = project.report(candidate.model) / "confusion.csv"
    return facts, model_card(facts, read_table(table, Answer, command("evaluate", candidate.model)))
