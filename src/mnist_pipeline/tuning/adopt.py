"""Taking a study's winner over into `params.yaml`, once it has proved itself on other seeds.

One lucky score is no improvement: new parameters and current ones are trained again with seeds of their own.
"""

import difflib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.trial import FrozenTrial
from ruamel.yaml import YAML, YAMLError
from ruamel.yaml.comments import CommentedSeq

from mnist_pipeline.core.console import quiet_native_logs, say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.params import check_params
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import is_offline, open_store, reach
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.params import ModelParams, Params, load_params
from mnist_pipeline.tuning.params import Values, apply, parameters_of, place_of
from mnist_pipeline.tuning.plan import MONITOR, Goal
from mnist_pipeline.tuning.results import complete_of, front_of, goal_of
from mnist_pipeline.tuning.study import values_of


def adopt(project: Project, params: Params, study: optuna.Study, confirm: int, number: int | None = None) -> None:
    """Write the values of a study's trial into `params.yaml`, if they beat the current ones on average on other seeds.

    Where the study counts weights too, it is enough to be more accurate or smaller. Current parameters with more
    weights than the study allows cannot stay, whatever their accuracy.

    Both are trained again with `confirm` seeds, none of which the study has used; 0 trusts the study. The best trial is
    taken if `number` names none, which a study with a Pareto front does not have.

    Raises:
        UserError: there is no such model or complete trial, or `params.yaml` cannot be changed.
    """
    definition, goal = study.user_attrs["definition"], goal_of(study)
    trial, name = _chosen(study, goal, number), definition["model"]
    current = params.model(name)
    known, wanted = parameters_of(current), {MONITOR: goal.number, **values_of(trial)}
    if gone := sorted(wanted.keys() - known.keys()):
        raise UserError(f"models.{name} in params.yaml has no {gone[0]} any more, which {study.study_name} is about.")
    changes = {path: value for path, value in wanted.items() if value != known[path]}
    if not changes:
        say(f"params.yaml has the parameters of trial {trial.number} of {study.study_name} already.")
        return
    say(f"Trial {trial.number} of {study.study_name}: {goal.text(trial.values)}.")
    reach(project)
    models = {"current": current, "new": apply(current, changes)}
    rewritten(project.params, name, changes)  # what cannot be written is said before minutes of training
    found = _train_again(project, params, models, goal, confirm)
    adopted = found.empty or _is_better(found.mean(), goal, definition["max_parameters"])
    if adopted:
        say(write(project, name, changes))
        missing = "" if name in params.train else f", once it is named under `train` in {project.params.name}"
        say(f"`dvc repro` now trains and evaluates {name} with them{missing}.")
    else:
        say("The new parameters are not better on average: params.yaml stays as it is.")
    if not is_offline(project) and (record := StudyRun.find(open_store(project), project, study.user_attrs["id"])):
        means = {f"confirm_{column}": float(mean) for column, mean in found.mean().items()}
        record.log_result(means, {"confirmation.csv": found.to_csv()})
        record.log_adoption(trial.number, models["new"] if adopted else None)


def _chosen(study: optuna.Study, goal: Goal, number: int | None) -> FrozenTrial:
    """Return the trial to adopt; refuse one that is not complete, and to choose from a Pareto front."""
    name, best_first = study.study_name, complete_of(study)
    if not best_first:
        model = study.user_attrs["definition"]["model"]
        raise UserError(f"The study {name} has no complete trial yet: go on with `mnist tune {model}`.")
    if number is None and goal.small:
        raise UserError(
            f"The study {name} has no single best trial: choose one with --trial: {_list(front_of(study), goal)}."
        )
    found = [trial for trial in best_first if number in (None, trial.number)]
    if not found:
        raise UserError(
            f"--trial {number} is no complete trial of the study {name}: choose one, such as "
            f"{_list(best_first[:10], goal)}."
        )
    return found[0]


def _list(trials: Iterable[FrozenTrial], goal: Goal) -> str:
    return "; ".join(f"{trial.number} ({goal.text(trial.values)})" for trial in trials)


