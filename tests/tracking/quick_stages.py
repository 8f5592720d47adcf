"""Stages that take little time: their files look like those of the real ones, and the real code tells MLflow of them.

Copied into a project as `src/quick_stages.py` and called by its dvc.yaml.
"""

import sys
from dataclasses import asdict

from mnist_pipeline.core.files import file_digest, write_json
from mnist_pipeline.core.project import ModelId, find_project
from mnist_pipeline.training.history import Epoch, TrainingSummary, write_history
from mnist_pipeline.training.params import load_params
from small_project import MNIST, draw_digits, write_data

project = find_project()
params = load_params(project.params)


def data() -> None:
    sizes = {"train": 50, "validation": 20, "test": 30}
    write_data(project, {name: draw_digits(size, size) for name, size in sizes.items()})


def train(name: str) -> None:
    """Draw the weights by the seed, and leave it at that."""
    import keras

    from mnist_pipeline.data.normalize import load_statistics
    from mnist_pipeline.models.model import build_model, save_model
    from mnist_pipeline.tracking.runs import training_run

    model = ModelId(name)
    entry = params.model(name)
    with training_run(project, params, model, tags={}) as run:
        accuracy = 0.6 + params.seed / 100
        history = [Epoch(epoch, 1 / epoch, 0.5, 0.9 / epoch, accuracy, 0.001) for epoch in (1, 2, 3)]
        for epoch in history:
            run.log_new_epoch(epoch)
        keras.utils.set_random_seed(params.seed)
        network = build_model(entry.architecture, entry.normalization, load_statistics(project.normalization), MNIST)
        save_model(network, project.model_file(model))
        write_history(project.history(model), history)
        summary = TrainingSummary(accuracy, 0.3, 3, 3, network.count_params())
        write_json(project.training_summary(model), asdict(summary))
        run.log_result(summary, 0.3)


def evaluate(name: str) -> None:
    """Write the report and say nothing of it, as where the store was out of reach."""
    import pandas as pd

    from mnist_pipeline.evaluation.metrics import Metrics
    from mnist_pipeline.evaluation.robustness import CORRUPTIONS

    shares = dict.fromkeys(("macro_precision", "macro_recall", "macro_f1", "expected_calibration_error"), 0.5)
    recall = {str(digit): 0.5 for digit in range(10)}
    metrics = Metrics(images=30, accuracy=0.5, accuracy_low=0.4, accuracy_high=0.6, loss=0.7, **shares, recall=recall)
    write_json(project.test_report(name), {"model_md5": file_digest(project.model_file(name)), **asdict(metrics)})
    robustness = pd.DataFrame([dict.fromkeys(("strength", *CORRUPTIONS, "mean"), strength) for strength in (0, 1)])
    robustness.to_csv(project.robustness(name), index=False)
    (project.report(name) / "confusion.csv").write_text("actual,predicted\n0,0\n1,7\n")
    (project.report(name) / "figures").mkdir(exist_ok=True)
    (project.report(name) / "figures" / "recall.png").write_bytes(b"a figure")


def register() -> None:
    from mnist_pipeline.stages import register as stage

    stage.run(project, params)


globals()[sys.argv[1]](*sys.argv[2:])
