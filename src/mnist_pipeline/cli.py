"""The front door: `mnist`. One command per stage, and what people do with the results.

Everything heavy is imported inside the command that needs it, so that `mnist --help` answers at once.
"""

import errno
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never

import typer

from mnist_pipeline.console import console, quiet_native_logs, warn
from mnist_pipeline.errors import UserError

if TYPE_CHECKING:
    from mnist_pipeline.params import Params
    from mnist_pipeline.project import Project

app = typer.Typer(
    name="mnist",
    help="MNIST from download to a registered champion, with DVC, Keras, Optuna and MLflow.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)

PIPELINE = "Pipeline (what `dvc repro` calls)"
EXPERIMENTS = "Experiments"
MODELS = "Models"

ModelName = Annotated[str, typer.Argument(help="A name under `models` in params.yaml.")]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of params.yaml's; the model is then NAME_seedN.")]


def main() -> None:
    """Run `mnist`."""
    run_command(app)


def run_command(application: Callable[[], object]) -> None:
    """Run a Typer app; a user's mistake is one sentence and status 1, an interruption one line and status 130."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no news
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        application()
    except UserError as error:
        _refuse(str(error))
    except Exception as error:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            _refuse(f"{error.filename or 'A file'} cannot be written or read: {error.strerror}.")
        from mnist_pipeline.tracking.redaction import redact

        # A bug, with its traceback; but what libraries say of an address may have a password in it.
        sys.stderr.write(redact(traceback.format_exc()))
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:
            warn("Interrupted.")
        raise


def _refuse(sentence: str) -> Never:
    console(stderr=True).print(f"error: {sentence}", markup=False, style="red")
    sys.exit(1)


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


@app.command(rich_help_panel=PIPELINE)
def download() -> None:
    """Fetch the four MNIST files into `data/raw`, verified; `MNIST_MIRROR` (URL or folder) goes first if set."""
    from mnist_pipeline.stages import download as stage

    project, _ = _open()
    stage.run(project)


@app.command(rich_help_panel=PIPELINE)
def normalize(
    raw: Annotated[Path | None, typer.Option(help="Folder with the IDX files, if it is not `data/raw`.")] = None,
) -> None:
    """Turn `data/raw` into float32 arrays in `data/normalized`, by `normalize` in params.yaml."""
    from mnist_pipeline.stages import normalize as stage

    project, params = _open()
    stage.run(project, params.normalize, raw)


@app.command(rich_help_panel=PIPELINE)
def split() -> None:
    """Divide `data/normalized` into train, validation and test in `data/split`, by `split` in params.yaml."""
    from mnist_pipeline.stages import split as stage

    project, params = _open()
    stage.run(project, params.split)


@app.command(rich_help_panel=PIPELINE)
def train(name: ModelName, seed: Seed = None) -> None:
    """Train one model on the train and validation splits; write `models/NAME` and an MLflow run."""
    project, params = _open()
    params, name = params.with_seed(name, seed)
    with quiet_native_logs():
        from mnist_pipeline.stages import train as stage

    stage.run(project, params, name)


@app.command(rich_help_panel=PIPELINE)
def evaluate(name: ModelName, seed: Seed = None) -> None:
    """Measure `models/NAME` on the test split; write `reports/NAME` and add it to the model's MLflow run."""
    project, params = _open()
    params, name = params.with_seed(name, seed)
    with quiet_native_logs():
        from mnist_pipeline.stages import evaluate as stage

    stage.run(project, params, name)


@app.command(rich_help_panel=PIPELINE)
def register() -> None:
    """Register the best of `models/`: `models:/mnist@champion` if it beats the champion on validation."""
    project, params = _open()
    from mnist_pipeline.stages import register as stage

    stage.run(project, params)


@app.command(rich_help_panel=EXPERIMENTS)
def sync() -> None:
    """Give each model in `models/` its MLflow run, wherever DVC restored the files or the store was lost."""
    from mnist_pipeline.console import say
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tracking.settled import is_settled, settle

    if not is_settled(project := find_project()):
        from mnist_pipeline.tracking.sync import sync as run

        project, params = _open()
        synced = run(project, params)
        for line in synced.lines():
            say(line)
        if synced.champion_missing:
            from mnist_pipeline.stages import register as stage

            stage.run(project, params)
        settle(project)
    say("MLflow agrees with the workspace.")


@app.command(rich_help_panel=EXPERIMENTS)
def lineage(
    reference: Annotated[str, typer.Argument(help="A run's id, models:/mnist@champion or models:/mnist/3.")],
) -> None:
    """Print where a run or a registered model comes from, each link recomputed; exit status 3 if one is broken."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tracking.chain import show

    if not show(find_project(), reference):
        raise typer.Exit(3)


@app.command(rich_help_panel=EXPERIMENTS)
def reproduce(
    reference: Annotated[str, typer.Argument(help="A run's id, models:/mnist@champion or models:/mnist/3.")],
    install: Annotated[
        bool, typer.Option("--install", help="First install the environment that it was locked to, beside this one.")
    ] = False,
) -> None:
    """Train a run's model again, from its commit, changes, parameters and data, and compare the weights bit by bit.

    It happens in a temporary git worktree: nothing of yours changes.

    Exit status: 0 if the weights are the same, 3 if they differ (it says by how much), 4 if a part is missing (which).
    """
    from mnist_pipeline.project import find_project
    from mnist_pipeline.reproduce import run

    raise typer.Exit(run(find_project(), reference, install=install))


@app.command(rich_help_panel=EXPERIMENTS)
def tune(
    name: ModelName,
    trials: Annotated[int, typer.Option(min=1, help="How many trials the study shall have in the end.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Processes at once; they share the cores.")] = 1,
    timeout: Annotated[str | None, typer.Option(help="No trial starts after this: 90s, 30m, 1h30m.")] = None,
    study: Annotated[str | None, typer.Option(help="The study to start or to go on with; MODEL by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each trial, instead of the model's own.")] = None,
    objective: Annotated[
        str, typer.Option(help="accuracy, loss, or accuracy,parameters: both more accurate and smaller (no pruning).")
    ] = "accuracy",
    max_parameters: Annotated[
        int | None, typer.Option(min=1, help="Most weights of a network; a trial with more is not trained.")
    ] = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Then do as `mnist adopt STUDY`.")] = False,
    confirm: Annotated[int, typer.Option(min=0, help="With --adopt: other seeds to train with first.")] = 3,
) -> None:
    """Search better parameters in `tune.space.NAME` of params.yaml, on train and validation data; can be resumed."""
    from mnist_pipeline.tuning.plan import make_plan

    project, params = _open()
    plan = make_plan(
        project, params, name, trials=trials, timeout=timeout, study=study, epochs=epochs,
        objective=objective, max_parameters=max_parameters,
    )  # fmt: skip
    if adopt:
        plan.check_adoptable()
    from mnist_pipeline.tuning.launch import tune as run

    run(plan, workers)
    if adopt:
        _adopt(plan.study, confirm)


@app.command(rich_help_panel=EXPERIMENTS)
def adopt(
    study: Annotated[str, typer.Argument(help="Name of a study.")],
    confirm: Annotated[int, typer.Option(min=0, help="Other seeds to train with first; 0 takes its word.")] = 3,
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Which trial; the best one by default, a choice of yours on a Pareto front."),
    ] = None,
) -> None:
    """Write a study's best parameters into params.yaml, if they beat the current ones on other seeds too."""
    _adopt(study, confirm, trial)


studies = typer.Typer(help="Look at studies: what `mnist tune` has found.", no_args_is_help=True)
app.add_typer(studies, name="study", rich_help_panel=EXPERIMENTS)


@studies.command("list")
def list_studies() -> None:
    """Print one row per study: its objective, trials, the best one, and the parameters that it started from."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tuning.report import show_studies

    show_studies(find_project())


@studies.command("show")
def show_study(name: Annotated[str, typer.Argument(help="Of the study.")]) -> None:
    """Print a study's trials, best first, its Pareto front if it has one, and how much each parameter mattered."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tuning.report import show_study as show

    show(find_project(), name)


@app.command(rich_help_panel=EXPERIMENTS)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Port on this machine.")] = 5000,
) -> None:
    """Browse runs and models in MLflow's web page, until Ctrl+C."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tracking.ui import serve

    serve(find_project(), port)


@app.command(rich_help_panel=EXPERIMENTS)
def summary() -> None:
    """Print a table of the trained models, from `models/*` and `reports/*`, and what to type next."""
    from mnist_pipeline.summary import show

    project, params = _open()
    show(project, params)


@app.command(rich_help_panel=EXPERIMENTS)
def augment(
    name: ModelName,
    preview: Annotated[Path, typer.Option(help="The picture to write: its suffix, such as .png, is its format.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draws; the seed of params.yaml by default.")] = None,
) -> None:
    """Draw what a model's augmentation makes of digits from `data/split/train.npz`, as a contact sheet."""
    project, params = _open()
    params.model(name)
    with quiet_native_logs():
        from mnist_pipeline.tracking.preview import write_contact_sheet

    write_contact_sheet(project, params, name, preview, params.seed if seed is None else seed)


