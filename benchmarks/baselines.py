"""The table of the published recipes, from what `dvc repro baselines/dvc.yaml` left: see README.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from bench import Grid, Statistic, describe, machine, versions
from mnist_pipeline.cli import run_command
from mnist_pipeline.console import say
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path, read_json

BASELINES = Path(__file__).parents[1] / "baselines"
HEADINGS = ("name", "recipe", "parameters", "published %", "test accuracy %", "validation accuracy %")


def main() -> None:
    """Print the table and write `baselines/results.md`.

    Raises:
        UserError: a recipe is not trained or evaluated yet, or has not the published number of parameters.
    """
    params = YAML(typ="safe").load(BASELINES / "params.yaml")
    seeds = params["seeds"]
    grid = Grid("Baselines", HEADINGS, [row(name, about, seeds) for name, about in params["recipes"].items()])
    grid.show()
    notes = (
        f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))} (n = {len(seeds)}).",
        f"{describe(machine(), versions())}.",
    )
    with atomic_path(BASELINES / "results.md") as temporary:
        text = grid.markdown() + "\n" + "\n".join(f"- {note}" for note in notes)
        temporary.write_text(text.removeprefix("## ").replace("Baselines", "# Baselines", 1) + "\n", encoding="utf-8")
    say("Written: baselines/results.md")


def row(name: str, about: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """Return what the seeds of one recipe came to, as text for `HEADINGS`."""
    results = [read_results(name, seed) for seed in seeds]
    parameters = results[0]["parameters"]
    if parameters != about.get("parameters", parameters):
        raise UserError(
            f"baselines/{name}/params.yaml builds a network of {parameters:,} parameters, but the recipe has "
            f"{about['parameters']:,}: correct its architecture."
        )

    accuracies = [
        Statistic.of([result[f"{subset}_accuracy"] for result in results]).text(".2f", 100)
        for subset in ("test", "validation")
    ]
    return [name, about["recipe"], f"{parameters:,}", about["published"].removesuffix(" %"), *accuracies]


def read_results(name: str, seed: int) -> dict[str, Any]:
    """Return what training and evaluating one recipe with one seed found."""
    folder = BASELINES / name / "models" / f"{name}_seed{seed}"
    made_by = "dvc repro baselines/dvc.yaml"
    return {**read_json(folder / "metrics.json", made_by), **read_json(folder / "evaluation.json", made_by)}


if __name__ == "__main__":
    run_command(main)
