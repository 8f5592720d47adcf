"""Registered versions with real, small, untrained networks behind them."""

from pathlib import Path

from mnist_pipeline.core.files import file_digest
from mnist_pipeline.core.project import Project
from mnist_pipeline.registry.registry import Registry, Version
from mnist_pipeline.tracking.artifacts import log_model
from mnist_pipeline.tracking.store import experiment_name, open_store
from mnist_pipeline.training.params import load_params
from small_project import MNIST


def register(project: Project, folder: Path, seed: int) -> Version:
    """Register the network that `seed` draws, and leave its file in `folder`, as `<version>.keras`."""
    import keras

    from mnist_pipeline.data.normalize import load_statistics
    from mnist_pipeline.models.model import build_model, save_model

    params = load_params(project.params).model("cnn")
    keras.utils.set_random_seed(seed)
    file = folder / f"{seed}.keras"
    save_model(
        build_model(params.architecture, params.normalization, load_statistics(project.normalization), MNIST), file
    )
    client = open_store(project)
    experiment = client.get_experiment_by_name(experiment_name(project))
    assert experiment is not None
    run = client.create_run(experiment.experiment_id).info.run_id
    log_model(client, run, "cnn", file, step=0)
    version = Registry.open(project).add(run, file_digest(file), description="", tags={"model": "cnn"})
    file.rename(folder / f"{version.number}.keras")
    return version
