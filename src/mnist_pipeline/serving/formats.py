"""What a model can be exported as, and which packages that takes: nothing heavy, because the command line reads it."""

from enum import StrEnum
from importlib.util import find_spec

from mnist_pipeline.core.errors import UserError


class Format(StrEnum):
    """What a model can be exported as."""

    ONNX = "onnx"
    LITERT = "litert"
    INT8 = "int8"
    SAVED_MODEL = "saved_model"


SUFFIXES = {
    Format.ONNX: ".onnx",
    Format.LITERT: ".tflite",
    Format.INT8: "-int8.tflite",
    Format.SAVED_MODEL: "-saved_model",
}
"""What follows the name of a model in the name of its export."""
NEEDS = {
    Format.ONNX: ("tf2onnx", "onnxruntime"),
    Format.LITERT: ("ai_edge_litert",),
    Format.INT8: ("ai_edge_litert",),
    Format.SAVED_MODEL: (),
}
"""Modules that writing a format and asking the file take."""


def need(extra: str, command: str, *modules: str) -> None:
    """See that the packages of an extra are installed.

    Raises:
        UserError: they are not; the message says how to install them.
    """
    if missing := [module for module in modules if find_spec(module) is None]:
        raise UserError(
            f"{command} needs {' and '.join(missing)}: install what is missing with `pip install '.[{extra}]'`."
        )
