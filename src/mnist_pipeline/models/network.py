"""From an architecture's parameters to an untrained network."""

from typing import TYPE_CHECKING

from mnist_pipeline.models.cnn import build_cnn
from mnist_pipeline.models.mlp import build_mlp
from mnist_pipeline.params import CnnArchitecture, MlpArchitecture

if TYPE_CHECKING:
    import keras


def build_network(architecture: MlpArchitecture | CnnArchitecture) -> "keras.Model":
    """Build the untrained network of `architecture`.

    Takes normalized images, float32 (n, 28, 28); returns logits, float32 (n, 10), also under mixed precision, because a
    softmax in 16 bits loses accuracy. Initial weights and dropout follow Keras' global seed
    (`keras.utils.set_random_seed`), and nothing else.
    """
    match architecture:
        case MlpArchitecture():
            return build_mlp(architecture)
        case CnnArchitecture():
            return build_cnn(architecture)
