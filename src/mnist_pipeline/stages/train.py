"""`mnist train NAME`: one model, from the train and validation splits."""

from dataclasses import replace

from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import known_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import load_train, load_validation, train_file, validation_file
from mnist_pipeline.data.normalize import load_statistics
from mnist_pipeline.models.model import save_model
from mnist_pipeline.tracking.augmentation_sheet import contact_sheet
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.training.checkpoint import Checkpoint, training_key
from mnist_pipeline.training.devices import Device, choose_device
from mnist_pipeline.training.history import Epoch, write_history
from mnist_pipeline.training.params import Params
from mnist_pipeline.training.trainer import TrainingData, TrainingResult, train


def run(project: Project, params: Params, model: ModelId) -> None:
    """Train an entry of `models`; write its model file, history and summary, and log an MLflow run.

    Raises:
        UserError: the splits are missing, the device is not there, or the training diverged.
    """
    name, model_params = str(model), params.model(model.entry)
    device = choose_device(params.device)
    data = load_data(project)
    checkpoint = find_checkpoint(project, params, model, device)
    resume, earlier = checkpoint.previous_run()
    with training_run(project, params, model, tags=device.tags(), resume=resume) as run:
        say(f"{name}: {len(data.train)} training images, on {', '.join(device.names)} ({device.precision})")
        if earlier:
            say(f"{name}: resuming after epoch {earlier[-1].epoch}, where this training was interrupted")
        if not model_params.augmentation.is_off:
            run.log_figure(contact_sheet(name, model_params, data.train, seed=params.seed), "augmentation.png")
        run.log_epochs(*earlier)  # a kill may have kept the last one from the store

        def report(epoch: Epoch) -> None:
            say(progress_line(epoch, model_params.training.epochs))
            run.log_new_epoch(epoch)

        checkpoint = replace(checkpoint, run_id=run.run_id)
        result = train(model_params, data, seed=params.seed, device=device, on_epoch=report, checkpoint=checkpoint)
        save_model(result.model, project.model_file(model))
        write_history(project.history(model), result.history)
        write_json(project.training_summary(model), summary := summarize(result))
        run.log_result(summary, result.seconds)
    checkpoint.remove()
    say(
        f"{name}: validation accuracy {result.best.validation_accuracy:.2%} in epoch {result.best.epoch}, "
        f"{summary['parameters']:,} parameters, {result.seconds:.0f} s"
    )


def load_data(project: Project) -> TrainingData:
    """Load what a training may see: the train and validation splits, never the test split.

    Raises:
        UserError: a file is missing or damaged.
    """
    return TrainingData(
        load_train(project.split), load_validation(project.split), load_statistics(project.normalization)
    )


def find_checkpoint(project: Project, params: Params, model: ModelId, device: Device) -> Checkpoint:
    """Return the checkpoint of exactly this training: the same parameters, data, code and device."""
    files = [train_file(project.split), validation_file(project.split), project.normalization]
    inputs = {
        "model": params.model(model.entry).model_dump_json(),
        "seed": str(params.seed),
        **device.tags(),
        **{file.name: known_digest(file) for file in files},
    }
    return Checkpoint(project.checkpoint(model), training_key(inputs))


def progress_line(epoch: Epoch, epochs: int) -> str:
    """Return one line on an epoch, the same width for each."""
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.loss:.4f}  accuracy {epoch.accuracy:7.2%}  "
        f"validation loss {epoch.validation_loss:.4f}  accuracy {epoch.validation_accuracy:7.2%}  "
        f"learning rate {epoch.learning_rate:.1e}"
    )


def summarize(result: TrainingResult) -> dict[str, float]:
    """Return the content of `training.json`: no seconds, so that equal trainings write equal files."""
    return {
        "validation_accuracy": result.best.validation_accuracy,
        "validation_loss": result.best.validation_loss,
        "best_epoch": result.best.epoch,
        "epochs": len(result.history),
        "parameters": result.model.count_params(),
    }