@app.command(rich_help_panel=MODELS)
def models() -> None:
    """Print the registered versions: aliases, accuracies, training data, commit."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tracking.catalogue import show_models

    show_models(find_project())


@app.command(rich_help_panel=MODELS)
def rollback() -> None:
    """Give the title of champion back to the previous one; typed again, take that back."""
    from mnist_pipeline.project import find_project
    from mnist_pipeline.tracking.catalogue import rollback as run

    run(find_project())


@app.command(rich_help_panel=MODELS)
def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG files of any size, or one IDX file with --index.")],
    index: Annotated[int | None, typer.Option(min=0, help="Which image of an IDX file, from 0.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A trained model by name; the best on validation by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Read digits from pictures with a model in `models/`; prints each digit and the ten class scores."""
    from mnist_pipeline.project import find_project

    with quiet_native_logs():
        from mnist_pipeline.serving import predict as serving

    serving.run(find_project(), images, index=index, model=model, as_lines=as_json)


@app.command(rich_help_panel=MODELS)
def doctor() -> None:
    """Print versions, devices, folders, store and data state; the exit status is 1 if the set-up is broken."""
    with quiet_native_logs():
        from mnist_pipeline import doctor as examination

        healthy = examination.run()
    raise typer.Exit(0 if healthy else 1)


def _adopt(study: str, confirm: int, trial: int | None = None) -> None:
    """Take a study's winner over, into params.yaml as it is by now."""
    project, params = _open()
    from mnist_pipeline.tuning.adopt import adopt as run

    run(project, params, study, confirm, trial)


def _open() -> "tuple[Project, Params]":
    """Find the project and check its parameters, before any stage starts work."""
    from mnist_pipeline.params import load_params
    from mnist_pipeline.project import find_project

    project = find_project()
    return project, load_params(project.params)
