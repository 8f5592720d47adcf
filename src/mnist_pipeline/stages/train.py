"""`mnist train NAME`: one model, from the train and validation splits."""

import os
from dataclasses import asdict, replace

from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import known_digest, write_json
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.data.dataset import train_file, validation_file
from mnist_pipeline.models.model import save_model
from mnist_pipeline.provenance.inputs import present_inputs, recorded_inputs
from mnist_pipeline.provenance.pipeline import read_lock
from mnist_pipeline.tracking.augmentation_sheet import contact_sheet
from mnist_pipeline.tracking.runs import training_run
from mnist_pipeline.training.checkpoint import Checkpoint, training_key
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.devices import Device, choose_device
from mnist_pipeline.training.history import Epoch, TrainingSummary, write_history
from mnist_pipeline.training.params import Params
from mnist_pipeline.training.trainer import TrainingResult, train


def run(project: Project, params: Params, model: ModelId) -> None:
    """Train an entry of `models`; write its model file, history and summary, and log an MLflow run.

    Raises:
        UserError: the splits are missing, the device is not there, or the training diverged.
    """
    device, data = choose_device(params.device, params.precision), TrainingData.load(project)
    checkpoint = find_checkpoint(project, params, model, device)
    if is_awaited_by_dvc(project, model) and checkpoint.ended.load():
        say(f"{model}: this training had ended already; writing its results")
        entry = params.model(model.entry)
        result = train(entry, data, seed=params.seed, device=device, checkpoint=checkpoint.ended)
        write_results(project, model, result)
    else:
        checkpoint.ended.remove()
        result = train_in_run(project, params, model, data, device, checkpoint)
        if "DVC_STAGE" in os.environ:  # which may be killed before it has put the results into its cache
            checkpoint.path.replace(checkpoint.ended.path)
        else:
            checkpoint.remove()
    say(
        f"{model}: validation accuracy {result.best.val_accuracy:.2%} in epoch {result.best.epoch}, "
        f"{result.model.count_params():,} parameters, {result.seconds:.0f} s"
    )


def is_awaited_by_dvc(project: Project, model: ModelId) -> bool:
    """Return whether DVC runs this training and `dvc.lock` does not know yet what comes of its present inputs.

    If it does, DVC was asked to train once more, as by `dvc repro --force`.
    """
    inputs = present_inputs(project, "train", model)
    if inputs is None or os.environ.get("DVC_STAGE", "").rpartition(":")[2] != inputs.stage:
        return False
    return recorded_inputs(read_lock(project), inputs.stage) != inputs


def train_in_run(
    project: Project, params: Params, model: ModelId, data: TrainingData, device: Device, checkpoint: Checkpoint
) -> TrainingResult:
    """Train in an MLflow run, a new one or that of the training which the checkpoint continues; write the results."""
    name, entry = str(model), params.model(model.entry)
    resume, earlier = checkpoint.previous_run()
    with training_run(project, params, model, tags=device.tags(), resume=resume) as run:
        say(f"{name}: {len(data.train)} training images, on {', '.join(device.names)} ({device.precision})")
        if earlier:
            say(f"{name}: resuming after epoch {earlier[-1].epoch}, where this training was interrupted")
        if not entry.augmentation.is_off:
            run.log_figure(contact_sheet(name, entry, data.about, data.train, seed=params.seed), "augmentation.png")
        run.log_epochs(*earlier)  # a kill may have kept the last one from the store

        def report(epoch: Epoch) -> None:
            say(progress_line(epoch, entry.training.epochs))
            run.log_new_epoch(epoch)

        checkpoint = replace(checkpoint, run_id=run.run_id)
        result = train(entry, data, seed=params.seed, device=device, on_epoch=report, checkpoint=checkpoint)
        run.log_result(write_results(project, model, result), result.seconds)
    return result


def write_results(project: Project, model: ModelId, result: TrainingResult) -> TrainingSummary:
    """Write the model file, the history and the summary, which is returned."""
    save_model(result.model, project.model_file(model))
    write_history(project.history(model), result.history)
    write_json(project.training_summary(model), asdict(summary := summarize(result)))
    return summary


def find_checkpoint(project: Project, params: Params, model: ModelId, device: Device) -> Checkpoint:
    """Return the checkpoint of exactly this training: the same parameters, data, code and device."""
    inputs = present_inputs(project, "train", model)
    files = [train_file(project.split), validation_file(project.split), project.normalization]
    decisive = {
        "stage": inputs.key if inputs else "",  # or the run that is continued would name other inputs
        "model": params.model(model.entry).model_dump_json(),
        "seed": str(params.seed),
        **device.tags(),
        **{file.name: known_digest(file) for file in files},
    }
    return Checkpoint(project.checkpoint(model), training_key(decisive))


def progress_line(epoch: Epoch, epochs: int) -> str:
    """Return one line on an epoch, the same width for each."""
    return (
        f"epoch {epoch.epoch:>{len(str(epochs))}}/{epochs}  loss {epoch.train_loss:.4f}  "
        f"accuracy {epoch.train_accuracy:7.2%}  "
        f"validation loss {epoch.val_loss:.4f}  accuracy {epoch.val_accuracy:7.2%}  "
        f"learning rate {epoch.learning_rate:.1e}"
    )


def summarize(result: TrainingResult) -> TrainingSummary:
    """Return the content of `training.json`: no seconds, so that equal trainings write equal files."""
    return TrainingSummary(
        validation_accuracy=result.best.val_accuracy,
        validation_loss=result.best.val_loss,
        best_epoch=result.best.epoch,
        epochs=len(result.history),
        parameters=result.model.count_params(),
    )
