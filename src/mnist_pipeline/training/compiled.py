"""A network with its optimizer, compiled once for all trainings that differ in numbers only.

Learning rate, weight decay, dropout rates, augmentation strengths, label smoothing and the seed are variables of the
compiled step. A training in a used step equals one in a new step, bit for bit.
"""

from typing import Any

import keras
import tensorflow as tf

from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.models.augmentation import distort, limits, smoothing_of
from mnist_pipeline.params import AdamW, Augmentation, ModelParams
from mnist_pipeline.training.batches import CLASSES, one_hot
from mnist_pipeline.training.schedule import build_optimizer


def form(model: ModelParams) -> str:
    """Return all that a compiled step is made for: what differs in nothing else can share one."""
    content = model.model_dump(exclude={"augmentation": True, "architecture": {"dropout"}})
    for block in content["architecture"].get("blocks", ()):
        block["dropout"] = block["dropout"] > 0
    for number in ("learning_rate", "weight_decay"):
        content["training"]["optimizer"].pop(number, None)
    for elsewhere in ("label_smoothing", "monitor", "early_stopping", "final_epochs_without_augmentation"):
        del content["training"][elsewhere]
    dropouts = [rate > 0 for rate in model.architecture.dropouts]
    return repr((content, dropouts, model.augmentation.is_off, smoothing_of(model.augmentation)))


