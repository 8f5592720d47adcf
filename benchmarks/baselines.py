"""The table of the published recipes, from the reports of `make baselines`, which calls this."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from mnist_pipeline.cli import run_command
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import ModelId, Project, find_project
from mnist_pipeline.core.records import read_json
from tables import Grid, Statistic, publish

BASELINES = Path(__file__).resolve().parents[1] / "baselines"
HEADINGS = ("", "parameters", "published %", "test accuracy %", "validation accuracy %")
NOTES = (
    "All learn from the train split of the pipeline at the root and keep the epoch that is best on its 5,000 "
    "validation images: by accuracy, mlp_validation by loss. The published recipes hold out other images "
    "(keras_convnet 10 %, mlp_validation 20 %; keras_mlp validates on the test images), and all but mlp_validation "
    "keep their last epoch.",
)


def main() -> None:
    """Print the table and write `baselines/results.md`.

    Raises:
        UserError: a recipe is not trained or evaluated yet, or has not the published number of parameters.
    """
    project, published = find_project(BASELINES), YAML(typ="safe").load(BASELINES / "published.yaml")
    seeds = published["seeds"]
    rows = [row(project, name, about, seeds) for name, about in published["recipes"].items()]
    recipes = [f"{name}: {about['recipe']}." for name, about in published["recipes"].items()]
    spread = f"Mean ± standard deviation over the seeds {', '.join(map(str, seeds))} (n = {len(seeds)})."
    publish(BASELINES / "results.md", Grid("Baselines", HEADINGS, rows), [*recipes, spread, *NOTES])


def row(project: Project, name: str, about: Mapping[str, Any], seeds: Sequence[int]) -> list[str]:
    """Return what the seeds of one recipe came to, as text for `HEADINGS`."""
    files = [project.metrics(ModelId(name, seed)) for seed in seeds]
    results = [read_json(file, dict[str, Any], "make baselines") for file in files]
    parameters = results[0]["parameters"]
    if parameters != about.get("parameters", parameters):
        raise UserError(
            f"baselines/params.yaml: {name} has {parameters:,} parameters, but the recipe has "
            f"{about['parameters']:,}: correct its architecture."
        )
    accuracies = [
        Statistic.of([result[f"{subset}_accuracy"] for result in results]).text(".2f", 100)
        for subset in ("test", "val")
    ]
    return [name, f"{parameters:,}", str(about["published"]), *accuracies]


if __name__ == "__main__":
    run_command(main)