def _train_again(
    project: Project, params: Params, models: Mapping[str, ModelParams], goal: Goal, count: int
) -> pd.DataFrame:
    """Train both models with so many other seeds; print and return what counts in each, a row per seed.

    The columns are `<model>_validation_<number>` and `<model>_weights`.
    """
    if not count:
        return pd.DataFrame()
    with quiet_native_logs():
        from mnist_pipeline.training.devices import choose_device
        from mnist_pipeline.training.trainer import train
    device, data = choose_device(params.device, params.precision), TrainingData.load(project)
    rows: dict[int, dict[str, float]] = {}
    for seed in ((params.seed + 1 + index) % 2**32 for index in range(count)):
        row = rows[seed] = {}
        for side, model in models.items():
            result = train(model, data, seed=seed, device=device)
            row[f"{side}_validation_{goal.number}"] = goal.measure(result.best)
            row[f"{side}_weights"] = result.model.count_params()
        say(f"seed {seed}: {_both(row, goal)}")
    found = pd.DataFrame.from_dict(rows, orient="index").rename_axis("seed")
    say(f"mean of {count}: {_both(found.mean(), goal)} (validation {goal.number})")
    return found


def _both(row: Any, goal: Goal) -> str:
    return "; ".join(f"{side} {goal.text(_values(row, goal, side))}" for side in ("current", "new"))


def _values(row: Any, goal: Goal, side: str) -> list[float]:
    return [row[f"{side}_validation_{goal.number}"], row[f"{side}_weights"]]


def _is_better(means: "pd.Series[float]", goal: Goal, max_weights: int | Literal["none"]) -> bool:
    """Decide whether the new parameters replace the current ones: they are better in one of the values that count."""
    current, new = _values(means, goal, "current"), _values(means, goal, "new")
    if max_weights != "none" and current[1] > max_weights:
        say(f"The current parameters have {current[1]:,.0f} weights, more than {max_weights:,}: they cannot stay.")
        return True
    return any(after > before for after, before in zip(goal.rank(new), goal.rank(current), strict=True))


def write(project: Project, name: str, changes: Values) -> str:
    """Replace values of a model in `params.yaml`, if `rewritten` allows it; return the change as a diff."""
    before, after = project.params.read_text(encoding="utf-8"), rewritten(project.params, name, changes)
    with atomic_path(project.params) as temporary:
        temporary.write_text(after, encoding="utf-8")
    return "\n".join(difflib.unified_diff(before.splitlines(), after.splitlines(), "before", "after", lineterm="", n=0))


def rewritten(file: Path, name: str, changes: Values) -> str:
    """Return the text of a `params.yaml` with other values at some paths of a model.

    It is written as DVC writes it for `dvc exp run -S`: comments stay, and so does each line without a new value if it
    was in that style, as the file that ships is.

    Raises:
        UserError: the model refuses the values, or the file is written such that this would change more than them.
    """
    params, content, text = load_params(file), YAML().load(file), StringIO()
    for path, value in changes.items():
        place, key = place_of(content["models"][name], path)
        _replace(place, key, value)
    YAML().dump(content, text)
    wanted = params.model_copy(update={"models": {**params.models, name: apply(params.model(name), changes)}})
    is_as_wanted = False
    with suppress(YAMLError, UserError):
        is_as_wanted = check_params(file.name, YAML(typ="safe").load(text.getvalue()), Params) == wanted
    if not is_as_wanted:
        raise UserError(
            f"{file.name} cannot be rewritten: write models.{name} without & and *, which other entries share, and its "
            "lists in brackets, on one line."
        )
    return text.getvalue()


def _replace(place: Any, key: Any, value: Any) -> None:
    """Put a value in place of another: a list in the style of the one before, a whole number as whole if that was."""
    before: Any = place[key]
    if isinstance(before, CommentedSeq):
        # What follows a list hangs on its last item: a new list would tear the lines after it apart.
        last = before.ca.items.pop(len(before) - 1, None)
        before.ca.items.clear()
        before.clear()
        before.extend(value)
        if value and last:
            before.ca.items[len(value) - 1] = last
        elif not value and not before.fa.flow_style():
            place.ca.items.pop(key, None)  # its comment, which would stand between the key and the brackets
            before.ca.comment = None
            before.fa.set_flow_style()
    else:
        is_whole = isinstance(before, int) and isinstance(value, float) and value.is_integer()
        place[key] = int(value) if is_whole else value
