"""What the trials of a study have come to: how each ended, which are best, and the tables that say so."""

import json
import math
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
import pandas as pd
from optuna.trial import FrozenTrial, TrialState

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tracking.contents import as_metrics
from mnist_pipeline.tracking.studies import TrialEnd
from mnist_pipeline.tuning.plan import GOALS, Goal
from mnist_pipeline.tuning.storage import Studies
from mnist_pipeline.tuning.study import CURRENT, count_done, load_study, mishap_of, values_of

RESULT = "result"
"""User attribute with the trial's metrics by name."""
OUTCOMES = {TrialState.COMPLETE: "complete", TrialState.PRUNED: "pruned", TrialState.FAIL: "failed"}
"""The states that end a trial."""
IMPORTANCE_TRIALS = 10
"""With fewer complete trials, what looks important is chance."""


def goal_of(study: optuna.Study) -> Goal:
    """Return what the study is to reach."""
    return GOALS[study.user_attrs["definition"]["objective"]]


def outcome_of(trial: FrozenTrial) -> str:
    """Return how a trial ended; `too large`, if `--max-parameters` kept it from being trained."""
    too_large = trial.state is TrialState.PRUNED and any(excess > 0 for excess in trial.constraints.values())
    return "too large" if too_large else OUTCOMES[trial.state]


def complete_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that trained to the end, best first, the first of equals first."""
    return _best_first(study, study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,)))


def best_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the best complete trial, on a Pareto front the most accurate one; None if there is none."""
    goal, complete = goal_of(study), study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    return max(complete, key=lambda trial: goal.rank(trial.values), default=None)


def front_of(study: optuna.Study) -> list[FrozenTrial]:
    """Return the complete trials that no other one beats in one value and equals in the rest, best first."""
    return _best_first(study, study.best_trials)


def current_of(study: optuna.Study) -> FrozenTrial | None:
    """Return the trial of the parameters that were in `params.yaml` when the study began, if it is complete."""
    return next((trial for trial in complete_of(study) if trial.user_attrs.get("origin") == CURRENT), None)


def count_others(study: optuna.Study) -> str:
    """Return how many trials ended otherwise than complete: ` (2 pruned, 1 failed)`, or nothing if none did."""
    counts = _count(study)
    del counts["complete"]
    return f" ({', '.join(f'{count} {outcome}' for outcome, count in sorted(counts.items()))})" if counts else ""


def trial_ends(study: optuna.Study) -> list[TrialEnd]:
    """Return what MLflow is told of each trial that has ended."""
    return [trial_end(study, trial) for trial in _ended(study)]


def trial_end(study: optuna.Study, trial: FrozenTrial, epochs: Sequence[Any] | None = None) -> TrialEnd:
    """Return what MLflow is told of a trial that has ended; of its epochs the study knows the number that decides."""
    mishap, curve, name = mishap_of(trial), trial.intermediate_values, f"val_{goal_of(study).number}"
    begin, end = (when and int(when.timestamp() * 1000) for when in (trial.datetime_start, trial.datetime_complete))
    return TrialEnd(
        number=trial.number,
        outcome=outcome_of(trial),
        values=values_of(trial),
        metrics=trial.user_attrs.get(RESULT, {}),
        epochs=epochs or [metric for step, value in curve.items() for metric in as_metrics({name: value}, step)],
        error=f"the process was {mishap}" if mishap else trial.user_attrs.get("error"),
        begin=begin,
        end=end,
    )


def summary_numbers(study: optuna.Study) -> dict[str, float]:
    """Return what the study has come to, for MLflow: counts of trials, and the number that decides."""
    goal, counts, outcomes = goal_of(study), _count(study), (*OUTCOMES.values(), "too large")
    numbers: dict[str, float] = {f"trials_{outcome.replace(' ', '_')}": counts[outcome] for outcome in outcomes}
    for name, trial in (("best", best_of(study)), ("current", current_of(study))):
        if trial:
            numbers[f"{name}_val_{goal.number}"] = trial.values[0]
    return numbers | ({"pareto_front_size": len(front_of(study))} if goal.small else {})


def files_of(study: optuna.Study) -> dict[str, str]:
    """Return what to keep with the study, by name: the best values, all trials, and the Pareto front if it has one."""
    best = best_of(study)
    values = [f"{path}: {json.dumps(value)}\n" for path, value in (values_of(best) if best else {}).items()]
    tables = {"trials": _ended(study)} | ({"pareto_front": front_of(study)} if goal_of(study).small else {})
    return {"best.yaml": "".join(values)} | {
        f"{name}.csv": _table(study, trials).to_csv(index=False) for name, trials in tables.items()
    }


def show_result(study: optuna.Study, validation_images: int) -> None:
    """Print the best trial against the current parameters, and what the two differ by; or the Pareto front."""
    goal, best, current = goal_of(study), best_of(study), current_of(study)
    if best is None:
        say(f"No trial is complete yet{count_others(study)}.")
        return
    text = f"Best: trial {best.number}, validation {goal.number} {goal.text(best.values)}."
    say(_front_text(study) if goal.small else text)
    if current is None:
        say("The trial of the current parameters is not complete: there is nothing to compare with.")
    elif goal.small:
        say(f"The current parameters (trial {current.number}): {goal.text(current.values)}.")
    elif current.number == best.number:
        say("That is the current parameters: no trial did better.")
    else:
        error = math.sqrt(best.values[0] * (1 - best.values[0]) / validation_images) if goal.number == "accuracy" else 0
        noise = f" (standard error of each, on {validation_images} images: {error:.2%})" if error else ""
        gain = goal.number_text(best.values[0] - current.values[0], sign="+")
        say(f"The current parameters: {goal.text(current.values)}, so {gain} on one seed{noise}.")
        say(_text(study, _table(study, [best, current])))


