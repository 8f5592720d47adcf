"""The training loop keeps its promises on a problem that takes a second."""

import shutil
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from numpy.random import mtrand

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.core.records import read_table
from mnist_pipeline.data.dataset import Subset
from mnist_pipeline.data.normalize import fit as fit_statistics
from mnist_pipeline.data.params import Data
from mnist_pipeline.training import devices
from mnist_pipeline.training.batches import steps_per_epoch, training_batches
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.devices import choose_device
from mnist_pipeline.training.history import Epoch, best_epoch, write_history
from mnist_pipeline.training.params import ModelParams
from mnist_pipeline.training.schedule import build_schedule
from mnist_pipeline.training.trainer import train
from small_project import MNIST, draw_digits, tiny_params

TRAIN, VALIDATION = draw_digits(500, 0), draw_digits(200, 1)


@pytest.fixture(scope="module")
def mlp(tmp_path_factory: pytest.TempPathFactory) -> ModelParams:
    return tiny_params(tmp_path_factory.mktemp("params")).model("mlp")


def change(model: ModelParams, **training: Any) -> ModelParams:
    content = model.model_dump()
    content["training"] |= training
    return ModelParams.model_validate(content)


def fit(model: ModelParams, seed: int = 0, **more: Any) -> Any:
    data = TrainingData(TRAIN, VALIDATION, fit_statistics(TRAIN.images), MNIST)
    return train(model, data, seed=seed, device=choose_device("cpu"), **more)


def weights(result: Any) -> bytes:
    return b"".join(array.tobytes() for array in result.model.get_weights())


@pytest.fixture(scope="module")
def trained(mlp: ModelParams) -> Any:
    """The training that others are compared with."""
    return fit(mlp)


def test_the_same_seed_gives_the_same_weights_and_another_seed_others(mlp: ModelParams, trained: Any) -> None:
    assert weights(fit(mlp)) == weights(trained)
    assert weights(fit(mlp, seed=1)) != weights(trained)


CHANGES: list[dict[str, Any]] = [
    {"training": {"optimizer": {"learning_rate": 0.001}}},
    {"training": {"optimizer": {"weight_decay": 0.3}}},
    {"architecture": {"dropout": 0.4}},
    {"training": {"label_smoothing": 0.2}},
    {"normalization": "standard"},
    {"augmentation": {"rotation": 3, "zoom": 0.02, "elastic": 0.5}},
    {"training": {"final_epochs_without_augmentation": 1}},
]


def test_every_parameter_changes_the_weights(mlp: ModelParams, trained: Any) -> None:
    content, seen = mlp.model_dump(), {weights(trained)}
    for change_of_one in CHANGES:
        result = weights(fit(ModelParams.model_validate(deep_update(content, change_of_one))))
        assert result not in seen, f"{change_of_one} changes nothing"
        seen.add(result)


