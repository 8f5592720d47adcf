"""Where a training runs, and in which precision."""

import ctypes
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from typing import Any, Literal

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.provenance.environment import cpu_flags, cpu_model
from mnist_pipeline.training.params import Precision

Policy = Literal["float32", "mixed_bfloat16", "mixed_float16"]
"""Keras' name for a precision."""
POLICIES: dict[str, Policy] = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
FASTER_ON = {
    "bfloat16": "a GPU of compute capability 8.0 or a CPU with amx_bf16 or avx512_bf16",
    "float16": "a GPU of compute capability 7.0",
}
"""What a precision takes to be faster than float32."""


@dataclass(frozen=True)
class Device:
    """What TensorFlow computes on."""

    kind: Literal["cpu", "gpu"]
    """Kind of device that was chosen."""
    names: tuple[str, ...]
    """The devices taken, such as `/device:GPU:0`."""
    precision: Policy
    """Keras' dtype policy. Weights, softmax and loss are float32 in each."""
    xla: bool
    """Whether the whole training step is compiled by XLA: it pays on one GPU, not for convolutions on a CPU."""

    @property
    def strategy(self) -> str:
        """How one batch is spread over the devices."""
        return "mirrored" if len(self.names) > 1 else "single"

    @property
    def is_special(self) -> bool:
        """Whether what is built in `scope` differs from what is built outside."""
        return self.precision != "float32" or self.strategy != "single"

    def tags(self) -> dict[str, str]:
        """Return what is logged with each run, such as `2 gpu, mixed_float16, xla`."""
        count = [str(len(self.names))] if len(self.names) > 1 else []
        return {"device": ", ".join([" ".join([*count, self.kind]), self.precision, *(["xla"] if self.xla else [])])}

    @contextmanager
    def scope(self) -> Generator[None]:
        """Spread what is built in here over the devices, in their precision; Keras' own policy is put back after."""
        import keras
        import tensorflow as tf

        strategy = _mirrored(self.names) if self.strategy == "mirrored" else tf.distribute.get_strategy()
        before = keras.config.dtype_policy()
        keras.config.set_dtype_policy(self.precision)
        try:
            with strategy.scope():
                yield
        finally:
            keras.config.set_dtype_policy(before)


@cache
def _mirrored(names: tuple[str, ...]) -> Any:
    """Return one and the same strategy for all trainings of this process: the all-reduces of two would be mixed up."""
    import tensorflow as tf

    return tf.distribute.MirroredStrategy(names)


def choose_device(
    wanted: Literal["auto", "gpu", "cpu"], precision: Precision = "auto", *, memory_share: float = 1
) -> Device:
    """Choose the devices to train on. Call it before TensorFlow has computed anything.

    `auto` takes every visible GPU, otherwise the CPU. GPUs get memory growth, so that two processes can share one, and
    operations whose results repeat to the bit.

    Args:
        wanted: kind of device.
        precision: what it computes in; `auto` is 16 bits on GPUs that are faster so, and float32 on a CPU.
        memory_share: of each GPU's memory that may be taken, in (0, 1]; below 1 it is taken at once.

    Raises:
        UserError: `gpu` is wanted and TensorFlow sees none, or the precision is slower than float32 on the device.
    """
    _load_solver()
    with quiet_native_logs():  # CUDA calls it an error that there is no GPU
        import tensorflow as tf

        gpus = tf.config.get_visible_devices("GPU")
    if wanted == "gpu" and not gpus:
        seen = ", ".join(device.name for device in tf.config.get_visible_devices()) or "no device"
        raise UserError(
            f"params.yaml: device is `gpu`, but TensorFlow {tf.__version__} sees only {seen}: install the CUDA "
            "libraries with `pip install '.[gpu]'` (Linux, NVIDIA driver needed), or set device to `auto` or `cpu`."
        )
    if wanted == "cpu" or not gpus:
        # A model that is told to stay on the CPU must not take the GPU's memory all the same.
        tf.config.set_visible_devices([], "GPU")
        return Device("cpu", ("/device:CPU:0",), _choose_policy(precision, []), xla=False)
    policy = _choose_policy(precision, gpus)
    tf.config.experimental.enable_op_determinism()  # a CPU's results repeat without it
    for gpu in gpus:
        if memory_share < 1:
            limit = tf.config.LogicalDeviceConfiguration(memory_limit=int(memory_share * _smallest_memory()))
            tf.config.set_logical_device_configuration(gpu, [limit])
        else:
            tf.config.experimental.set_memory_growth(gpu, True)
    names = tuple(f"/device:GPU:{index}" for index in range(len(gpus)))
    # Keras hands the step of all replicas to XLA as one, and XLA compiles for one device.
    return Device("gpu", names, policy, xla=len(gpus) == 1)


def _load_solver() -> None:
    """Load the one CUDA library that TensorFlow 2.21 cannot find among the packages of its extra `and-cuda`.

    The search path of its loader lacks the folder of this package, and without the library it uses no GPU at all.
    """
    with suppress(PackageNotFoundError, OSError):  # no GPU is wanted, or TensorFlow says what is missing
        package = distribution("nvidia-cusolver-cu12")
        ctypes.CDLL(str(package.locate_file("nvidia/cusolver/lib/libcusolver.so.11")))


def _smallest_memory() -> float:
    """Return the memory of this machine's smallest GPU in MB: TensorFlow does not tell."""
    import pynvml  # pyright: ignore[reportMissingImports] - part of the extra `gpu`

    pynvml.nvmlInit()
    handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
    return min(pynvml.nvmlDeviceGetMemoryInfo(handle).total for handle in handles) / 2**20


def _choose_policy(wanted: Precision, gpus: list[Any]) -> Policy:
    """Return Keras' dtype policy for what is wanted: `auto` is the fastest on GPUs, and float32 on a CPU."""
    faster = _faster_than_float32(gpus)
    match wanted:
        case "auto":
            return POLICIES[faster[0] if gpus and faster else "float32"]
        case "bfloat16" | "float16" if wanted not in faster:
            allowed = ", ".join(f"`{name}`" for name in (*faster, "float32"))
            raise UserError(
                f"params.yaml: precision is `{wanted}`, which takes {FASTER_ON[wanted]} to be faster than float32, and "
                f"here is {'an older GPU' if gpus else cpu_model()}: set precision to {allowed} or `auto`."
            )
        case _:
            return POLICIES[wanted]


def _faster_than_float32(gpus: list[Any]) -> list[Literal["bfloat16", "float16"]]:
    """Return the precisions that pay, the best first; the weakest GPU decides."""
    import tensorflow as tf

    if not gpus:
        return ["bfloat16"] if {"amx_bf16", "avx512_bf16"} & {*cpu_flags()} else []
    capability = min(tf.config.experimental.get_device_details(gpu).get("compute_capability", (0, 0)) for gpu in gpus)
    return [*(["bfloat16"] if capability >= (8, 0) else []), *(["float16"] if capability >= (7, 0) else [])]
