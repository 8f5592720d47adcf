"""What a GPU would do, as far as a CPU can show it: several devices, XLA, mixed precision.

Logical devices must be made before TensorFlow is used, so all of it runs in one process of its own.
"""

import multiprocessing
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import logical_devices
import numpy as np
import pytest
from logical_devices import ONE, TWO, fit, interrupt_and_resume, make_model

from mnist_pipeline.training.devices import Device

Elsewhere = Callable[..., Any]


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[Elsewhere]:
    """Calls a function in the process with two devices."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras"])
    with ProcessPoolExecutor(1, context, logical_devices.divide_cpu) as pool:

        def call(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
            return pool.submit(function, *args, **more).result(timeout=300)

        yield call


@pytest.fixture(scope="module")
def plain(elsewhere: Elsewhere) -> dict[str, Any]:
    """The training that the others are compared with: one device, float32, no XLA."""
    return elsewhere(fit, make_model("mlp"))


def test_two_devices_train_like_one(elsewhere: Elsewhere, plain: dict[str, Any]) -> None:
    two = elsewhere(fit, make_model("mlp"), TWO)
    np.testing.assert_allclose(two["history"], plain["history"], atol=1e-3)
    assert two["accuracy"] == pytest.approx(two["accuracy_claimed"], abs=1e-6)


def test_each_replica_draws_its_own_distortions_and_dropout(elsewhere: Elsewhere) -> None:
    draws = elsewhere(logical_devices.draws_of_replicas)
    images = np.concatenate(draws["images"])
    assert images.shape == (50, 28, 28)
    assert len({image.tobytes() for image in images}) == 50
    first, second = draws["kept"]
    assert not np.array_equal(first, second)


def test_a_resumed_training_on_two_devices_with_scaled_losses_ends_with_the_same_weights(elsewhere: Elsewhere) -> None:
    training = (make_model("mlp", dropout=0.3), TWO, "mixed_float16")
    assert elsewhere(interrupt_and_resume, *training)["weights"] == elsewhere(fit, *training)["weights"]


def test_a_resumed_convolutional_training_ends_with_the_same_weights(elsewhere: Elsewhere) -> None:
    training = (make_model("cnn", dropout=0.3, batch_normalization=True), ONE, "float32")
    assert elsewhere(interrupt_and_resume, *training)["weights"] == elsewhere(fit, *training)["weights"]


def test_an_xla_step_trains_like_one_without(elsewhere: Elsewhere, plain: dict[str, Any]) -> None:
    compiled = elsewhere(fit, make_model("mlp"), xla=True)
    np.testing.assert_allclose(compiled["history"], plain["history"], atol=0.01)


@pytest.mark.parametrize("precision", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_trains_and_leaves_float32_behind(
    elsewhere: Elsewhere, plain: dict[str, Any], precision: str
) -> None:
    mixed = elsewhere(fit, make_model("mlp"), precision=precision)
    np.testing.assert_allclose(mixed["history"], plain["history"], atol=0.05)
    assert mixed["layers"] == {"float32"}
    assert mixed["policy_afterwards"] == "float32"
    assert mixed["accuracy"] == pytest.approx(mixed["accuracy_claimed"], abs=0.02)
    assert elsewhere(logical_devices.types_inside, precision) == {
        "convolution": precision.removeprefix("mixed_"),
        "weights": "float32",
        "logits": "float32",
    }


def test_the_saved_model_of_a_mixed_training_is_an_ordinary_one(elsewhere: Elsewhere) -> None:
    saved = elsewhere(logical_devices.save_and_load, "mixed_float16")
    assert saved == {"probabilities": "float32", "layers": ["float32"]}


def test_a_run_says_what_it_trained_on() -> None:
    two = ("/device:GPU:0", "/device:GPU:1")
    assert Device("gpu", two, "mixed_float16", xla=True).tags() == {"device": "2 gpu, mixed_float16, xla"}
    assert Device("cpu", ("/device:CPU:0",), "float32", xla=False).tags() == {"device": "cpu, float32"}
