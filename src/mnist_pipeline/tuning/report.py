"""What a study has found, as tables."""

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.console import say
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tuning.progress import NAMES, best_of
from mnist_pipeline.tuning.records import RESULT
from mnist_pipeline.tuning.study import CURRENT, DONE, load_study

IMPORTANCE_TRIALS = 10
"""With fewer complete trials, what looks important is chance."""


def current_trial(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """Return the complete trial of the parameters that were in `params.yaml` when the study began."""
    return next((t for t in trials if t.user_attrs.get("origin") == CURRENT and t.state is TrialState.COMPLETE), None)


def trials_table(study: optuna.Study) -> pd.DataFrame:
    """Return one row per trial that has ended: number, state, accuracy, epochs, seconds, parameters by short names."""
    trials = [trial for trial in study.get_trials(deepcopy=False) if trial.state in NAMES]
    names = _short_names([path for trial in trials for path in trial.params])
    rows = [
        {
            "trial": trial.number,
            "state": NAMES[trial.state],
            "accuracy": trial.value,
            "epochs": trial.last_step,
            "seconds": trial.user_attrs.get(f"{RESULT}training_seconds"),
            **{names[path]: value for path, value in trial.params.items()},
        }
        for trial in trials
    ]
    return pd.DataFrame(rows)


def summary_numbers(study: optuna.Study) -> dict[str, float]:
    """Return what the study has come to, for the record: counts of trials and accuracies in [0, 1]."""
    trials = study.get_trials(deepcopy=False)
    states = Counter(trial.state for trial in trials)
    numbers: dict[str, float] = {f"trials_{name}": states[state] for state, name in NAMES.items()}
    for name, trial in (("best", best_of(trials)), ("current", current_trial(trials))):
        if trial is not None and trial.value is not None:
            numbers[f"{name}_validation_accuracy"] = trial.value
    return numbers


def show_result(study: optuna.Study, validation_images: int) -> None:
    """Print the best value against that of the current parameters, and what the two differ by."""
    trials = study.get_trials(deepcopy=False)
    best, current = best_of(trials), current_trial(trials)
    if best is None or best.value is None:
        say("No trial is complete yet.")
        return
    say(f"Best: trial {best.number}, validation accuracy {best.value:.2%}.")
    if current is None or current.value is None:
        say("The trial of the current parameters did not complete: there is nothing to compare with.")
    elif current.number == best.number:
        say("That is the current parameters: no trial did better.")
    else:
        error = math.sqrt(best.value * (1 - best.value) / validation_images)
        say(
            f"The current parameters: {current.value:.2%}, so {best.value - current.value:+.2%} on one seed "
            f"(standard error of each, on {validation_images} images: {error:.2%})."
        )
        say(_comparison(current.params, best.params).to_string(index=False))


def show_study(project: Project, name: str) -> None:
    """Print a study's trials, best first, and how much each parameter mattered.

    Raises:
        UserError: there is no such study.

    """
    study = load_study(project.studies / f"{name}.log")
    table = trials_table(study)
    if table.empty:
        say(f"No trial of {name} has ended yet.")
        return
    table = table.sort_values(["accuracy", "trial"], ascending=[False, True], na_position="last")
    say(
        table.to_string(index=False, na_rep="-", formatters={"accuracy": "{:.2%}".format}, float_format="{:.3g}".format)
    )
    if importances := _importances(study):
        say("\nImportance (PED-ANOVA: which parameters set the best tenth apart):")
        say(pd.Series(importances).to_string(float_format="{:.2f}".format))


def show_studies(project: Project) -> None:
    """Print one row per study.

    Raises:
        UserError: there is none.

    """
    rows = [_row(file) for file in sorted(project.studies.glob("*.log"))]
    if not rows:
        raise UserError(f"There is no study in {project.studies} yet: start one with `mnist tune MODEL`.")
    say(pd.DataFrame(rows).to_string(index=False))


def _row(file: Path) -> dict[str, Any]:
    study = load_study(file)
    trials = study.get_trials(deepcopy=False)
    best, current = best_of(trials), current_trial(trials)
    return {
        "study": file.stem,
        "model": study.user_attrs["definition"]["model"],
        "done": sum(trial.state in DONE for trial in trials),
        "failed": sum(trial.state is TrialState.FAIL for trial in trials),
        "best": "-" if best is None else f"{best.value:.2%}",
        "current": "-" if current is None else f"{current.value:.2%}",
    }


def _importances(study: optuna.Study) -> dict[str, float]:
    """Return each parameter's share of what sets good trials apart; empty where too few trials tell."""
    values = [trial.value for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < IMPORTANCE_TRIALS or len(set(values)) == 1:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _comparison(current: dict[str, Any], best: dict[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"parameter": path, "current": _text(current[path]), "best": _text(value)}
            for path, value in best.items()
            if value != current[path]
        ]
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)


def _short_names(paths: list[str]) -> dict[str, str]:
    """Return for each path as few of its last parts as tell it from the others."""
    names: dict[str, str] = {}
    for path in dict.fromkeys(paths):
        parts = path.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        names[path] = next(tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in set(paths)) == 1)
    return names
