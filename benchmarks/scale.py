"""What a large MLflow store costs: seconds of a processor per command, in a store of one run and in a full one."""

import json
import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench import RESULTS, machine
from mnist_pipeline.cli import run_command
from mnist_pipeline.core.console import say
from mnist_pipeline.core.files import content_digest, file_digest
from mnist_pipeline.core.project import find_project
from tables import Grid, Statistic, publish
from trainer_overhead import throw_away

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)

COMMANDS = {
    "mnist models": ("models",),
    "mnist register": ("register",),
    "mnist sync": ("sync",),
    "start of `mnist train mlp`": ("train", "mlp", "--seed", "1"),
}
STARTED = "training images, on "
"""What a training prints when its run is open, right before the first epoch."""


@app.command()
def main(
    runs: Annotated[int, typer.Option(min=1, help="Runs of the full store.")] = 10_000,
    versions: Annotated[int, typer.Option(min=1, help="Registered versions of the full store.")] = 500,
    repetitions: Annotated[int, typer.Option(min=1, help="How often each command runs in each store.")] = 3,
    folder: Annotated[
        Path | None, typer.Option(help="Keep both copies of the project here, to measure again; or else a temporary.")
    ] = None,
    results: Annotated[Path, typer.Option(help="Markdown file.")] = RESULTS / "scale.md",
) -> None:
    """Compare the commands' seconds of a processor in a small and in a full store, in turns.

    Run it inside the project, after `dvc repro`.
    """
    with tempfile.TemporaryDirectory(prefix="mnist-benchmark-") as temporary:
        copies = {name: prepare((folder or Path(temporary)) / name) for name in ("small", "full")}
        fill(copies["full"], runs, versions)
        seconds = {(command, store): list[float]() for command in COMMANDS for store in copies}
        for _ in range(repetitions):
            for command, store in seconds:
                seconds[command, store].append(measure(COMMANDS[command], copies[store]))
    rows = list[list[str]]()
    for command in COMMANDS:
        small, full = (Statistic.of(seconds[command, store]) for store in copies)
        rows.append([command, small.text(".1f"), full.text(".1f"), f"{full.mean - small.mean:+.1f}"])
    headings = ("seconds of a processor", "one run and version", f"{runs:,} runs, {versions:,} versions", "difference")
    until = "The start of a training ends at its first epoch."
    notes = (machine(), f"Of all threads, imports included; n = {repetitions}, in turns. {until}")
    publish(results, Grid("A large MLflow store", headings, rows), notes)


def prepare(folder: Path) -> Path:
    """Return a copy of the project with its trained models, and a store of its own that knows them."""
    copy = folder / "copy"
    if not copy.exists():
        project = find_project()
        throw_away(project, folder)
        for path in (project.models, project.reports):
            shutil.copytree(path, copy / path.name, dirs_exist_ok=True)
        shutil.copy(project.root / "dvc.lock", copy)
        subprocess.run(("mnist", "sync"), cwd=copy, check=True)
    return copy


def fill(copy: Path, runs: int, versions: int) -> None:
    """Add runs to the store of a copy, each with the values of the champion's and another model, and register some."""
    from mlflow.entities import Metric, Param

    from mnist_pipeline.tracking.store import open_store

    client = open_store(find_project(copy))
    name = client.search_registered_models()[0].name
    origin = client.get_run(str(client.get_model_version_by_alias(name, "champion").run_id))
    there = len(client.search_model_versions(f"name = '{name}'"))
    counted = len(client.search_runs([origin.info.experiment_id], max_results=50_000))
    data, experiment = origin.data, origin.info.experiment_id
    params = [Param(*each) for each in data.params.items()]
    for number in range(counted, runs):
        tags = data.tags | {"model_md5": content_digest(str(number).encode()), "mlflow.runName": f"copy {number}"}
        tags.pop("champion", None)
        run = client.create_run(experiment, tags=tags)
        values = ((key, value) for key, value in data.metrics.items() if not key.startswith("system/"))
        metrics = [Metric(key, value - number * 1e-7, run.info.start_time, 0) for key, value in values]
        client.log_batch(run.info.run_id, metrics, params)
        if there < versions:
            there += 1
            register(client, name, origin, run, number)
        client.set_terminated(run.info.run_id)
        if number % 500 == 0:
            say(f"{number:,} runs")


def register(client: "MlflowClient", name: str, origin: "Run", run: "Run", number: int) -> None:
    """Register a version for a run: the champion's card and model, in a file of other bytes."""
    import mlflow
    from mlflow.entities import LoggedModelOutput

    champion = client.get_model_version_by_alias(name, "champion")
    logged = client.get_logged_model(origin.outputs.model_outputs[0].model_id)
    with tempfile.TemporaryDirectory() as temporary:
        kept = mlflow.artifacts.download_artifacts(f"runs:/{origin.info.run_id}/", dst_path=f"{temporary}/run")
        model = Path(mlflow.artifacts.download_artifacts(f"models:/{logged.model_id}", dst_path=f"{temporary}/model"))
        file = model / "data" / "model.keras"
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = str(number).encode()
        digest = file_digest(file)
        files: Mapping[str, str] = json.loads(logged.tags["files_md5"]) | {"data/model.keras": digest}
        client.log_artifacts(run.info.run_id, kept)
        tags = logged.tags | {"files_md5": json.dumps(files)}
        new = client.create_logged_model(run.info.experiment_id, logged.name, run.info.run_id, tags).model_id
        client.log_model_artifacts(new, str(model))
    client.finalize_logged_model(new, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(new, step=1)])
    client.set_tag(run.info.run_id, "model_md5", digest)
    tags = champion.tags | {"model_md5": digest}
    client.create_model_version(
        name,
        f"models:/{new}",
        run.info.run_id,
        tags,
        description=champion.description,
        model_id=new,
        await_creation_for=0,
    )


def measure(arguments: tuple[str, ...], copy: Path) -> float:
    """Run a command in a copy; return the seconds of a processor, of a training those until it starts."""
    # Without what MLflow has written into the environment of this process: the address of the store that was filled.
    environment = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_")}
    environment["PYTHONUNBUFFERED"] = "1"
    process = subprocess.Popen(("mnist", *arguments), cwd=copy, env=environment, stdout=subprocess.PIPE, text=True)
    was_stopped = False
    for line in process.stdout or ():
        if STARTED in line:
            process.kill()
            was_stopped = True
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode and not was_stopped:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    run_command(app)