def deep_update(content: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    for key, value in change.items():
        content[key] = deep_update(content[key], value) if isinstance(value, dict) else value
    return content


@pytest.mark.parametrize("monitor", ["accuracy", "loss"])
def test_the_best_epoch_by_validation_is_kept(mlp: ModelParams, monitor: Literal["accuracy", "loss"]) -> None:
    # Constant and too high: the last epoch is not the best one.
    model = change(mlp, epochs=8, schedule={"name": "constant"}, weight_average=0.0, monitor=monitor)
    model = change(model, optimizer=model.training.optimizer.model_dump() | {"learning_rate": 0.1})
    result = fit(model)
    assert result.best.rank(monitor) == max(epoch.rank(monitor) for epoch in result.history)
    assert result.best.epoch < 8
    predicted = result.model.predict(VALIDATION.images, verbose=0).argmax(axis=1)
    assert (predicted == VALIDATION.labels).mean() == pytest.approx(result.best.val_accuracy, abs=1e-6)


def test_validation_and_the_kept_weights_are_the_averaged_ones(mlp: ModelParams, trained: Any) -> None:
    plain = fit(change(mlp, weight_average=0.0))
    # The training itself is the same to the bit: averages are put in for validation and taken out again.
    assert [epoch.train_loss for epoch in trained.history] == [epoch.train_loss for epoch in plain.history]
    assert weights(trained) != weights(plain)
    predicted = trained.model.predict(VALIDATION.images, verbose=0).argmax(axis=1)
    assert (predicted == VALIDATION.labels).mean() == pytest.approx(trained.best.val_accuracy, abs=1e-6)


def test_early_stopping_and_a_callback_end_the_training(mlp: ModelParams) -> None:
    still = change(mlp, epochs=9, early_stopping=2, weight_average=0.0)
    still = change(still, optimizer=still.training.optimizer.model_dump() | {"learning_rate": 1e-9})
    assert len(fit(still).history) <= 5
    seen: list[Epoch] = []

    def until_the_third(epoch: Epoch) -> bool:
        seen.append(epoch)
        return epoch.epoch == 3

    result = fit(change(mlp, epochs=9), on_epoch=until_the_third)
    assert [epoch.epoch for epoch in seen] == [1, 2, 3]
    assert list(result.history) == seen


def test_a_diverging_loss_stops_with_a_sentence(mlp: ModelParams) -> None:
    wild = change(mlp, optimizer={"name": "sgd", "learning_rate": 10.0, "momentum": 0.99, "nesterov": False})
    wild = change(wild, epochs=30, schedule={"name": "constant"})
    with pytest.raises(UserError, match=r"diverged in epoch \d+.*learning_rate"):
        fit(wild)


def test_a_batch_larger_than_the_data_is_refused(mlp: ModelParams) -> None:
    with pytest.raises(UserError, match=r"batch_size is 501, more than the 500"):
        fit(change(mlp, batch_size=501))


def test_a_batch_that_devices_cannot_share_is_refused(mlp: ModelParams) -> None:
    assert steps_per_epoch(change(mlp, batch_size=50).training, 500, replicas=2) == 10
    with pytest.raises(UserError, match=r"batch_size is 50, which 3 devices cannot share evenly"):
        steps_per_epoch(change(mlp, batch_size=50).training, 500, replicas=3)


def test_final_epochs_see_the_images_as_they_are(mlp: ModelParams, trained: Any) -> None:
    model = ModelParams.model_validate(deep_update(mlp.model_dump(), {"augmentation": {"rotation": 10, "shift": 2}}))
    losses = [
        [epoch.train_loss for epoch in result.history]
        for result in (trained, fit(change(model, final_epochs_without_augmentation=2)), fit(model))
    ]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-3)
    assert losses[2] != pytest.approx(losses[0], rel=1e-3)


def test_each_epoch_is_another_permutation_that_depends_on_the_seed(mlp: ModelParams) -> None:
    numbered = Subset(np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((1, 28, 28), np.uint8), TRAIN.labels[:10])
    training = change(mlp, batch_size=5, epochs=3).training

    def orders(seed: int, first_epoch: int = 0) -> list[list[int]]:
        seen = [
            pixels.numpy()[:, 0, 0]
            for pixels, _ in training_batches(numbered, 10, training, seed, first_epoch=first_epoch)
        ]
        return np.concatenate(seen).reshape(-1, 10).tolist()

    epochs = orders(seed=7)
    assert [sorted(epoch) for epoch in epochs] == [list(range(10))] * 3
    assert len({tuple(epoch) for epoch in epochs}) == 3
    assert orders(seed=7, first_epoch=1) == epochs[1:]
    assert orders(seed=8)[0] != epochs[0]


@pytest.mark.parametrize(
    ("schedule", "at"),
    [
        ({"name": "cosine", "warmup": 0.0}, {0: 1.0, 50: 0.5, 100: 0.0}),
        ({"name": "cosine", "warmup": 0.5}, {0: 0.0, 25: 0.5, 50: 1.0, 75: 0.5, 100: 0.0}),
        ({"name": "one_cycle", "warmup": 0.25}, {0: 0.04, 25: 1.0, 100: 0.04 / 10_000}),
    ],
)
def test_schedules_pass_through_their_points(mlp: ModelParams, schedule: dict[str, Any], at: dict[int, float]) -> None:
    rate = build_schedule(change(mlp, schedule=schedule).training.schedule, total_steps=100, peak=1.0)
    assert callable(rate)
    for step, expected in at.items():
        assert float(np.asarray(rate(step))) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    "optimizer",
    [
        {"name": "adam", "learning_rate": 0.01, "beta_1": 0.9, "beta_2": 0.999},
        {"name": "rmsprop", "learning_rate": 0.01, "rho": 0.9, "momentum": 0.0},
        {"name": "sgd", "learning_rate": 0.1, "momentum": 0.9, "nesterov": True},
    ],
)
def test_every_optimizer_learns(mlp: ModelParams, optimizer: dict[str, Any]) -> None:
    assert fit(change(mlp, epochs=8, optimizer=optimizer, label_smoothing=0.05)).best.val_accuracy > 0.3


