"""`mnist evaluate NAME`: one trained model on the test split, which nothing else opens."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import load_test
from mnist_pipeline.evaluation.evaluate import write_report
from mnist_pipeline.files import file_digest, require, write_json
from mnist_pipeline.models.preprocessing import load_model, network_of
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.contents import log_evaluation
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.sync import run_of

if TYPE_CHECKING:
    import keras

BATCH = 1_000


def run(project: Project, params: Params, name: str) -> None:
    """Write `reports/<name>/` and `models/<name>/evaluation.json`, and add the results to the training's MLflow run.

    Raises:
        UserError: the model or the test split is missing.
    """
    model_file = require(project.model_file(name), f"mnist train {name}")
    test = load_test(project.split)
    model = load_model(model_file)
    report = asdict(
        write_report(project.report(name), name, test.labels, probabilities(model, test.images), test.images)
    )
    write_json(
        project.model(name) / "evaluation.json",
        {"model_md5": file_digest(model_file), **{f"test_{key}": report[key] for key in HEADLINE}},
    )
    run_id = run_of(project, params, name)
    log_evaluation(open_store(project), project, name, run_id, file_digest(project.split / "test.npz"))
    say(
        f"{name}: test accuracy {report['accuracy']:.2%} (95 % interval {report['accuracy_low']:.2%} to "
        f"{report['accuracy_high']:.2%}), figures in {project.report(name).relative_to(project.root)}/figures"
    )


HEADLINE = ("accuracy", "accuracy_low", "accuracy_high", "loss")
"""What of the test report travels with the model."""


def probabilities(model: "keras.Model", images: Any) -> Any:
    """Return the class probabilities of normalized images, float32 (n, 28, 28) to (n, 10)."""
    import keras

    logits = network_of(model).predict(images, BATCH, verbose=0)  # pyright: ignore[reportArgumentType]
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))
