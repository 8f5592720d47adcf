"""What a study has found, as tables."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.console import say
from mnist_pipeline.errors import UserError
from mnist_pipeline.project import Project
from mnist_pipeline.tuning.goal import Goal
from mnist_pipeline.tuning.outcome import (
    NAMES,
    TOO_LARGE,
    best_of,
    complete,
    current_trial,
    front_of,
    goal_of,
    outcome_of,
)
from mnist_pipeline.tuning.progress import others
from mnist_pipeline.tuning.records import RESULT
from mnist_pipeline.tuning.study import DONE, load_study

IMPORTANCE_TRIALS = 10
"""With fewer complete trials, what looks important is chance."""


def trials_table(study: optuna.Study, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Return one row per trial: number, outcome, values, epochs, seconds, parameters by short names."""
    goal = goal_of(study)
    names = _short_names([path for trial in trials for path in trial.params])
    rows = [
        {
            "trial": trial.number,
            "outcome": outcome_of(trial),
            goal.number: trial.values[0] if trial.values else None,
            "weights": trial.user_attrs.get(f"{RESULT}parameters"),
            "epochs": trial.user_attrs.get(f"{RESULT}epochs", trial.last_step),
            "seconds": trial.user_attrs.get(f"{RESULT}training_seconds"),
            **{names[path]: value for path, value in trial.params.items()},
        }
        for trial in trials
    ]
    return pd.DataFrame(rows).astype({"weights": "Int64", "epochs": "Int64"}) if rows else pd.DataFrame()


def tables(study: optuna.Study) -> dict[str, str]:
    """Return the tables to keep with the study, by name, as CSV: all trials, and the Pareto front if it has one."""
    goal = goal_of(study)
    found = {"trials": trials_table(study, _ended(study))}
    if goal.small:
        found["pareto_front"] = trials_table(study, front_of(study, goal))
    return {name: table.to_csv(index=False) for name, table in found.items()}


def summary_numbers(study: optuna.Study) -> dict[str, float]:
    """Return what the study has come to, for the record: counts of trials, and the number that decides."""
    trials, goal = study.get_trials(deepcopy=False), goal_of(study)
    counts = Counter(outcome_of(trial) for trial in _ended(study))
    outcomes = ("complete", "pruned", "failed", TOO_LARGE)
    numbers: dict[str, float] = {f"trials_{outcome.replace(' ', '_')}": counts[outcome] for outcome in outcomes}
    for name, trial in (("best", best_of(trials, goal)), ("current", current_trial(trials))):
        if trial is not None and trial.state is TrialState.COMPLETE:
            numbers[f"{name}_{goal.metric}"] = trial.values[0]
    if goal.small:
        numbers["pareto_front_size"] = len(front_of(study, goal))
    return numbers


def show_result(study: optuna.Study, validation_images: int) -> None:
    """Print the best trial against the current parameters, and what the two differ by; or the Pareto front."""
    trials, goal = study.get_trials(deepcopy=False), goal_of(study)
    best, current = best_of(trials, goal), current_trial(trials)
    if best is None:
        say(f"No trial is complete yet{others(trials)}.")
        return
    if goal.small:
        say(_front_text(study, goal))
    else:
        say(f"Best: trial {best.number}, validation {goal.number} {goal.text(best.values)}.")
    if current is None or current.state is not TrialState.COMPLETE:
        why = outcome_of(current) if current and current.state in NAMES else "not finished"
        say(f"The trial of the current parameters is {why}: there is nothing to compare with.")
    elif goal.small:
        say(f"The current parameters (trial {current.number}): {goal.text(current.values)}.")
    elif current.number == best.number:
        say("That is the current parameters: no trial did better.")
    else:
        _show_gain(current, best, goal, validation_images)


def _show_gain(current: FrozenTrial, best: FrozenTrial, goal: Goal, validation_images: int) -> None:
    """Print by how much the best trial is better than the current parameters, and what they differ by."""
    before, after = current.values[0], best.values[0]
    error = math.sqrt(after * (1 - after) / validation_images) if goal.number == "accuracy" else None
    noise = f" (standard error of each, on {validation_images} images: {error:.2%})" if error is not None else ""
    gain = goal.difference_text(after - before)
    say(f"The current parameters: {goal.text(current.values)}, so {gain} on one seed{noise}.")
    say(_comparison(current.params, best.params).to_string(index=False))


