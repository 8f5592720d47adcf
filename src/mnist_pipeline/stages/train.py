"""`mnist train NAME`: one model, from the train and validation splits."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mnist_pipeline.console import say
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.data.normalize import load_normalization
from mnist_pipeline.files import atomic_path, known_digest, write_json
from mnist_pipeline.models.preprocessing import with_preprocessing
from mnist_pipeline.params import Params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.preview import contact_sheet
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.training.checkpoint import Checkpoint, training_key
from mnist_pipeline.training.devices import Device, choose_device
from mnist_pipeline.training.history import Epoch, write_history
from mnist_pipeline.training.trainer import Trainer, TrainingResult

if TYPE_CHECKING:
    import keras


def run(project: Project, params: Params, name: str) -> None:
    """Train `params.models[name]`; write `models/<name>/{model.keras,history.csv,metrics.json}` and log an MLflow run.

    Raises:
        UserError: the splits are missing, the device is not there, or the training diverged.
    """
    model_params = params.model(name)
    device = choose_device(params.device)
    normalization = load_normalization(project.normalization)
    subsets = {"train": load_train(project.split), "validation": load_validation(project.split)}
    checkpoint = find_checkpoint(project, params, name, device)
    resume, earlier = checkpoint.previous_run()
    with training_run(project, params, name, tags=device.tags(), resume=resume) as run:
        run.log_epochs(*earlier)  # a kill may have kept the last one from the store
        say(f"{name}: {len(subsets['train'])} training images, on {', '.join(device.names)} ({device.precision})")
        if earlier:
            say(f"{name}: resuming after epoch {earlier[-1].epoch}, where this training was interrupted")
        if not model_params.augmentation.is_off:
            sheet = contact_sheet(name, model_params, subsets["train"], seed=params.seed, black=normalization.black)
            run.log_figure(sheet, "augmentation.png")

        def report(epoch: Epoch) -> None:
            say(progress_line(epoch, model_params.training.epochs))
            run.log_epochs(epoch)

        trainer = Trainer(subsets["train"], subsets["validation"], device=device, black=normalization.black)
        checkpoint = replace(checkpoint, run_id=run.run_id)
        result = trainer.train(model_params, seed=params.seed, on_epoch=report, checkpoint=checkpoint)
        model = with_preprocessing(result.network, normalization)
        metrics = summarize(result)
        _write(project.model(name), model, result, metrics)
        run.log_result(metrics)
    checkpoint.remove()
    say(
        f"{name}: validation accuracy {result.best.validation_accuracy:.2%} in epoch {result.best.epoch}, "
        f"{metrics['parameters']:,} parameters, {result.seconds:.0f} s"
    )


def find_checkpoint(project: Project, params: Params, name: str, device: Device) -> Checkpoint:
    """Return the checkpoint of exactly this training: the same parameters, data, code and device."""
    files = [project.split / "train.npz", project.split / "validation.npz", project.normalization]
    inputs = {
        "model": params.model(name).model_dump_json(),
        "seed": str(params.seed),
        **device.tags(),
        **{file.name: known_digest(file) for file in files},
    }
    return Checkpoint(project.checkpoint(name), training_key(inputs))


def _write(folder: Path, model: "keras.Model", result: TrainingResult, metrics: dict[str, float]) -> None:
    with atomic_path(folder / "model.keras") as temporary:
        model.save(temporary)
    write_history(folder / "history.csv", result.history)
    write_json(folder / "metrics.json", metrics)


def progress_line(epoch: Epoch, epochs: int) -> str:
    """Return one line on an epoch, the same width for each."""
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:7.2%}  "
        f"validation loss {epoch.validation_loss:.4f}  accuracy {epoch.validation_accuracy:7.2%}  "
        f"learning rate {epoch.learning_rate:.1e}  {epoch.seconds:5.1f} s"
    )


def summarize(result: TrainingResult) -> dict[str, float]:
    """Return the content of `metrics.json`."""
    return {
        "validation_accuracy": result.best.validation_accuracy,
        "validation_loss": result.best.validation_loss,
        "best_epoch": result.best.epoch,
        "epochs": len(result.history),
        "parameters": result.network.count_params(),
        "seconds": round(result.seconds, 1),
    }
