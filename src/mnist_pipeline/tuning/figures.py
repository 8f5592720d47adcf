"""A study's figures, by Optuna: as pictures, and as one page to explore, which needs no network."""

import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import optuna
from optuna.trial import TrialState

from mnist_pipeline.tuning.outcome import goal_of
from mnist_pipeline.tuning.report import importances_of, simplified

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 2
"""Complete trials without which there is nothing to see."""
INCHES_PER_AXIS = 1.2
"""So much room the axes of parallel coordinates need for their numbers."""
_PAGE = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title></head>
<body style="font-family: sans-serif; margin: 2em"><h1>{title}</h1>
{body}
</body></html>
"""


def draw(study: optuna.Study) -> "dict[str, Figure]":
    """Return the figures by name; none while fewer than two trials are complete."""
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna.visualization import matplotlib as plots

    with _quietly(), plt.rc_context():
        plt.switch_backend("agg")  # Optuna draws through pyplot, which would look for a screen
        figures = {name: np.ravel(plot())[0].figure for name, plot in _plots(plots, study).items()}
        for figure in figures.values():
            plt.close(figure)
    if wide := figures.get("parallel_coordinate"):
        wide.set_figwidth(max(wide.get_figwidth(), INCHES_PER_AXIS * len(wide.axes)))
    return figures


def page(study: optuna.Study) -> str | None:
    """Return the figures as an HTML page with all the code that it needs (5 MB); None while there is nothing to see."""
    from optuna import visualization

    with _quietly():
        figures = [plot() for plot in _plots(visualization, study).values()]
    if not figures:
        return None
    parts = [figure.to_html(full_html=False, include_plotlyjs=not index) for index, figure in enumerate(figures)]
    return _PAGE.format(title=f"Study {study.study_name}", body="\n".join(parts))


def _plots(library: Any, study: optuna.Study) -> dict[str, Callable[[], Any]]:
    """Return what to draw, by name, with either of Optuna's two libraries, whose functions have the same names."""
    if len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))) < FEWEST:
        return {}
    goal, simple = goal_of(study), simplified(study)
    name = f"validation {goal.number}"
    plots: dict[str, Callable[[], Any]] = {
        "optimization_history": lambda: library.plot_optimization_history(simple, target_name=name),
        "parallel_coordinate": lambda: library.plot_parallel_coordinate(simple, target_name=name),
        "slice": lambda: library.plot_slice(simple, target_name=name),
    }
    if importances_of(study):
        evaluator = optuna.importance.PedAnovaImportanceEvaluator()
        plots["importances"] = lambda: library.plot_param_importances(simple, evaluator=evaluator, target_name=name)
    if goal.small:
        plots["pareto_front"] = lambda: library.plot_pareto_front(study, target_names=[name, "weights"])
    return plots


@contextmanager
def _quietly() -> Generator[None]:
    """Keep to ourselves that Optuna calls its figures experimental, and what it remarks on few trials."""
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            optuna.logging.set_verbosity(verbosity)
