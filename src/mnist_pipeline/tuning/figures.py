"""A study's figures, by Optuna: as pictures, and as one page to explore, which needs no network."""

import warnings
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


def draw(study: optuna.Study) -> "dict[str, str | Figure]":
    """Return the pictures, and the page with all the code that it needs (5 MB), by the names of their files.

    There are none while fewer than two trials are complete.
    """
    if len(complete_of(study)) < 2:
        return {}
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna import visualization

    with warnings.catch_warnings(action="ignore"), plt.rc_context():  # Optuna calls its figures experimental
        plt.switch_backend("agg")  # Optuna draws through pyplot, which would look for a screen
        pictures = {name: np.ravel(axes)[0].figure for name, axes in _plots(visualization.matplotlib, study).items()}
        interactive = _plots(visualization, study).values()
    for picture in pictures.values():
        plt.close(picture)
    wide = pictures["parallel_coordinate"]
    wide.set_figwidth(max(wide.get_figwidth(), INCHES_PER_AXIS * len(wide.axes)))
    parts = [figure.to_html(full_html=False, include_plotlyjs=not index) for index, figure in enumerate(interactive)]
    page = _PAGE.format(title=f"Study {study.study_name}", body="\n".join(parts))
    return {"figures.html": page} | {f"figures/{name}.png": picture for name, picture in pictures.items()}


def _plots(library: Any, study: optuna.Study) -> dict[str, Any]:
    """Draw with either of Optuna's two libraries, whose functions have the same names."""
    goal, simple = goal_of(study), simplified(study)
    name = f"validation {goal.number}"
    plots = {
        kind: getattr(library, f"plot_{kind}")(simple, target_name=name)
        for kind in ("optimization_history", "parallel_coordinate", "slice")
    }
    if importances_of(study):
        plots["importances"] = library.plot_param_importances(simple, target_name=name)
    if goal.small:
        plots["pareto_front"] = library.plot_pareto_front(study, target_names=[name, "weights"])
    return plots
