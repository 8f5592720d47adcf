"""The front door: `mnist`. One command per stage, and what people do with the results.

Everything heavy is imported inside the command that needs it, so that `mnist --help` answers at once.
"""

import atexit
import gc
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Never

import typer

from mnist_pipeline.core.console import console, quiet_native_logs, say, warn
from mnist_pipeline.core.errors import UserError, explain
from mnist_pipeline.core.processes import held
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.serving.formats import Format, need

if TYPE_CHECKING:
    import keras

    from mnist_pipeline.training.params import Params

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

Reference = Annotated[
    str, typer.Argument(help="A run's id, models:/NAME@champion or models:/NAME/3, NAME as `data.name` in params.yaml.")
]
Study = Annotated[str, typer.Argument(help="Name of a study.")]
Storage = Annotated[
    str | None,
    typer.Option(envvar="MNIST_STUDIES", help="PostgreSQL database that keeps the studies; mlruns/optuna by default."),
]
ModelName = Annotated[str, typer.Argument(help="A name under `models` in params.yaml.")]
PagePort = Annotated[
    int | None, typer.Option(min=1, max=65_535, help="Port on this machine; the next free one by default.")
]
Browser = Annotated[bool, typer.Option("--open/--no-open", help="Open the browser, where there is a desktop.")]
Offline = Annotated[
    bool,
    typer.Option("--offline", envvar="MNIST_OFFLINE", help="Without MLflow's server; `mnist sync` delivers."),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Instead of params.yaml's; the model is then NAME_seedN.")]


def main() -> None:
    """Run `mnist`."""
    run_command(app)


def run_command(application: Callable[[], object]) -> None:
    """Run a Typer app; a user's mistake is one sentence and status 1, an interruption one line and status 130."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's greetings are no news
    signal.signal(signal.SIGTERM, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal that knows only ASCII shows a question mark
    # TensorFlow and MLflow make a million objects that stay. Python would look for garbage among them after every 700
    # new ones, for a fifth of a command's time, and once more at the end, for seconds.
    gc.set_threshold(10_000)
    atexit.register(gc.freeze)
    try:
        application()
    except Exception as error:
        sentence = explain(error)
        if not sentence and "mlflow" in sys.modules:  # its store may have been lost on the way
            from mnist_pipeline.tracking.store import what_is_wrong

            sentence = what_is_wrong(error)
        if sentence:
            console(stderr=True).print(f"error: {sentence}", markup=False, style="red")
        else:
            from mnist_pipeline.provenance.redaction import redact

            # A bug, with its traceback; but what libraries say of an address may have a password in it.
            sys.stderr.write(redact(traceback.format_exc()))
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == 130:
            warn("Interrupted.")
        raise


def _interrupt(*_: object) -> Never:
    raise KeyboardInterrupt


@app.command(hidden=True)
def ready() -> None:
    """Check what `dvc repro` reads before it starts, and remove the lock that a full disk has cut off."""
    from mnist_pipeline.provenance.pipeline import make_ready

    project, _ = _open()
    if done := make_ready(project):
        warn(done)


@app.command(rich_help_panel=PIPELINE)
def download() -> None:
    """Bring the images of `data.source` into `data/raw`, verified.

    `MNIST_MIRROR` (URL or folder) goes first if set.
    """
    from mnist_pipeline.stages import download as stage

    project, _ = _open()
    stage.run(project)


@app.command(rich_help_panel=PIPELINE)
def split() -> None:
    """Divide `data/raw` into train, validation and test in `data/split`.

    `split` in params.yaml says how.
    """
    from mnist_pipeline.stages import split as stage

    project, params = _open()
    stage.run(project, params.split)


@app.command(rich_help_panel=PIPELINE)
def normalize() -> None:
    """Fit what normalizations need on the train split; write `data/normalization.json`."""
    from mnist_pipeline.stages import normalize as stage

    project, _ = _open()
    stage.run(project)


@app.command(rich_help_panel=PIPELINE)
def train(name: ModelName, seed: Seed = None, offline: Offline = False) -> None:
    """Train one model on train and validation; write `models/NAME` and an MLflow run."""
    project, params, model = _open_model(name, seed, offline=offline)
    with held(project.training_lock(model), f"{model} is being trained", "train another seed of it with --seed"):
        with quiet_native_logs():
            from mnist_pipeline.stages import train as stage

        stage.run(project, params, model)


@app.command(rich_help_panel=PIPELINE)
def evaluate(name: ModelName, seed: Seed = None, offline: Offline = False) -> None:
    """Measure `models/NAME` on the test split; write `reports/NAME`, also to MLflow."""
    project, params, model = _open_model(name, seed, offline=offline)
    with quiet_native_logs():
        from mnist_pipeline.stages import evaluate as stage

    stage.run(project, params, model)


@app.command(rich_help_panel=PIPELINE)
def register(offline: Offline = False) -> None:
    """Register the best of `models/`, which becomes champion if it beats the present one.

    Both are compared on validation images.
    """
    project, params = _open(offline=offline)
    from mnist_pipeline.stages import register as stage

    stage.run(project, params)


@app.command(rich_help_panel=EXPERIMENTS)
def sync(
    check_all: Annotated[bool, typer.Option("--all", help="Check the versions without an alias, too.")] = False,
) -> None:
    """Give MLflow what it lacks of the models in `models/`, the versions and the studies."""
    from mnist_pipeline.registry.sync import lacks_best, sync_versions
    from mnist_pipeline.tracking.sync import sync as run

    project, params = _open()
    found = run(project, params)
    sync_versions(project, params, found, everything=check_all)
    for line in found.restored:
        say(line)
    for line in found.lost:
        warn(line)
    if any(project.studies.glob("*.log")):
        from mnist_pipeline.tuning.tune import sync_studies

        for line in sync_studies(project):
            say(line)
    if found.refused:
        raise UserError("\n".join(found.refused))
    if lacks_best(project):
        from mnist_pipeline.stages import register as stage

        stage.run(project, params)
    say("MLflow has all that could be restored." if found.lost else "MLflow agrees with the workspace.")


@app.command(rich_help_panel=EXPERIMENTS)
def lineage(reference: Reference) -> None:
    """Print where a run or a registered model comes from, each step verified.

    The exit status is 3 if one is not.
    """
    from mnist_pipeline.reproduction.lineage import show

    if not show(find_project(), reference):
        raise typer.Exit(3)


@app.command(rich_help_panel=EXPERIMENTS)
def reproduce(
    reference: Reference,
    install: Annotated[
        bool, typer.Option("--install", help="First install the environment that it was locked to, beside this one.")
    ] = False,
) -> None:
    """Train a run's model again, from its own code and data, and compare the weights.

    It happens in a temporary git worktree: nothing of yours changes.

    Exit status: 0 if the weights are the same, 3 if they differ (it says by how much), 4 if a part is missing (which).
    """
    from mnist_pipeline.reproduction.reproduce import run

    raise typer.Exit(run(find_project(), reference, install=install))


@app.command(rich_help_panel=EXPERIMENTS)
def tune(
    name: ModelName,
    trials: Annotated[int, typer.Option(min=1, help="How many trials the study shall have in the end.")] = 20,
    workers: Annotated[int, typer.Option(min=1, help="Trials at once, each in a process of its own.")] = 1,
    timeout: Annotated[str | None, typer.Option(help="No trial starts after this: 90s, 30m, 1h30m.")] = None,
    study: Annotated[str | None, typer.Option(help="The study to start or resume; NAME by default.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Of each trial, instead of the model's own.")] = None,
    objective: Annotated[
        str, typer.Option(help="accuracy, loss, or accuracy,parameters: both more accurate and smaller (no pruning).")
    ] = "accuracy",
    max_parameters: Annotated[
        int | None, typer.Option(min=1, help="Most weights of a network; a trial with more is not trained.")
    ] = None,
    cpus_per_trial: Annotated[
        int | None,
        typer.Option(min=1, help="Cores; by default they share this machine's, or have one each."),
    ] = None,
    gpus_per_trial: Annotated[
        float | None, typer.Option(min=0, help="GPUs, or a share such as 0.25; by default they share all.")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(envvar="RAY_ADDRESS", help="Ray cluster to join: auto or HOST:PORT; else Ray starts here."),
    ] = None,
    dashboard: Annotated[bool, typer.Option("--dashboard", help="Serve Ray's dashboard meanwhile.")] = False,
    storage: Storage = None,
    adopt: Annotated[bool, typer.Option("--adopt", help="Then do as `mnist adopt STUDY`.")] = False,
    confirm: Annotated[int, typer.Option(min=0, help="With --adopt: other seeds to train with first.")] = 3,
    offline: Offline = False,
) -> None:
    """Search better parameters in `tune.space.NAME` of params.yaml; can be resumed."""
    from mnist_pipeline.tuning.plan import Plan

    project, params = _open(offline=offline)
    plan = Plan(
        project, params, name, study or name, trials, timeout, epochs, objective, max_parameters, adopt, storage
    )
    from mnist_pipeline.tuning.cluster import Resources
    from mnist_pipeline.tuning.tune import tune as run

    run(plan, Resources(workers, cpus_per_trial, gpus_per_trial, address, dashboard))
    if adopt:
        adopt_study(plan.study, confirm, storage=storage)


@app.command("adopt", rich_help_panel=EXPERIMENTS)
def adopt_study(
    study: Study,
    confirm: Annotated[int, typer.Option(min=0, help="Other seeds to train with first; 0 trusts the study.")] = 3,
    trial: Annotated[
        int | None,
        typer.Option(min=0, help="Which trial; the best one by default, a choice of yours on a Pareto front."),
    ] = None,
    storage: Storage = None,
) -> None:
    """Write a study's best parameters into params.yaml, if they win on other seeds, too."""
    project, params = _open()
    from mnist_pipeline.tuning.adopt import adopt
    from mnist_pipeline.tuning.storage import find_studies
    from mnist_pipeline.tuning.study import load_study

    adopt(project, params, load_study(find_studies(project, storage), study), confirm, trial)


studies = typer.Typer(help="Look at studies: what `mnist tune` has found.", no_args_is_help=True)
app.add_typer(studies, name="study", rich_help_panel=EXPERIMENTS)


@studies.command("list")
def list_studies(storage: Storage = None) -> None:
    """Print one row per study: its objective, trials, the best one, and the parameters that it started from."""
    from mnist_pipeline.tuning.results import show_studies
    from mnist_pipeline.tuning.storage import find_studies

    show_studies(find_studies(find_project(), storage))


@studies.command("show")
def show_study(
    name: Study,
    show_all: Annotated[bool, typer.Option("--all", help="All trials, not only the best 20.")] = False,
    storage: Storage = None,
) -> None:
    """Print a study's best trials, its Pareto front if it has one, and how much each parameter mattered."""
    from mnist_pipeline.tuning.results import show_study as show
    from mnist_pipeline.tuning.storage import find_studies
    from mnist_pipeline.tuning.study import load_study

    show(load_study(find_studies(find_project(), storage), name), None if show_all else 20)


@app.command(rich_help_panel=EXPERIMENTS)
def ui(port: PagePort = None, browser: Browser = True) -> None:
    """Browse runs and models in MLflow's web page, until Ctrl+C."""
    from mnist_pipeline.tracking.page.ui import serve

    serve(find_project(), port, browser=browser)


@app.command(rich_help_panel=EXPERIMENTS)
def summary() -> None:
    """Print a table of the trained models in `models/`, and what to type next."""
    from mnist_pipeline.summary import show

    project, params = _open()
    show(project, params)


@app.command(rich_help_panel=EXPERIMENTS)
def augment(
    name: ModelName,
    preview: Annotated[Path, typer.Option(help="The picture to write: its suffix, such as .png, is its format.")],
    seed: Annotated[int | None, typer.Option(min=0, help="Of the draws; the seed of params.yaml by default.")] = None,
) -> None:
    """Draw what a model's augmentation makes of images from `data/split/train.npz`."""
    project, params = _open()
    params.model(name)
    with quiet_native_logs():
        from mnist_pipeline.tracking.augmentation_sheet import write_contact_sheet

    write_contact_sheet(project, params, name, preview, params.seed if seed is None else seed)


@app.command(rich_help_panel=MODELS)
def models(
    show_all: Annotated[
        bool, typer.Option("--all", help="All versions, not only the newest 20 and those with an alias.")
    ] = False,
) -> None:
    """Print the registered versions: aliases, accuracies, training data, commit."""
    from mnist_pipeline.registry.catalogue import show_models

    show_models(find_project(), everything=show_all)


@app.command(rich_help_panel=MODELS)
def rollback() -> None:
    """Give the title of champion back to the previous one; typed again, take that back."""
    from mnist_pipeline.registry.catalogue import rollback as run

    run(find_project())


@app.command(rich_help_panel=MODELS)
def predict(
    images: Annotated[list[Path], typer.Argument(help="PNG or JPEG files of any size, or one IDX file with --index.")],
    index: Annotated[int | None, typer.Option(min=0, help="Which image of an IDX file, from 0.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder of `models/`, such as cnn; the registered champion by default.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Classify pictures with the champion or a model in `models/`."""
    from mnist_pipeline.data.params import load_data
    from mnist_pipeline.serving import predict as serving

    project = find_project()
    data, file = load_data(project), serving.find_trained(project, model) if model else None

    def load() -> "keras.Model":
        from mnist_pipeline.models.model import load_model
        from mnist_pipeline.registry.catalogue import load_champion

        return load_model(file, f"mnist train {model}", data) if file else load_champion(project)

    serving.run(data, images, load, index=index, as_lines=as_json)


@app.command(rich_help_panel=MODELS)
def export(
    version: Annotated[
        str, typer.Argument(help="models:/NAME@champion, models:/NAME/3, or only the alias or the number.")
    ] = "champion",
    form: Annotated[
        list[Format] | None, typer.Option("--format", help="May be given several times; onnx by default.")
    ] = None,
    output: Annotated[Path | None, typer.Option(help="Folder to write to; `exports/` by default.")] = None,
) -> None:
    """Export a registered version for other runtimes, and compare it with Keras.

    The files are logged with its run. The 10,000 images are validation and a sample of train, from `data/split`.
    """
    from mnist_pipeline.registry.exports import export_version

    export_version(find_project(), version, form or [Format.ONNX], output)


@app.command(rich_help_panel=MODELS)
def serve(
    port: Annotated[int, typer.Option(min=0, max=65_535, help="Port; 0 for any free one.")] = 8000,
    host: Annotated[str, typer.Option(help="Address; by default, this machine alone can ask.")] = "127.0.0.1",
    follow: Annotated[
        bool, typer.Option("--reload-on-promotion", help="Change to another version when the alias moves.")
    ] = False,
) -> None:
    """Answer over HTTP with the champion.

    Pixels in JSON, or a picture, to `POST /predict`; `/docs` says more.
    """
    from mnist_pipeline.tracking.store import tracking_uri

    need("serve", "`mnist serve`", "ai_edge_litert", "fastapi_offline")
    from mnist_pipeline.serving import serve as server

    project = find_project()
    server.run(project, tracking_uri(project), host, port, follow=follow)


@app.command(rich_help_panel=MODELS)
def demo(port: PagePort = None, browser: Browser = True) -> None:
    """Draw or choose pictures in the browser; see what a version takes them for, and why."""
    with quiet_native_logs():
        from mnist_pipeline.registry.catalogue import offers
        from mnist_pipeline.serving import demo as page

    project = find_project()
    page.run(project, offers(project), port, browser=browser)


@app.command(hidden=True)
def prepare() -> None:
    """Export the champion for `mnist serve`, and write down in `.serving/` which version it is."""
    from mnist_pipeline.registry.exports import prepare_champion

    prepare_champion(find_project())


@app.command(rich_help_panel=MODELS)
def doctor() -> None:
    """Print versions, devices, folders, store and data state.

    The exit status is 1 if the set-up is broken.
    """
    with quiet_native_logs():
        from mnist_pipeline import doctor as examination

        healthy = examination.run()
    raise typer.Exit(0 if healthy else 1)


def _open(*, offline: bool | None = None) -> "tuple[Project, Params]":
    """Find the project and check its parameters, all of them, before any stage starts work.

    A command that can do without MLflow's server says whether it is to be `offline`; if not, it is met here, before
    seconds go into importing TensorFlow.
    """
    from mnist_pipeline.training.params import load_params
    from mnist_pipeline.tuning.params import tune_params

    project = find_project()
    params = load_params(project.params)
    tune_params(params)
    if offline:
        os.environ["MNIST_OFFLINE"] = "1"
    if offline is not None:
        from mnist_pipeline.tracking.store import reach

        reach(project)
    return project, params


def _open_model(name: str, seed: int | None, *, offline: bool) -> "tuple[Project, Params, ModelId]":
    """Do as `_open`, for one model and, if it is given, another seed."""
    project, params = _open(offline=offline)
    params.model(name)
    return project, params.with_seed(seed), ModelId(name, seed)
