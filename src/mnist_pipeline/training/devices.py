"""Where a training runs, and in which precision."""

from dataclasses import dataclass
from typing import Any, Literal

from mnist_pipeline.console import quiet_native_logs
from mnist_pipeline.errors import UserError


@dataclass(frozen=True)
class Device:
    """What TensorFlow computes on."""

    kind: Literal["cpu", "gpu"]
    """What was chosen."""
    names: tuple[str, ...]
    """The devices taken, such as `/device:GPU:0`."""
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"]
    """Keras' dtype policy. Weights, softmax and loss are float32 in each."""
    xla: bool
    """Whether the whole training step is compiled by XLA: it pays on a GPU, not for convolutions on a CPU."""

    @property
    def strategy(self) -> str:
        """How one batch is spread over the devices."""
        return "mirrored" if len(self.names) > 1 else "single"

    def tags(self) -> dict[str, str]:
        """Return what is logged with each run."""
        return {
            "device_kind": self.kind,
            "device_names": ", ".join(self.names),
            "device_precision": self.precision,
            "device_strategy": self.strategy,
            "device_xla": str(self.xla).lower(),
        }

    def distribution(self) -> Any:
        """Return the distribution strategy under whose `scope()` the model must be built."""
        import tensorflow as tf

        if len(self.names) > 1:
            return tf.distribute.MirroredStrategy(self.names)
        return tf.distribute.get_strategy()


def choose_device(wanted: Literal["auto", "gpu", "cpu"]) -> Device:
    """Choose the devices to train on. Call it before TensorFlow has computed anything.

    `auto` takes every visible GPU, otherwise the CPU. GPUs get memory growth, so that two processes can share one.

    Raises:
        UserError: `gpu` is wanted and TensorFlow sees none.
    """
    import tensorflow as tf

    with quiet_native_logs():  # CUDA calls it an error that there is no GPU
        gpus = tf.config.list_physical_devices("GPU")
    if wanted == "gpu" and not gpus:
        seen = ", ".join(device.name for device in tf.config.list_physical_devices()) or "no device"
        raise UserError(
            f"params.yaml: device is `gpu`, but TensorFlow {tf.__version__} sees only {seen}: install the CUDA "
            "libraries with `pip install '.[gpu]'` (Linux, NVIDIA driver needed), or set device to `auto` or `cpu`."
        )
    if wanted == "cpu" or not gpus:
        # A model that is told to stay on the CPU must not take the GPU's memory all the same.
        tf.config.set_visible_devices([], "GPU")
        return Device("cpu", ("/device:CPU:0",), "float32", xla=False)
    for gpu in gpus:
        tf.config.experimental.set_memory_growth(gpu, True)
    names = tuple(f"/device:GPU:{index}" for index in range(len(gpus)))
    return Device("gpu", names, _gpu_precision(gpus), xla=True)


def _gpu_precision(
    gpus: list[Any],
) -> Literal["float32", "mixed_float16", "mixed_bfloat16"]:
    """Choose by the weakest GPU: bfloat16 from Ampere (8.0) on, float16 where there are tensor cores (7.0)."""
    import tensorflow as tf

    capability = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
    if capability >= (8, 0):
        return "mixed_bfloat16"
    return "mixed_float16" if capability >= (7, 0) else "float32"
