"""Optimizers and learning-rate schedules, from their parameters to Keras objects."""

from typing import TYPE_CHECKING, Any

from mnist_pipeline.training.params import Adam, AdamW, Constant, Cosine, OneCycle, RmsProp, Schedule, Sgd, Training

if TYPE_CHECKING:
    import keras


def build_optimizer(training: Training, total_steps: int) -> "keras.optimizers.Optimizer":
    """Build the optimizer, with a learning rate that follows the schedule over `total_steps` of the whole training."""
    from keras import optimizers

    learning_rate = build_schedule(training.schedule, total_steps, training.optimizer.learning_rate)
    common: dict[str, Any] = {"learning_rate": learning_rate}
    if training.weight_average:
        common |= {"use_ema": True, "ema_momentum": training.weight_average}
    match training.optimizer:
        case Adam(beta_1=beta_1, beta_2=beta_2):
            return optimizers.Adam(beta_1=beta_1, beta_2=beta_2, **common)
        case AdamW(beta_1=beta_1, beta_2=beta_2, weight_decay=decay):
            return optimizers.AdamW(beta_1=beta_1, beta_2=beta_2, weight_decay=decay, **common)
        case RmsProp(rho=rho, momentum=momentum):
            return optimizers.RMSprop(rho=rho, momentum=momentum, **common)
        case Sgd(momentum=momentum, nesterov=nesterov):
            return optimizers.SGD(momentum=momentum, nesterov=nesterov, **common)


def build_schedule(
    schedule: Schedule, total_steps: int, peak: float
) -> "float | keras.optimizers.schedules.LearningRateSchedule":
    """Build the learning rate as a function of the optimizer's step, `peak` at its highest; or `peak` throughout."""
    from keras.optimizers import schedules

    match schedule:
        case Constant():
            return peak
        case Cosine(warmup=0):
            return schedules.CosineDecay(peak, total_steps)
        case Cosine(warmup=warmup):
            rise = max(1, round(warmup * total_steps))
            return schedules.CosineDecay(0.0, max(1, total_steps - rise), warmup_target=peak, warmup_steps=rise)
        case OneCycle(warmup=warmup):
            return _one_cycle(peak, total_steps, warmup)


def _one_cycle(peak: float, total_steps: int, warmup: float) -> "keras.optimizers.schedules.LearningRateSchedule":
    """Build the schedule that Keras lacks (Smith and Topin 2018, with the cosine legs of fastai and PyTorch)."""
    import math

    import tensorflow as tf
    from keras.optimizers import schedules

    rise = max(1, round(warmup * total_steps))
    fall = max(1, total_steps - rise)

    class OneCycleSchedule(schedules.LearningRateSchedule):
        def __call__(self, step: Any) -> Any:
            step = tf.cast(step, tf.float32)
            return tf.where(
                step < rise,
                _half_cosine(peak / 25, peak, step / rise),
                _half_cosine(peak, peak / 250_000, tf.minimum((step - rise) / fall, 1.0)),
            )

        def get_config(self) -> dict[str, Any]:
            return {"peak": peak, "total_steps": total_steps, "warmup": warmup}

    def _half_cosine(first: Any, last: Any, share: Any) -> Any:
        return last + (first - last) * (1 + tf.cos(math.pi * share)) / 2

    return OneCycleSchedule()
