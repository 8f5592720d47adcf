"""A model file of LiteRT, asked without TensorFlow."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.errors import UserError


class LiteModel:
    """A `.tflite` file in memory, for one thread at a time: raw pixels in, probabilities out."""

    def __init__(self, path: Path) -> None:
        """Load it.

        Raises:
            UserError: it is damaged.
        """
        with quiet_native_logs():
            from ai_edge_litert.interpreter import Interpreter

            try:
                self._interpreter = Interpreter(str(path))
            except ValueError as error:
                raise UserError(f"{path} is no model of LiteRT: delete it and run the command again.") from error
            self._interpreter.allocate_tensors()
        self._pixels, self._probabilities = (
            details[0]["index"]
            for details in (self._interpreter.get_input_details(), self._interpreter.get_output_details())
        )

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each digit, float32 (n, 10), for images, uint8 (n, 28, 28).

        One image after the other, so that an image gets the same answer, bit by bit, in whatever company it comes.
        """
        return np.concatenate([self._ask(images[index : index + 1]) for index in range(len(images))])

    def _ask(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._pixels, image)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._probabilities)
