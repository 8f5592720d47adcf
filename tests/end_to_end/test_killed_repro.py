"""`dvc repro` killed where its training has ended and DVC does not know it yet: there is one run of it all the same."""

import os
import shutil
import signal
import subprocess
import time

import pytest

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import ModelId, Project
from mnist_pipeline.stages import train
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.training.params import load_params
from repository import dvc, environment, run
from small_project import ROOT

PIPELINE = """\
stages:
  train:
    matrix: { model: [mlp] }
    cmd: mnist train ${item.model} && while [ -e wait ]; do touch trained; sleep 0.1; done
    deps: [data/normalization.json, data/split/train.npz, data/split/validation.npz, src/mnist_pipeline/stages/train.py]
    params: [seed, device, precision, 'models.${item.model}']
    outs: [models/mlp/model.keras, reports/mlp/training.json, reports/mlp/history.csv]
"""
ENDED = "mlp: this training had ended already; writing its results"


class Workspace:
    """A project in whose only stage DVC can be killed right after `mnist train mlp`, and its results."""

    def __init__(self, project: Project) -> None:
        self.project = project
        (project.root / "dvc.yaml").write_text(PIPELINE)
        self.module = project.root / "src/mnist_pipeline/stages/train.py"
        self.module.parent.mkdir(parents=True)
        shutil.copy(ROOT / self.module.relative_to(project.root), self.module)
        dvc(project.root, "init --no-scm", "config core.analytics false")

    def kill_repro(self) -> None:
        """Kill `dvc repro` and the shell of its stage after `mnist train mlp` has ended."""
        (self.project.root / "wait").touch()
        with subprocess.Popen(
            ["dvc", "repro"], cwd=self.project.root, env=environment(), start_new_session=True
        ) as process:
            give_up = time.monotonic() + 120
            while not (self.project.root / "trained").exists():
                assert process.poll() is None
                assert time.monotonic() < give_up
                time.sleep(0.1)
            os.killpg(process.pid, signal.SIGKILL)
        (self.project.root / "wait").unlink()

    def results(self) -> list[str]:
        """Return the digests of what the stage wrote."""
        project = self.project
        files = project.model_file("mlp"), project.training_summary("mlp"), project.history("mlp")
        return [file_digest(file) for file in files]

    def runs(self) -> list[tuple[str, str, int, int | None]]:
        """Return id, status, number of models and end of each run, the newest first."""
        client = open_store(self.project)
        experiment = client.get_experiment_by_name("mnist")
        assert experiment is not None
        found = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time DESC"])
        infos = [(run.info, client.get_run(run.info.run_id).outputs) for run in found]
        return [(info.run_id, info.status, len(outputs.model_outputs), info.end_time) for info, outputs in infos]


def test_a_repro_that_was_killed_after_its_training_makes_no_second_run_but_a_wish_to_train_again_does(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    workspace = Workspace(project)
    workspace.kill_repro()
    (killed,) = workspace.runs()
    assert killed[1:3] == ("FINISHED", 1)
    written = workspace.results()
    assert not (project.root / "dvc.lock").exists()

    assert ENDED in run(project.root, "dvc", "repro")
    assert workspace.runs() == [killed]
    assert workspace.results() == written
    lock = (project.root / "dvc.lock").read_text(encoding="utf-8")
    assert all(digest in lock for digest in written)

    params = load_params(project.params)
    monkeypatch.setenv("DVC_STAGE", "train@mlp")
    train.run(project, params, ModelId("mlp"))  # as `dvc repro --force` wishes
    assert len(workspace.runs()) == 2
    with workspace.module.open("a") as module:
        module.write("# the run of before is not that of this code\n")
    train.run(project, params, ModelId("mlp"))
    assert len(workspace.runs()) == 3
    monkeypatch.delenv("DVC_STAGE")
    train.run(project, params, ModelId("mlp"))  # by hand, where nobody waits for the results of the one before
    assert [status for _, status, _, _ in workspace.runs()] == ["FINISHED"] * 4
    assert [path.name for path in project.checkpoints.glob("*.npz")] == []