def show_study(project: Project, name: str) -> None:
    """Print a study's trials, best first, its Pareto front if it has one, and how much each parameter mattered.

    Raises:
        UserError: there is no such study.
    """
    study = load_study(project.studies / f"{name}.log")
    trials, goal = _ended(study), goal_of(study)
    if not trials:
        say(f"No trial of {name} has ended yet.")
        return
    best_first = complete(trials, goal)
    say(
        _text_of(
            trials_table(study, [*best_first, *(trial for trial in trials if trial.state is not TrialState.COMPLETE)]),
            goal,
        )
    )
    if goal.small:
        say(f"\n{_front_text(study, goal)}")
    if importances := importances_of(study):
        say("\nImportance (PED-ANOVA: which parameters set the best tenth apart):")
        say(pd.Series(importances).to_string(float_format="{:.2f}".format))


def show_studies(project: Project) -> None:
    """Print one row per study.

    Raises:
        UserError: there is none.
    """
    rows = [row for file in sorted(project.studies.glob("*.log")) if (row := _row(file))]
    if not rows:
        raise UserError(f"There is no study in {project.studies} yet: start one with `mnist tune MODEL`.")
    say(pd.DataFrame(rows).to_string(index=False))


def _row(file: Path) -> dict[str, Any] | None:
    """Return what a study has come to, or None if the file holds none, as after a kill at its very start."""
    try:
        study = load_study(file)
    except UserError:
        return None
    trials, goal = study.get_trials(deepcopy=False), goal_of(study)
    best, current = best_of(trials, goal), current_trial(trials)
    is_complete = current is not None and current.state is TrialState.COMPLETE
    return {
        "study": file.stem,
        "model": study.user_attrs["definition"]["model"],
        "objective": goal.name,
        "done": sum(trial.state in DONE for trial in trials),
        "failed": sum(trial.state is TrialState.FAIL for trial in trials),
        "best": "-" if best is None else goal.text(best.values),
        "current": goal.text(current.values) if current and is_complete else "-",
    }


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return each parameter's share of what sets the best trials apart; empty where too few trials tell.

    The best are those with the best number, also where weights count: what these depend on is no question.
    """
    simple = simplified(study)
    values = [trial.value for trial in simple.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))]
    if len(values) < IMPORTANCE_TRIALS or len(set(values)) == 1:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(simple, evaluator=evaluator)


def simplified(study: optuna.Study) -> optuna.Study:
    """Return a copy in memory whose only value is the number that decides, and whose parameters have short names."""
    trials = study.get_trials()
    names = _short_names(path for trial in trials for path in trial.params)
    for trial in trials:
        trial.values = trial.values[:1] if trial.values else None
        trial.params = {names[path]: value for path, value in trial.params.items()}
        trial.distributions = {names[path]: values for path, values in trial.distributions.items()}
    copy = optuna.create_study(study_name=study.study_name, direction=study.directions[0])
    copy.add_trials(trials)
    return copy


def _short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return for each path as few of its last parts as tell it from the others."""
    different = [*dict.fromkeys(paths)]
    names: dict[str, str] = {}
    for path in different:
        parts = path.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        names[path] = next(tail for tail in tails if sum(f".{other}".endswith(f".{tail}") for other in different) == 1)
    return names


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state in NAMES]


def _front_text(study: optuna.Study, goal: Goal) -> str:
    """Return the Pareto front as a table, with its parameters."""
    front = trials_table(study, front_of(study, goal)).drop(columns="outcome")
    return f"Pareto front (no trial is both more accurate and smaller):\n{_text_of(front, goal)}"


def _text_of(table: pd.DataFrame, goal: Goal) -> str:
    """Return a table of trials for people."""

    def number(value: Any) -> str:
        return "-" if pd.isna(value) else goal.number_text(value)

    def count(value: Any) -> str:
        return "-" if pd.isna(value) else f"{value:,}"

    return table.to_string(
        index=False,
        na_rep="-",
        formatters={goal.number: number, "weights": count, "epochs": count},
        float_format="{:.3g}".format,
    )


def _comparison(current: Mapping[str, Any], best: Mapping[str, Any]) -> pd.DataFrame:
    return pd.DataFrame(
        [
            {"parameter": path, "current": _text(current[path]), "best": _text(value)}
            for path, value in best.items()
            if value != current[path]
        ]
    )


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else json.dumps(value)