def show_study(study: optuna.Study, limit: int | None = None) -> None:
    """Print all or so many trials, best first, the Pareto front if there is one, and how much each parameter counts."""
    if not (ended := _ended(study)):
        say(f"No trial of {study.study_name} has ended yet.")
        return
    trials = [*complete_of(study), *(trial for trial in ended if trial.state is not TrialState.COMPLETE)]
    say(_text(study, _table(study, trials[:limit])))
    if hidden := len(trials[limit:]) if limit else 0:
        say(f"... and {hidden} more: `mnist study show {study.study_name} --all`.")
    if goal_of(study).small and best_of(study):
        say(f"\n{_front_text(study)}")
    if importances := importances_of(study):
        say("\nImportance (PED-ANOVA: which parameters set the best tenth apart):")
        say(pd.Series(importances).rename(_short_name).to_string(float_format="{:.2f}".format))


def show_studies(studies: Studies) -> None:
    """Print one row per study; those that cannot be read get a notice; a UserError says if there is none."""
    rows: list[dict[str, Any]] = []
    for name in studies.names():
        try:
            study = load_study(studies, name)
        except UserError as error:
            warn(str(error))
            continue
        goal, best, current = goal_of(study), best_of(study), current_of(study)
        rows.append(
            {
                "study": name,
                **{key: study.user_attrs["definition"][key] for key in ("model", "objective")},
                "done": count_done(study),
                "failed": _count(study)["failed"],
                "best": goal.text(best.values) if best else "-",
                "current": goal.text(current.values) if current else "-",
            }
        )
    if not rows:
        raise UserError(f"There is no study in {studies.place} yet: start one with `mnist tune MODEL`.")
    say(pd.DataFrame(rows).to_string(index=False))


def importances_of(study: optuna.Study) -> dict[str, float]:
    """Return each parameter's share of what sets the best trials apart; empty where too few trials tell.

    The best are those with the best number, also where weights count: what these depend on is no question.
    """
    numbers = [trial.values[0] for trial in complete_of(study)]
    if len(numbers) < IMPORTANCE_TRIALS or len(set(numbers)) == 1:
        return {}
    with warnings.catch_warnings(action="ignore"):  # that low values are taken for good: `_loss` sees to it
        return optuna.importance.get_param_importances(study, target=_loss if goal_of(study).small else None)


def draw(study: optuna.Study) -> str:
    """Return Optuna's figures as one page with all the code that it needs (5 MB); empty below two complete trials."""
    if len(complete_of(study)) < 2:
        return ""
    from optuna import visualization  # which takes seconds

    goal, title = goal_of(study), f"Study {study.study_name}"
    options: dict[str, Any] = {"target_name": f"validation {goal.number}"}
    number: Any = (lambda trial: trial.values[0]) if goal.small else None  # pyright: ignore
    kinds = ("optimization_history", "parallel_coordinate", "slice")
    figures = [getattr(visualization, f"plot_{kind}")(study, target=number, **options) for kind in kinds]
    if importances_of(study):
        with warnings.catch_warnings(action="ignore"):
            figures.append(visualization.plot_param_importances(study, target=_loss if goal.small else None, **options))
    if goal.small:
        figures.append(visualization.plot_pareto_front(study, target_names=[options["target_name"], "weights"]))
    parts = [figure.to_html(full_html=False, include_plotlyjs=not index) for index, figure in enumerate(figures)]
    body = f'<body style="font-family: sans-serif; margin: 2em"><h1>{title}</h1>'
    return f'<!DOCTYPE html>\n<meta charset="utf-8"><title>{title}</title>\n{body}\n' + "\n".join(parts)


def _loss(trial: FrozenTrial) -> float:
    """Return the accuracy such that lower is better, as PED-ANOVA takes it for a value that is picked out of two."""
    return -trial.values[0]


def _best_first(study: optuna.Study, trials: Iterable[FrozenTrial]) -> list[FrozenTrial]:
    goal = goal_of(study)
    return sorted(trials, key=lambda trial: goal.rank(trial.values), reverse=True)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=tuple(OUTCOMES))


def _count(study: optuna.Study) -> Counter[str]:
    return Counter(outcome_of(trial) for trial in _ended(study))


def _short_name(path: str) -> str:
    """Return a parameter's path without its section: `optimizer.learning_rate`; no two sections share a name."""
    return path.partition(".")[2] or path


def _table(study: optuna.Study, trials: Sequence[FrozenTrial]) -> pd.DataFrame:
    """Return one row per trial: number, outcome, values, epochs, seconds, parameters by short names."""
    rows = list[dict[str, Any]]()
    for trial in trials:
        result = trial.user_attrs.get(RESULT, {})
        row = {
            "trial": trial.number,
            "outcome": outcome_of(trial),
            goal_of(study).number: trial.values[0] if trial.values else math.nan,
            "weights": result.get("parameters", math.nan),
            "epochs": result.get("epochs", trial.last_step or math.nan),
            "seconds": result.get("training_seconds", math.nan),
        }
        rows.append(row | {_short_name(path): value for path, value in trial.params.items()})
    return pd.DataFrame(rows, dtype=object)


def _text(study: optuna.Study, table: pd.DataFrame) -> str:
    """Return a table of trials for people."""
    goal = goal_of(study)
    formatters = {goal.number: goal.number_text, "weights": "{:,}".format}
    return table.to_string(index=False, na_rep="-", formatters=formatters, float_format="{:.3g}".format)


def _front_text(study: optuna.Study) -> str:
    """Return the Pareto front as a table, with its parameters."""
    front = _table(study, front_of(study)).drop(columns="outcome")
    return f"Pareto front (no trial is both more accurate and smaller):\n{_text(study, front)}"
