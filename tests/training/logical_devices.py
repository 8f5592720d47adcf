"""Small trainings for a process whose CPU is divided into two logical devices, which stand for two GPUs."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mnist_pipeline.data.normalize import fit as fit_statistics
from mnist_pipeline.training.checkpoint import Checkpoint
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams
from small_project import MNIST, draw_digits, tiny_params

ONE, TWO = ("/device:CPU:0",), ("/device:CPU:0", "/device:CPU:1")
# An odd number for validation, so that two replicas cannot share it evenly.
TRAIN, VALIDATION = draw_digits(500, 0), draw_digits(201, 1)
STATISTICS = fit_statistics(TRAIN.images)


def divide_cpu() -> None:
    """Make two logical devices, with what `choose_device` sets for GPUs; to be called before TensorFlow is used."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    tf.config.experimental.enable_op_determinism()


def make_model(
    name: str, *, dropout: float = 0.0, batch_normalization: bool = False, rotation: float = 0.0, **training: Any
) -> ModelParams:
    """Return a tiny model's parameters, without anything random unless it is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        content = tiny_params(Path(folder)).model(name).model_dump()
    content["architecture"] |= {"dropout": dropout, "batch_normalization": batch_normalization}
    content["training"] |= training
    content["augmentation"] |= {"rotation": rotation, "shift": 0, "zoom": 0, "shear": 0}
    return ModelParams.model_validate(content)


def fit(
    model: ModelParams, names: tuple[str, ...] = ONE, precision: Any = "float32", *, xla: bool = False, **more: Any
) -> dict[str, Any]:
    """Train; return the numbers of each epoch, the weights and what can be said of the network's types."""
    import keras

    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.trainer import train

    device = Device("cpu", names, precision, xla=xla)
    result = train(model, TrainingData(TRAIN, VALIDATION, STATISTICS, MNIST), seed=0, device=device, **more)
    return {
        "history": [[epoch.train_loss, epoch.train_accuracy, epoch.val_loss] for epoch in result.history],
        "weights": b"".join(array.tobytes() for array in result.model.get_weights()),
        "layers": {layer.dtype_policy.name for layer in result.model.layers if layer.name != "pixels"},
        "policy_afterwards": keras.config.dtype_policy().name,
        "accuracy_claimed": result.best.val_accuracy,
        "accuracy": _accuracy(result.model.predict(VALIDATION.images, verbose=0)),
    }


def interrupt_and_resume(model: ModelParams, names: tuple[str, ...], precision: Any) -> dict[str, Any]:
    """Train one epoch, then the rest from the checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint.npz", key="this training")
        fit(model, names, precision, checkpoint=checkpoint, on_epoch=_stop)
        return fit(model, names, precision, checkpoint=checkpoint)


def draws_of_replicas() -> dict[str, Any]:
    """Return what one step of two replicas sees of one and the same image, and what they drop of it."""
    import keras
    import tensorflow as tf

    from mnist_pipeline.training.training_model import prepare, separate_replicas

    params = make_model("mlp", dropout=0.5, rotation=10)
    device = Device("cpu", TWO, "float32", xla=False)
    with device.scope():
        model = _build(params)
        trained = prepare(model, params, seed=0, steps=1, device=device)
    separate_replicas(model, trained)
    strategy: Any = trained.distribute_strategy
    same = tf.constant(np.repeat(TRAIN.images[:1], 50, axis=0))
    (step,) = strategy.experimental_distribute_dataset(tf.data.Dataset.from_tensors(same).unbatch().batch(50))
    dropout = next(layer for layer in model.layers if isinstance(layer, keras.layers.Dropout))
    seen: Any = tf.function(strategy.run)(trained.distort, args=(step,))
    kept: Any = tf.function(strategy.run)(dropout, args=(tf.ones((25, 16)),), kwargs={"training": True})
    return {"images": [part.numpy() for part in seen.values], "kept": [part.numpy() for part in kept.values]}


def types_inside(precision: Any) -> dict[str, str]:
    """Return in which types a model that is built for `precision` works."""
    with Device("cpu", ONE, precision, xla=False).scope():
        model = _build(make_model("cnn"))
    return {
        "convolution": next(layer for layer in model.layers if "convolution" in layer.name).compute_dtype,
        "weights": str(model.trainable_variables[0].dtype),
        "logits": model.get_layer("logits").compute_dtype,
    }


def save_and_load(precision: Any) -> dict[str, Any]:
    """Train in `precision`, save the model, load it as a stranger would and give it raw pixels."""
    import keras

    from mnist_pipeline.models.model import save_model
    from mnist_pipeline.training.data import TrainingData
    from mnist_pipeline.training.trainer import train

    device, data = Device("cpu", ONE, precision, xla=False), TrainingData(TRAIN, VALIDATION, STATISTICS, MNIST)
    result = train(make_model("cnn", epochs=1), data, seed=0, device=device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        save_model(result.model, path)
        loaded: Any = keras.saving.load_model(path)
    layers = {layer.dtype_policy.name for layer in loaded.layers if layer.name != "pixels"}
    return {"probabilities": loaded(TRAIN.images[:2]).dtype.name, "layers": sorted(layers)}


def _stop(_: Epoch) -> bool:
    return True


def _build(params: ModelParams) -> Any:
    from mnist_pipeline.models.model import build_model

    return build_model(params.architecture, params.normalization, STATISTICS, MNIST)


def _accuracy(probabilities: Any) -> float:
    return float((probabilities.argmax(axis=1) == VALIDATION.labels).mean())
