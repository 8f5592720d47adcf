"""A model file of LiteRT, asked without TensorFlow."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnist_pipeline.core.console import quiet_native_logs
from mnist_pipeline.core.errors import UserError


class LiteModel:
    """A `.tflite` file in memory, for one thread at a time: raw pixels in, probabilities out."""

    def __init__(self, path: Path) -> None:
        """Load it; a UserError says that it is damaged."""
        with quiet_native_logs():
            from ai_edge_litert.interpreter import Interpreter

            try:
                self._interpreter = Interpreter(str(path))
            except ValueError as error:
                raise UserError(f"{path} is no model of LiteRT: delete it and run the command again.") from error
            self._interpreter.allocate_tensors()
        pixels: Any = self._interpreter.get_input_details()[0]
        probabilities: Any = self._interpreter.get_output_details()[0]
        self._pixels, self._probabilities = pixels["index"], probabilities["index"]
        self.image_size: list[int] = pixels["shape"][1:].tolist()
        self.classes = int(probabilities["shape"][-1])

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return the probability of each class, float32 (n, classes), for images, uint8 (n, height, width).

        One image after the other, so that an image gets the same answer, bit by bit, in whatever company it comes.
        """
        return np.concatenate([self._ask(images[index : index + 1]) for index in range(len(images))])

    def _ask(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        self._interpreter.set_tensor(self._pixels, image)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._probabilities)
