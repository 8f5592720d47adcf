"""A small training for a process of its own, which may be killed at any moment."""

import hashlib
import os
import signal
import tempfile
import threading
from pathlib import Path

from mnist_pipeline.data.normalize import fit
from mnist_pipeline.training.checkpoint import Checkpoint
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams
from small_project import MNIST, draw_digits, tiny_params

EPOCHS = 6


def train_in_process(folder: str, kill_after: float | None) -> None:
    """Train or resume; write the digest of the weights and the history to `folder`.

    Args:
        folder: where the checkpoint and the results are.
        kill_after: seconds after the first epoch of this process at which it kills itself; never if None.
    """
    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.devices import choose_device
    from mnist_pipeline.training.trainer import train

    def on_epoch(_: Epoch) -> None:
        if kill_after is not None and threading.active_count() < 3:
            threading.Timer(kill_after, os.kill, (os.getpid(), signal.SIGKILL)).start()

    images = draw_digits(20_000, 0)
    data = TrainingData(images, draw_digits(500, 1), fit(images.images), MNIST)
    checkpoint = Checkpoint(Path(folder) / "checkpoint.npz", key="this training")
    device = choose_device("cpu")
    result = train(killable_params(), data, seed=3, device=device, on_epoch=on_epoch, checkpoint=checkpoint)
    digest = hashlib.sha256(b"".join(array.tobytes() for array in result.model.get_weights())).hexdigest()
    epochs = " ".join(f"{epoch.epoch}:{epoch.train_loss}:{epoch.val_loss}" for epoch in result.history)
    (Path(folder) / "result.txt").write_text(f"{digest} {epochs}", encoding="utf-8")


def killable_params() -> ModelParams:
    """Return a network with all that a resume could forget: dropout, a schedule, averages, augmentation."""
    with tempfile.TemporaryDirectory() as folder:
        content = tiny_params(Path(folder)).model("mlp").model_dump()
    content["training"] |= {"epochs": EPOCHS, "early_stopping": 5, "batch_size": 100}
    content["training"]["final_epochs_without_augmentation"] = 1
    content["augmentation"] |= {"rotation": 10, "shift": 2, "zoom": 0.1}
    content["architecture"] |= {"dropout": 0.3, "batch_normalization": True, "hidden_units": [64, 32]}
    return ModelParams.model_validate(content)
