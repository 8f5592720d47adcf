"""Small trainings for a process whose CPU is divided into two logical devices, which stand for two GPUs."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from mnist_pipeline.params import ModelParams
from mnist_pipeline.training.checkpoint import Checkpoint
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.history import Epoch
from small_project import draw_digits, tiny_params

ONE, TWO = ("/device:CPU:0",), ("/device:CPU:0", "/device:CPU:1")
OFF = {"rotation": 0, "shift": 0, "zoom": 0, "shear": 0, "elastic": 0, "elastic_smoothing": 4}
# An odd number for validation, so that two replicas cannot share it evenly.
TRAIN, VALIDATION = draw_digits(500, 0), draw_digits(201, 1)


def divide_cpu() -> None:
    """Make two logical devices; to be called before TensorFlow is used."""
    import tensorflow as tf

    (cpu,) = tf.config.list_physical_devices("CPU")
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)


def make_model(name: str, *, dropout: float = 0.0, augmented: bool = False, **training: Any) -> ModelParams:
    """Return a tiny model's parameters, without anything random unless it is asked for."""
    with tempfile.TemporaryDirectory() as folder:
        content = tiny_params(Path(folder)).model(name).model_dump()
    content["architecture"]["dropout"] = dropout
    content["training"] |= training
    if not augmented:
        content["augmentation"] = OFF
    return ModelParams.model_validate(content)


def fit(
    model: ModelParams, names: tuple[str, ...] = ONE, precision: Any = "float32", *, xla: bool = False, **more: Any
) -> dict[str, Any]:
    """Train; return the numbers of each epoch, the weights and what can be said of the network's types."""
    import keras

    from mnist_pipeline.training.trainer import Trainer

    device = Device("cpu", names, precision, xla=xla)
    result = Trainer(TRAIN, VALIDATION, device=device, black=0.0).train(model, seed=0, **more)
    return {
        "history": [[epoch.loss, epoch.accuracy, epoch.validation_loss] for epoch in result.history],
        "weights": b"".join(array.tobytes() for array in result.network.get_weights()),
        "network": {layer.dtype_policy.name for layer in result.network.layers},
        "policy_afterwards": keras.config.dtype_policy().name,
        "accuracy_claimed": result.best.validation_accuracy,
        "accuracy": _accuracy(result.network.predict(VALIDATION.images, verbose=0)),
    }


def interrupt_and_resume(model: ModelParams, names: tuple[str, ...], precision: Any) -> dict[str, Any]:
    """Train one epoch, then the rest from the checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Checkpoint(Path(folder) / "checkpoint.npz", key="this training")
        fit(model, names, precision, checkpoint=checkpoint, on_epoch=_stop)
        return fit(model, names, precision, checkpoint=checkpoint)


def draws_of_replicas() -> dict[str, Any]:
    """Return what one step of two replicas sees of one and the same image, and what they drop of it."""
    import tensorflow as tf

    from mnist_pipeline.data.dataset import Subset
    from mnist_pipeline.training.batches import batches
    from mnist_pipeline.training.compiled import AdjustableDropout, CompiledModel, TrainingImages

    model = make_model("mlp", dropout=0.5, augmented=True)
    same = Subset(np.repeat(TRAIN.images[:1], 50, axis=0), TRAIN.labels[:50])
    with Device("cpu", TWO, "float32", xla=False).scope():
        images, network = TrainingImages(same, black=0.0), _network(model)
        images.start(model, seed=0)
        trained = CompiledModel(network, images, model, steps=1, xla=False)
        trained.start(network, model)
    trained.separate_replicas()
    strategy: Any = trained.distribute_strategy
    (step,) = strategy.experimental_distribute_dataset(batches(50, 50, 1, seed=0))
    dropout = next(layer for layer in trained.network.layers if isinstance(layer, AdjustableDropout))

    def fetch(*part: Any) -> Any:
        return trained.fetch(*part)[0]

    seen: Any = tf.function(strategy.run)(fetch, args=step)
    kept: Any = tf.function(strategy.run)(dropout, args=(tf.ones((25, 16)),), kwargs={"training": True})
    return {"images": [part.numpy() for part in seen.values], "kept": [part.numpy() for part in kept.values]}


def types_inside(precision: Any) -> dict[str, str]:
    """Return in which types a network that is built for `precision` works."""
    with Device("cpu", ONE, precision, xla=False).scope():
        network = _network(make_model("cnn"))
    return {
        "convolution": next(layer for layer in network.layers if "conv" in layer.name).compute_dtype,
        "weights": str(network.trainable_variables[0].dtype),
        "logits": str(network(TRAIN.images[:1]).dtype.name),
    }


def save_and_load(precision: Any) -> dict[str, Any]:
    """Train in `precision`, save the finished model, load it as a stranger would and give it raw pixels."""
    import keras

    from mnist_pipeline.data.normalize import Normalization
    from mnist_pipeline.models.preprocessing import with_preprocessing
    from mnist_pipeline.training.trainer import Trainer

    device = Device("cpu", ONE, precision, xla=False)
    result = Trainer(TRAIN, VALIDATION, device=device, black=0.0).train(make_model("cnn", epochs=1), seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        with_preprocessing(result.network, Normalization("unit", 1 / 255, 0.0)).save(path)
        loaded: Any = keras.saving.load_model(path)
    pixels = np.arange(2 * 28 * 28, dtype=np.uint8).reshape(2, 28, 28)
    layers = {layer.dtype_policy.name for layer in [*loaded.layers, *loaded.get_layer("network").layers]}
    return {"probabilities": loaded(pixels).dtype.name, "layers": sorted(layers)}


def _stop(_: Epoch) -> bool:
    return True


def _network(model: ModelParams) -> Any:
    from mnist_pipeline.models.network import build_network

    return build_network(model.architecture)


def _accuracy(logits: Any) -> float:
    return float((logits.argmax(axis=1) == VALIDATION.labels).mean())