def test_history_survives_its_file_bit_for_bit(tmp_path: Path) -> None:
    history = [Epoch(1, 1 / 3, 0.1, 2 / 7, 0.5, 1e-3), Epoch(2, 0.2, 0.3, 0.1, 0.5, 1e-9)]
    history.append(Epoch(3, 0.1, 0.4, 0.05, 0.4, 1e-9))
    write_history(tmp_path / "history.csv", history)
    assert read_table(tmp_path / "history.csv", Epoch, "mnist train") == history
    assert best_epoch(history, "accuracy").epoch == 2  # the tie in accuracy goes to the lower loss
    assert best_epoch(history, "loss").epoch == 3


def test_a_gpu_that_is_not_there_is_refused_with_the_way_out() -> None:
    tf = pytest.importorskip("tensorflow")
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError, match=r"device is `gpu`.*sees only.*\.\[gpu\]"):
        choose_device("gpu")
    assert choose_device("auto").kind == "cpu"


@pytest.mark.skipif(sys.platform != "linux", reason="TensorFlow's CUDA packages are for Linux")
def test_the_cuda_library_that_tensorflow_does_not_find_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "nvidia" / "cusolver" / "lib" / "libcusolver.so.11"
    library.parent.mkdir(parents=True)
    shutil.copy(str(mtrand.__file__), library)  # any library will do
    (tmp_path / "nvidia_cusolver_cu12-11.7.dist-info").mkdir()
    (tmp_path / "nvidia_cusolver_cu12-11.7.dist-info" / "METADATA").write_text("Name: nvidia-cusolver-cu12\n")
    monkeypatch.syspath_prepend(tmp_path)
    choose_device("auto")
    assert str(library) in Path("/proc/self/maps").read_text(encoding="utf-8")


def test_images_of_any_size_and_number_of_classes_are_learned_from(mlp: ModelParams) -> None:
    about = Data.model_validate(MNIST.model_dump() | {"image_size": [20, 24], "classes": ["a", "b", "c", "d"]})
    keep = TRAIN.labels < 4
    some = Subset(TRAIN.images[keep, :20, :24], TRAIN.labels[keep])  # where their bars are
    data = TrainingData(some, some, fit_statistics(some.images), about)
    content = change(mlp, epochs=10, weight_average=0.0).model_dump()
    content["augmentation"]["flip"] = True
    result = train(ModelParams.model_validate(content), data, seed=0, device=choose_device("cpu"))
    assert (result.model.input_shape, result.model.output_shape) == ((None, 20, 24), (None, 4))
    assert result.best.val_accuracy > 0.5  # by chance, 0.25


@pytest.mark.parametrize(("old", "new"), [("image_size: [28, 28]", "image_size: [20, 20]"), ("'8', '9'", "'8'")])
def test_splits_of_other_data_than_the_parameters_name_are_refused(project: Project, old: str, new: str) -> None:
    TrainingData.load(project)
    text = project.params.read_text(encoding="utf-8")
    assert old in text
    project.params.write_text(text.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError, match=r"train\.npz does not hold images of .* run `mnist split` and"):
        TrainingData.load(project)


def test_a_precision_that_does_not_pay_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorflow")
    monkeypatch.setattr(devices, "cpu_flags", list[str])
    with pytest.raises(UserError, match=r"precision is `bfloat16`, which takes .*amx_bf16.*set precision to `float32`"):
        devices.choose_device("cpu", "bfloat16")
    with pytest.raises(UserError, match=r"precision is `float16`, which takes a GPU.*set precision to `float32`"):
        devices.choose_device("cpu", "float16")
    monkeypatch.setattr(devices, "cpu_flags", lambda: ["avx512f", "amx_bf16"])
    assert devices.choose_device("cpu", "bfloat16").precision == "mixed_bfloat16"
    assert devices.choose_device("cpu", "auto").precision == "float32"
