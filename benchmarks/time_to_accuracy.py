"""How long our trainer takes to a good model, against what a user would otherwise copy: see README.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from bench import Record, measure_missing, read_records
from contestants import DEFAULT, Job, contestant_key
from mnist_pipeline.cli import run_command
from mnist_pipeline.errors import UserError
from mnist_pipeline.params import load_params
from mnist_pipeline.project import find_project
from standings import report

HERE = Path(__file__).parent
RESULTS = HERE / "results" / "time_to_accuracy.jsonl"

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.command()
def main(
    seeds: Annotated[int, typer.Option(min=1, help="Trainings of each contestant, with seeds 0, 1, ...")] = 3,
    only: Annotated[
        str, typer.Option(help="Contestants, with commas; also any other model of params.yaml, such as cnn_large.")
    ] = ",".join(DEFAULT),
    results: Annotated[Path, typer.Option(help="JSON lines, one per training; .json and .md go beside it.")] = RESULTS,
    epochs: Annotated[int | None, typer.Option(min=1, help="Train only so many, to try the benchmark out.")] = None,
    params: Annotated[Path | None, typer.Option(help="Another params.yaml with our models.")] = None,
    summarize: Annotated[bool, typer.Option("--summarize", help="Train nothing: report on what there is.")] = False,
) -> None:
    """Measure seconds to accuracy: our cnn and its fast variant against copied recipes, one process per training.

    Run it inside the project, after `dvc repro`. Every training is written down as it ends; the same command goes on
    where an interrupted one stopped, and trains again whatever parameters, code, data or machine have changed for.
    """
    names = [name.strip() for name in only.split(",") if name.strip()]
    if summarize:
        records = read_records(results)
        keys = {record["contestant"]: record["key"] for record in records}  # the newest of each
    else:
        jobs = plan(names, seeds, epochs, params)
        keys = {job.contestant: job.key for job in jobs}
        measure_missing(jobs, HERE / "one_training.py", results, result_of)
        records = read_records(results)
    chosen = select(records, {name: key for name, key in keys.items() if name in names})
    if not chosen:
        raise UserError(f"{results} has no training of {', '.join(names)}: run this without --summarize.")
    report(chosen, results)


def plan(names: Sequence[str], seeds: int, epochs: int | None, params_file: Path | None) -> list[Job]:
    """Return all trainings in order: round by round, so that a slow hour of the machine strikes everyone alike."""
    project = find_project()
    file = (params_file or project.params).resolve()
    params = load_params(file)
    keys = {name: contestant_key(project, params, name, epochs) for name in names}
    return [
        Job(name, seed, epochs, params=str(file), root=str(project.root), key=keys[name])
        for seed in range(seeds)
        for name in keys
    ]


def result_of(record: Record) -> str:
    """Return what came of a training, in a few words."""
    return f"{record['fit_seconds']:7.1f} s  test accuracy {record['test_accuracy_after_epoch'][-1]:.2%}"


def select(records: Sequence[Record], keys: Mapping[str, str]) -> dict[str, list[Record]]:
    """Return the records of each contestant that were measured on the same terms, in the order of `keys`."""
    chosen = {
        name: [record for record in records if (record["contestant"], record["key"]) == (name, key)]
        for name, key in keys.items()
    }
    return {name: found for name, found in chosen.items() if found}


if __name__ == "__main__":
    run_command(app)