class TrainingImages:
    """Training images on the device, and the distortion of each step's share of them."""

    def __init__(self, data: Subset, black: float) -> None:
        self._black = black
        self._one_hot = one_hot(data)
        # Variables and not constants, because a strategy keeps a copy of a variable on each of its devices.
        self._images: Any = tf.Variable(tf.constant(data.images), trainable=False)
        self._targets: Any = tf.Variable(self._one_hot, trainable=False)
        self._limits: Any = tf.Variable(tf.zeros(7), trainable=False)
        self._augmented_until: Any = tf.Variable(tf.zeros((), tf.int64), trainable=False)
        self._seed: Any = tf.Variable(tf.zeros((), tf.int64), trainable=False)

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._one_hot)

    def start(self, model: ModelParams, seed: int) -> None:
        """Prepare for a training of this model with this seed."""
        training = model.training
        per_epoch = len(self) // training.batch_size * training.batch_size
        augmented_epochs = training.epochs - training.final_epochs_without_augmentation
        smoothing = training.label_smoothing
        self._targets.assign(self._one_hot * (1 - smoothing) + smoothing / CLASSES)
        self._limits.assign(limits(model.augmentation))
        self._augmented_until.assign(augmented_epochs * per_epoch)
        self._seed.assign(seed)

    def fetch(self, indices: Any, positions: Any, augmentation: Augmentation) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the images of one step, distorted, and their targets.

        Where replicas share a step, each has its part of the indices and positions, hence draws of its own.

        Args:
            indices: of the images, int64 (n,).
            positions: of the examples in the whole training, int64 (n,).
            augmentation: what of it is there at all; how strong it is was said to `start`.
        """
        images, targets = tf.gather(self._images, indices), tf.gather(self._targets, indices)
        if augmentation.is_off:
            return images, targets
        seed = tf.stack([self._seed, positions[0]])
        strength = tf.cast(positions[0] < self._augmented_until, tf.float32)
        return self._distort(images, strength * self._limits, seed, smoothing_of(augmentation)), targets

    # XLA fuses the gathers and the arithmetic of the warp: four times faster than op by op, on a CPU too.
    @tf.function(jit_compile=True)
    def _distort(self, images: tf.Tensor, limits: tf.Tensor, seed: tf.Tensor, smoothing: float | None) -> tf.Tensor:
        return distort(images, limits, seed, black=self._black, smoothing=smoothing)


class CompiledModel(keras.Model):
    """A network that is fed indices of `TrainingImages`; to be made, and started, in the device's scope.

    Args:
        network: one of the same architecture.
        images: what it is trained on.
        model: the parameters; those that `form` leaves out may differ from training to training.
        steps: of one epoch.
        xla: whether XLA compiles the whole step.
    """

    def __init__(
        self, network: keras.Model, images: TrainingImages, model: ModelParams, *, steps: int, xla: bool
    ) -> None:
        super().__init__()
        self.network: Any = keras.models.clone_model(network, clone_function=_adjustable)
        self._source = images
        self._augmentation = model.augmentation
        self._peak: Any = tf.Variable(tf.zeros(()), trainable=False)
        self._weight_decay: Any = tf.Variable(tf.zeros(()), trainable=False)
        optimizer = build_optimizer(model.training, steps * model.training.epochs, self._peak)
        if isinstance(model.training.optimizer, AdamW):
            optimizer.weight_decay = self._weight_decay
        self.compile(
            optimizer=optimizer,
            loss=keras.losses.CategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            jit_compile=xla,  # pyright: ignore[reportArgumentType]
        )
        self.optimizer.build(self.trainable_variables)
        # Keras creates metrics at their first use, while it traces the step, which TensorFlow then traces once more.
        anything = tf.zeros((1, CLASSES))
        self.compute_loss(y=anything, y_pred=anything)
        self.compute_metrics(None, anything, anything)
        self.reset_metrics()
        self._unused = [variable.numpy() for variable in self.optimizer.variables]

    def start(self, network: keras.Model, model: ModelParams) -> None:
        """Forget the last training: take over the initial weights and seeds of `network`, and all numbers."""
        self._peak.assign(model.training.optimizer.learning_rate)
        if isinstance(model.training.optimizer, AdamW):
            self._weight_decay.assign(model.training.optimizer.weight_decay)
        for ours, theirs in zip(self.network.layers, network.layers, strict=True):
            if isinstance(ours, AdjustableDropout):
                ours.adjust(theirs.rate)
        self.restore([variable.numpy() for variable in network.variables], self._unused)

    def restore(self, network: Any, optimizer: Any) -> None:
        """Put in the values of the variables of the network and of the optimizer."""
        for variables, values in ((self.network.variables, network), (self.optimizer.variables, optimizer)):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)

    def separate_replicas(self) -> None:
        """Give the dropout of each replica random numbers of its own: Keras starts them all from the same seeds."""
        replicas = self.distribute_strategy.num_replicas_in_sync
        weights = {id(variable) for variable in self.network.weights}
        for seed in (variable for variable in self.network.variables if id(variable) not in weights):
            copies = self.distribute_strategy.experimental_local_results(seed.value)
            for replica, copy in enumerate(copies if replicas > 1 else ()):
                copy.assign(copy + tf.constant([replica, 0], copy.dtype))

    def _maybe_symbolic_build(self, iterator: Any = None, data_batch: Any = None) -> None:
        """Do nothing: under a strategy, Keras would create metrics from a batch of what `fit` is given, indices."""

    def call(self, images: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        """Return the logits of normalized images."""
        return self.network(images, training=training)

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Take Keras' own step on the images that the indices stand for."""
        return super().train_step(self.fetch(*data))

    def fetch(self, indices: tf.Tensor, positions: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the images of one step, distorted, and their targets; see `TrainingImages.fetch`."""
        return self._source.fetch(indices, positions, self._augmentation)


class AdjustableDropout(keras.layers.Dropout):
    """Dropout whose rate is a variable: Keras' own compiles it in."""

    def __init__(self, rate: float, **options: Any) -> None:
        super().__init__(rate, **options)
        self._rate: Any = tf.Variable(tf.constant(rate, tf.float32), trainable=False)

    def adjust(self, rate: float) -> None:
        """Drop this share of the inputs from now on."""
        self._rate.assign(rate)

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drop, when training."""
        if not training:
            return inputs
        seed, rate = tf.cast(self.seed_generator.next(), tf.int32), tf.cast(self._rate, inputs.dtype)
        return tf.nn.experimental.stateless_dropout(inputs, rate, seed)


def _adjustable(layer: keras.Layer) -> keras.Layer:
    kind = AdjustableDropout if isinstance(layer, keras.layers.Dropout) else type(layer)
    return kind.from_config(layer.get_config())
