"""A training that is killed and started again ends with the weights of one that was left alone, bit for bit."""

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killable import EPOCHS, killable_params, train_in_process

from mnist_pipeline.training.checkpoint import Checkpoint, State, training_key


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start with TensorFlow loaded but not yet used."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tensorflow", "keras"])
    return context


def run(processes: Any, folder: Path, kill_after: float | None) -> int:
    process = processes.Process(target=train_in_process, args=(str(folder), kill_after))
    process.start()
    process.join(timeout=300)
    return process.exitcode


@pytest.fixture(scope="module")
def uninterrupted(processes: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("uninterrupted")
    assert run(processes, folder, None) == 0
    return (folder / "result.txt").read_text(encoding="utf-8")


def test_killed_again_and_again_it_resumes_to_the_same_weights_and_is_not_trained_again_when_it_has_ended(
    processes: Any, uninterrupted: str, tmp_path: Path
) -> None:
    assert run(processes, tmp_path, 0.0) != 0
    assert (tmp_path / "checkpoint.npz").exists()
    for kill_after in (0.35, 0.8):  # when it may have ended, on a fast machine
        run(processes, tmp_path, kill_after)
    # Killed between its last epoch and its result, say: there is nothing left to train.
    for _ in range(2):
        (tmp_path / "result.txt").unlink(missing_ok=True)
        assert run(processes, tmp_path, None) == 0
        assert (tmp_path / "result.txt").read_text(encoding="utf-8") == uninterrupted
        state = Checkpoint(tmp_path / "checkpoint.npz", "this training").load()
        assert state is not None
        assert len(state.history) == EPOCHS
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_checkpoint_that_is_damaged_or_of_other_inputs_is_not_resumed(
    processes: Any, uninterrupted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = tmp_path / "checkpoint.npz"
    assert run(processes, tmp_path, 0.0) != 0
    assert Checkpoint(checkpoint, "this training").load() is not None
    assert Checkpoint(checkpoint, "another training").load() is None
    assert Checkpoint(checkpoint, "another training").previous_run() == ("", [])
    assert capsys.readouterr().err == ""
    checkpoint.write_bytes(checkpoint.read_bytes()[:-200])
    assert Checkpoint(checkpoint, "this training").load() is None
    assert "is damaged" in capsys.readouterr().err
    assert run(processes, tmp_path, None) == 0
    assert (tmp_path / "result.txt").read_text(encoding="utf-8") == uninterrupted


def test_a_folder_or_another_network_in_its_place_is_moved_aside(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint.npz", "this training")
    checkpoint.path.mkdir()
    assert checkpoint.load() is None
    assert checkpoint.path.with_suffix(".damaged").is_dir()
    checkpoint.save(State([np.zeros((2, 3))], [], [], [], 0.0))
    assert checkpoint.load([(2, 3)]) is not None
    assert checkpoint.load([(3, 2)]) is None
    assert not checkpoint.path.exists()
    assert capsys.readouterr().err.count("is damaged") == 2


def test_other_parameters_are_another_training() -> None:
    model = killable_params().model_dump_json()
    assert training_key({"model": model}) != training_key({"model": model.replace("0.3", "0.4")})
