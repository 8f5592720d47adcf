"""`mnist evaluate NAME`: one trained model on the test split, which nothing else opens."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import atomic_path, file_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import load_test, load_validation
from mnist_pipeline.data.params import load_data
from mnist_pipeline.evaluation.metrics import predict_probabilities, predictions_table
from mnist_pipeline.evaluation.report import write_report
from mnist_pipeline.evaluation.robustness import robustness_table
from mnist_pipeline.models.model import load_model
from mnist_pipeline.tracking.contents import command, log_evaluation, read_training
from mnist_pipeline.tracking.store import can_wait, is_offline, open_store
from mnist_pipeline.tracking.sync import run_of

if TYPE_CHECKING:
    from mnist_pipeline.training.params import Params


def run(project: Project, params: "Params", model: ModelId) -> None:
    """Write `reports/<model>/` and add the results to the training's MLflow run.

    Raises:
        UserError: the model or the data are missing.
    """
    name = str(model)
    data = load_data(project)
    loaded = load_model(project.model_file(model), command("train", model), data)
    training = read_training(project, model)
    test = load_test(project.split)
    probabilities = predict_probabilities(loaded, test.images)
    robustness = robustness_table(partial(predict_probabilities, loaded), load_validation(project.split))
    report = write_report(project.report(model), name, data, test, probabilities, robustness)
    with atomic_path(project.predictions(model)) as temporary:
        predictions_table(test.labels, probabilities).to_parquet(temporary, index=False)
    # Which model the report is on, by content: sync and register must not join it to another one.
    write_json(project.test_report(model), {"model_md5": file_digest(project.model_file(model)), **asdict(report)})
    metrics = {
        "val_accuracy": training.validation_accuracy,
        "val_loss": training.validation_loss,
        "test_accuracy": report.accuracy,
        "test_loss": report.loss,
        "parameters": training.parameters,
    }
    # For `dvc metrics show`: one test image is 0.0001.
    write_json(project.metrics(model), {key: round(value, 4) for key, value in metrics.items()})
    if not is_offline(project):
        with can_wait():
            run_id = run_of(project, params, model)
            log_evaluation(open_store(project), project, model, run_id, file_digest(project.split / "test.npz"))
    say(
        f"{name}: test accuracy {report.accuracy:.2%} (95 % interval {report.accuracy_low:.2%} to "
        f"{report.accuracy_high:.2%}), figures in {project.report(model).relative_to(project.root)}/figures"
    )
