"""A model up to its logits, which distorts the images anew in each step, on the device that it trains on.

After Keras' guide "Customizing what happens in fit() with TensorFlow".
"""

from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from mnist_pipeline.models.augmentation import augment
from mnist_pipeline.models.fast_layers import accelerate
from mnist_pipeline.models.model import LOGITS
from mnist_pipeline.training.devices import Device
from mnist_pipeline.training.params import ModelParams
from mnist_pipeline.training.schedule import build_optimizer

MOST_STEPS = 128
"""Steps between two looks at the keyboard, at most: Ctrl-C waits for them."""


class TrainingModel(keras.Model):
    """Shares its layers with the model that is saved; `fit` it on `training_batches`.

    Args:
        inputs: raw pixels, of the model that is saved.
        outputs: its logits.
        params: how it is trained, and how its images are distorted.
        seed: seed of the distortions.
        steps: number of steps of one epoch.
    """

    def __init__(self, inputs: Any, outputs: Any, *, params: ModelParams, seed: int, steps: int) -> None:
        super().__init__(inputs, outputs)
        self._augmentation = params.augmentation
        self._seed = seed
        augmented_epochs = params.training.epochs - params.training.final_epochs_without_augmentation
        self._augmented_steps = augmented_epochs * steps

    def train_step(self, data: tuple[tf.Tensor, tf.Tensor]) -> dict[str, Any]:
        """Take the step that Keras takes, on distorted images."""
        pixels, targets = data
        images, replicas = self.distort(pixels), self.distribute_strategy.num_replicas_in_sync
        with tf.GradientTape() as tape:
            logits = self(images, training=True)
            loss: Any = self.compute_loss(y=targets, y_pred=logits)  # a replica's share
            scaled = self.optimizer.scale_loss(loss)
        gradients = tape.gradient(scaled, self.trainable_variables)
        self.optimizer.apply(gradients, self.trainable_variables)
        for metric in self.metrics:
            if metric.name == "loss":
                metric.update_state(loss * replicas)
            else:
                metric.update_state(targets, logits)
        return self.get_metrics_result()

    def distort(self, pixels: tf.Tensor) -> tf.Tensor:
        """Distort images as the optimizer's step and the replica say, so that a resumed training draws the same."""
        if self._augmentation.is_off:
            return pixels
        step = tf.cast(self.optimizer.iterations.value, tf.int64)
        replica = tf.cast(tf.distribute.get_replica_context().replica_id_in_sync_group, tf.int64)
        draw = step * self.distribute_strategy.num_replicas_in_sync + replica
        return self._distort(pixels, tf.stack([self._seed, draw]), tf.cast(step < self._augmented_steps, tf.float32))

    # XLA fuses the gathers and the arithmetic of the warp: four times faster than op by op, on a CPU too. There is no
    # control flow to convert, for which AutoGraph would look for half a second.
    @tf.function(jit_compile=True, autograph=False)
    def _distort(self, pixels: tf.Tensor, seed: tf.Tensor, strength: tf.Tensor) -> tf.Tensor:
        return augment(pixels, self._augmentation, seed, strength=strength)


def prepare(model: keras.Model, params: ModelParams, *, seed: int, steps: int, device: Device) -> TrainingModel:
    """Return a model compiled for training, with all of its state in place, so that a checkpoint can be restored.

    Args:
        model: from `build_model`; its weights are what is trained.
        params: how.
        seed: seed of the distortions.
        steps: number of steps of one epoch.
        device: what it is trained on.
    """
    network = keras.Model(model.input, model.get_layer(LOGITS).output)
    if device.kind == "cpu":
        network = accelerate(network)
    trained = TrainingModel(network.input, network.output, params=params, seed=seed, steps=steps)
    trained.compile(
        optimizer=build_optimizer(params.training, steps * params.training.epochs),
        loss=keras.losses.CategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=device.xla,  # pyright: ignore[reportArgumentType]
        steps_per_execution=_steps_per_execution(steps) if len(device.names) == 1 else 1,
    )
    trained.optimizer.build(trained.trainable_variables)
    # Keras creates metrics at their first use, while it traces the step, which TensorFlow then traces once more.
    anything = tf.zeros((1, *trained.output_shape[1:]))
    trained.compute_loss(y=anything, y_pred=anything)
    trained.compute_metrics(None, anything, anything)
    trained.reset_metrics()
    return trained


def _steps_per_execution(steps: int) -> int:
    """Return after how many steps TensorFlow returns to Python: a divisor, or Keras would run over the epoch's end."""
    return max(count for count in range(1, MOST_STEPS + 1) if steps % count == 0)


def restore(variables: Sequence[Any], values: Sequence[Any]) -> None:
    """Put values into variables, in order."""
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


def separate_replicas(model: keras.Model, trained: TrainingModel) -> None:
    """Give the dropout of each replica random numbers of its own: Keras starts them all from the same seeds."""
    strategy = trained.distribute_strategy
    weights = {id(variable) for variable in model.weights}
    for seed in (variable for variable in model.variables if id(variable) not in weights):
        copies = strategy.experimental_local_results(seed.value)
        for replica, copy in enumerate(copies if len(copies) > 1 else ()):
            copy.assign(copy + tf.constant([replica, 0], copy.dtype))
