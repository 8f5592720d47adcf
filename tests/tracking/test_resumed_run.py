"""A training killed with SIGKILL goes on in the same MLflow run, which then looks as if nothing had happened."""

import signal
import subprocess
import sys
from pathlib import Path

from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import save_subset
from mnist_pipeline.tracking.store import open_store
from small_project import draw_digits

EPOCHS = 5


def train(project: Project, *, kill_after_epoch: int | None) -> tuple[int, str]:
    """Run `mnist train mlp`, kill it when it has told of an epoch; return its exit code and the rest of its output."""
    command = [str(Path(sys.executable).with_name("mnist")), "train", "mlp"]
    with subprocess.Popen(command, cwd=project.root, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout if kill_after_epoch else ():
            if line.split()[:2] == ["epoch", f"{kill_after_epoch}/{EPOCHS}"]:
                process.send_signal(signal.SIGKILL)
                break
        rest = process.stdout.read()
        return process.wait(timeout=120), rest


def test_a_killed_training_continues_its_run(project: Project) -> None:
    save_subset(project.split / "train.npz", draw_digits(20_000, 0))
    text = project.params.read_text(encoding="utf-8")
    project.params.write_text(text.replace("epochs: 2 ", f"epochs: {EPOCHS} "), encoding="utf-8")
    assert train(project, kill_after_epoch=1)[0] == -signal.SIGKILL
    assert project.checkpoint("mlp").exists()
    assert not project.model_file("mlp").exists()

    exit_code, output = train(project, kill_after_epoch=None)

    assert exit_code == 0
    assert "mlp: resuming after epoch " in output  # 1, or a later one if the kill came late

    client = open_store(project)
    experiment = client.get_experiment_by_name("mnist")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "val_loss")]
    # Each once and in their order, also the one that the kill may have kept from the store.
    assert steps == list(range(1, EPOCHS + 1))
    assert not project.checkpoint("mlp").exists()
