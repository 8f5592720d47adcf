"""Stages that take no time: what they write looks like the real ones' files, and is told to MLflow by the real code.

Copied into a project as `src/quick_stages.py` and called by its dvc.yaml.
"""

import sys
import uuid

from versions import crown

from mnist_pipeline.data.dataset import save_subset
from mnist_pipeline.data.normalize import Normalization, save_normalization
from mnist_pipeline.files import file_digest, write_json
from mnist_pipeline.params import load_params
from mnist_pipeline.project import find_project
from mnist_pipeline.training.history import Epoch, write_history
from small_project import draw_digits, write_originals

project = find_project()
params = load_params(project.params)


SUBSETS = {name: draw_digits(count, count) for name, count in {"train": 50, "validation": 20, "test": 30}.items()}


def download() -> None:
    write_originals(project, SUBSETS)


def normalize() -> None:
    save_normalization(project.normalization, Normalization("unit", 1 / 255, 0.0))


def split() -> None:
    for name, subset in SUBSETS.items():
        save_subset(project.split / f"{name}.npz", subset)
    write_originals(project, SUBSETS)  # for the manifest


def train(name: str) -> None:
    from mnist_pipeline.tracking.runs import training_run

    with training_run(project, params, name, tags={}) as run:
        history = [Epoch(epoch, 1 / epoch, 0.5, 0.9 / epoch, 0.6, 0.001, 0.1) for epoch in (1, 2, 3)]
        run.log_epochs(*history)
        folder = project.model(name)
        folder.mkdir(parents=True, exist_ok=True)
        # As Keras, which puts the time into the file: no two trainings write the same bytes.
        project.model_file(name).write_text(f"{params.seed} {uuid.uuid4()}")
        write_history(folder / "history.csv", history)
        metrics = {"validation_accuracy": 0.6 + params.seed / 100, "validation_loss": 0.3, "best_epoch": 3, "epochs": 3}
        metrics |= {"parameters": 10, "seconds": 0.3}
        write_json(folder / "metrics.json", metrics)
        run.log_result(metrics)


def evaluate(name: str) -> None:
    """Write the report and say nothing of it, as where the store was out of reach."""
    report = {"accuracy": 0.5, "accuracy_low": 0.4, "accuracy_high": 0.6, "loss": 0.7}
    more = dict.fromkeys(("macro_precision", "macro_recall", "macro_f1", "expected_calibration_error"), 0.5)
    recall = {str(digit): 0.5 for digit in range(10)}
    write_json(project.report(name) / "metrics.json", report | more | {"images": 30, "recall": recall})
    (project.report(name) / "confusion.csv").write_text("actual,predicted\n0,0\n1,7\n")
    (project.report(name) / "figures").mkdir(exist_ok=True)
    (project.report(name) / "figures" / "recall.png").write_bytes(b"a figure")
    digest = {"model_md5": file_digest(project.model_file(name))}
    write_json(project.model(name) / "evaluation.json", digest | {f"test_{key}": report[key] for key in report})


def register() -> None:
    """Crown whatever there is: these models are too fake to be compared."""
    crown(project, params, "mlp")
    digest = {"model_md5": file_digest(project.model_file("mlp"))}
    write_json(project.champion, {"model": "mlp", **digest})


globals()[sys.argv[1]](*sys.argv[2:])
