"""What MLflow's page shows of our experiments: their descriptions and *Views*, each a table or charts of the runs.

MLflow keeps a view in a tag of its experiment, `mlflow.sharedViewState.<key>`, lists it in the menu *Views*, the newest
first, and opens it by its key in an address. That an address shows charts, only the address can say.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MODELS_DESCRIPTION = """\
One run per trained model (`dvc repro`): click *Training runs* at the left, then *Views* at the right.

* *Models by validation accuracy* is the table that `mnist ui` opens; for *Learning curves* click the chart symbol, too.
* `best_val_accuracy` is what models are chosen by; `test_accuracy` is only reported.
* Each run's **Datasets** carry DVC's hashes, its **Parameters** every parameter that it used, its
  **Artifacts** the model, the history and the figures of the test report.
* The best model is version `champion` of the registered model `{model}`.
"""

TRIALS_DESCRIPTION = """\
One run per study, with one child run per trial: click *Training runs* at the left, then *Views* at the right.

* *Trials, best first* is a table. For *Parameters that matter* click the chart symbol, too: a line is a trial.
* A trial is FINISHED if it trained to the end, KILLED if it was pruned or its network was too large to be trained (the
  tag `outcome` says which), FAILED with the reason in its tag `error`.
* All accuracies and losses are on the validation split: the test split takes no part.
* A study's **Artifacts** hold `figures.html`, to be explored offline, and its trials as a table.
* The run of an adopted trial and those of the trainings with its parameters link to each other.
"""

_BEST = "metrics.`best_val_accuracy`"


@dataclass(frozen=True)
class View:
    """A view that MLflow's page offers."""

    key: str
    """Its name in addresses."""
    name: str
    """Its name in the menu."""
    state: Mapping[str, Any]
    """What to show, in the page's own terms."""
    charts: bool = False
    """Whether it is about the charts, not the table."""

    def address(self, server: str, experiment_id: str) -> str:
        """Return where a browser finds it."""
        mode = "&compareRunsMode=CHART" if self.charts else ""
        runs = f"{server.rstrip('/')}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"
        return f"{runs}&viewStateShareKey={self.key}{mode}"


def view_tags(views: Iterable[View]) -> dict[str, str]:
    """Return the tags of an experiment that has these views, the first one on top of the menu."""
    return {
        f"mlflow.sharedViewState.{view.key}": json.dumps(
            {"name": view.name, "createdAt": -place, "updatedAt": -place, "state": json.dumps(view.state)}
        )
        for place, view in enumerate(views)
    }


def _table(widths: Mapping[str, int]) -> dict[str, Any]:
    """Return a table of these columns, in pixels, the best model first."""
    widths = {"attributes.`Run Name`": 165, "attributes.`Created`": 130, **widths}
    order = {"orderByKey": _BEST, "orderByAsc": False}
    return {**order, "selectedColumns": [*widths], "columnOrder": [*widths], "columnWidths": widths}


def _charts(height: int, sections: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Return charts of all runs, this many pixels high, in one row per section."""
    return {
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # or they would be sorted by name
        "compareRunSections": [
            {"uuid": name, "name": name, "display": True, "columns": len(charts), "cardHeight": height}
            for name, charts in sections.items()
        ],
        "compareRunCharts": [
            {"uuid": f"{name} {place}", "metricSectionId": name, **chart}
            for name, charts in sections.items()
            for place, chart in enumerate(charts)
        ],
    }


def _lines(*metrics: str) -> list[dict[str, Any]]:
    return [{"type": "LINE", "metricKey": name, "xAxisKey": "step", "lineSmoothness": 0} for name in metrics]


_MODELS = _table(
    {
        "attributes.`Models`": 100,
        _BEST: 165,
        "metrics.`test_accuracy`": 125,
        "metrics.`parameters`": 110,
        "metrics.`training_seconds`": 140,
        "attributes.`Version`": 90,
        "attributes.`Dataset`": 220,
    }
)
_CURVES = _charts(
    280,
    {
        "Accuracy: validation, training": _lines("val_accuracy", "train_accuracy"),
        "Loss: validation, training": _lines("val_loss", "train_loss"),
        "Accuracy on corrupted validation images, by strength": _lines("robustness"),
    },
)
MODELS_VIEWS = (
    View("models", "Models by validation accuracy", _MODELS),
    View("curves", "Learning curves", _MODELS | _CURVES, charts=True),
)
"""Views of the experiment of the pipeline's runs."""

_VARIED = (
    "training.optimizer.learning_rate", "training.optimizer.weight_decay", "training.batch_size",
    "architecture.dropout", "augmentation.rotation", "augmentation.shift", "augmentation.zoom", "augmentation.shear",
)  # fmt: skip
"""What all spaces of params.yaml vary; MLflow draws no line for a trial that lacks one of them."""
_TRIALS = _table(
    {_BEST: 165, "metrics.`parameters`": 110, "metrics.`training_seconds`": 140}
    | {f"params.`{name}`": 30 + 7 * len(name) for name in _VARIED}
) | {"searchFilter": "tags.`mlflow.parentRunId` LIKE '%'"}
_PARALLEL = {"type": "PARALLEL", "selectedParams": [*_VARIED], "selectedMetrics": ["best_val_accuracy"]}
TRIALS_VIEWS = (
    View("trials", "Trials, best first", _TRIALS),
    View("parameters", "Parameters that matter", _TRIALS | _charts(440, {"All trials": [_PARALLEL]}), charts=True),
)
"""Views of the experiment of studies."""
