"""A study's figures, by Optuna: as pictures, and as one page to explore, which needs no network."""

import warnings
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import optuna

from mnist_pipeline.tuning.results import complete_of, goal_of, importances_of, simplified

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INCHES_PER_AXIS = 1.2
"""Width that each axis of parallel coordinates needs for its numbers."""
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

    with warnings.catch_warnings(action="ignore"), plt.rc_context():  # Optuna calls its figures experimental
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

    with warnings.catch_warnings(action="ignore"):
        figures = [plot() for plot in _plots(visualization, study).values()]
    if not figures:
        return None
    parts = [figure.to_html(full_html=False, include_plotlyjs=not index) for index, figure in enumerate(figures)]
    return _PAGE.format(title=f"Study {study.study_name}", body="\n".join(parts))


def _plots(library: Any, study: optuna.Study) -> dict[str, Callable[[], Any]]:
    """Return what to draw, by name, with either of Optuna's two libraries, whose functions have the same names."""
    if len(complete_of(study)) < 2:
        return {}
    goal, simple = goal_of(study), simplified(study)
    name = f"validation {goal.number}"
    plots: dict[str, Callable[[], Any]] = {
        kind: partial(getattr(library, f"plot_{kind}"), simple, target_name=name)
        for kind in ("optimization_history", "parallel_coordinate", "slice")
    }
    if importances_of(study):
        plots["importances"] = partial(library.plot_param_importances, simple, target_name=name)
    if goal.small:
        plots["pareto_front"] = partial(library.plot_pareto_front, study, target_names=[name, "weights"])
    return plots
