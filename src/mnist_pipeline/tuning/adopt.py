"""Taking a study's winner over into `params.yaml`, once it has proved itself on other seeds.

One lucky score is no improvement: new parameters and current ones are trained again with seeds of their own.
"""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import optuna
import pandas as pd
from optuna.trial import FrozenTrial
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from mnist_pipeline.core.console import quiet_native_logs, say
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.files import atomic_path
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.training.data import TrainingData
from mnist_pipeline.training.params import ModelParams, Params, load_params
from mnist_pipeline.tuning.plan import MONITOR, Goal
from mnist_pipeline.tuning.results import complete_of, front_of, goal_of
from mnist_pipeline.tuning.space import Values, apply, parameters_of
from mnist_pipeline.tuning.storage import find_studies
from mnist_pipeline.tuning.study import load_study, values_of


def adopt(
    project: Project,
    params: Params,
    study_name: str,
    confirm: int,
    number: int | None = None,
    storage: str | None = None,
) -> None:
    """Write the values of a study's trial into `params.yaml`, if they beat the current ones on average on other seeds.

    Where the study counts weights too, it is enough to be more accurate or smaller. Current parameters with more
    weights than the study allows cannot stay, whatever their accuracy.

    Args:
        project: its studies are read, its `params.yaml` is changed.
        params: the content of `params.yaml`.
        study_name: of the study.
        confirm: with how many seeds both are trained again, none of which the study has used; 0 trusts the study.
        number: of the trial; the best one if None, which a study with a Pareto front does not have.
        storage: address of the database that keeps the study; None is the project's own journals.

    Raises:
        UserError: there is no such study, model or complete trial, or `params.yaml` cannot be changed.
    """
    study = load_study(find_studies(project, storage), study_name)
    definition, goal = study.user_attrs["definition"], goal_of(study)
    trial, name = _chosen(study, goal, number), definition["model"]
    current = params.model(name)
    known, wanted = parameters_of(current), {MONITOR: goal.number, **values_of(trial)}
    if gone := sorted(wanted.keys() - known.keys()):
        raise UserError(f"models.{name} in params.yaml has no {gone[0]} any more, which {study_name} is about.")
    changes = {path: value for path, value in wanted.items() if value != known[path]}
    if not changes:
        say(f"params.yaml has the parameters of trial {trial.number} of {study_name} already.")
        return
    say(f"Trial {trial.number} of {study_name}: {goal.text(trial.values)}.")
    model = apply(current, changes)
    seeds = [(params.seed + 1 + index) % 2**32 for index in range(confirm)]
    found = _train_again(project, params, {"current": current, "new": model}, goal, seeds) if seeds else pd.DataFrame()
    adopted = found.empty or _is_better(found.mean(), goal, definition["max_parameters"])
    if adopted:
        say(write(project, name, changes))
        missing = "" if name in params.train else f", once it is named under `train` in {project.params.name}"
        say(f"`dvc repro` now trains and evaluates {name} with them{missing}.")
    else:
        say("The new parameters are not better on average: params.yaml stays as it is.")
    if record := StudyRun.find(open_store(project), study.user_attrs["id"]):
        metrics = {f"confirm_{column}": float(mean) for column, mean in found.mean().items()}
        record.log_adoption(trial.number, metrics, found.to_csv(), model if adopted else None)


def _chosen(study: optuna.Study, goal: Goal, number: int | None) -> FrozenTrial:
    """Return the trial to adopt.

    Raises:
        UserError: it is not complete, or has to be chosen from a Pareto front.
    """
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
    project: Project, params: Params, models: Mapping[str, ModelParams], goal: Goal, seeds: Sequence[int]
) -> pd.DataFrame:
    """Train both models with each seed; print and return the number that decides and the weights, a row per seed."""
    with quiet_native_logs():
        from mnist_pipeline.training.devices import choose_device
        from mnist_pipeline.training.trainer import train
    device, data = choose_device(params.device), TrainingData.load(project)
    rows: list[dict[str, float]] = []
    for seed in seeds:
        results = {side: train(model, data, seed=seed, device=device) for side, model in models.items()}
        rows.append(
            {f"{side}_validation_{goal.number}": goal.measure(result.best) for side, result in results.items()}
            | {f"{side}_weights": result.model.count_params() for side, result in results.items()}
        )
        told = (f"{side} {goal.number_text(goal.measure(result.best))}" for side, result in results.items())
        say(f"seed {seed}: {'; '.join(told)}")
    found = pd.DataFrame(rows, index=pd.Index(seeds, name="seed"))
    told = (f"{side} {goal.text(_values(found.mean(), goal, side))}" for side in models)
    say(f"mean of {len(seeds)}: {'; '.join(told)} (validation {goal.number})")
    return found


def _values(means: "pd.Series[float]", goal: Goal, side: str) -> list[float]:
    return [means[f"{side}_validation_{goal.number}"], means[f"{side}_weights"]]


def _is_better(means: "pd.Series[float]", goal: Goal, max_weights: int | Literal["none"]) -> bool:
    """Decide whether the new parameters replace the current ones: they are better in one of the values that count."""
    current, new = _values(means, goal, "current"), _values(means, goal, "new")
    if max_weights != "none" and current[1] > max_weights:
        say(f"The current parameters have {current[1]:,.0f} weights, more than {max_weights:,}: they cannot stay.")
        return True
    return any(after > before for after, before in zip(goal.rank(new), goal.rank(current), strict=True))


def write(project: Project, name: str, changes: Values) -> str:
    """Replace values of a model in `params.yaml`, and not one character else; return the change as a diff.

    Raises:
        UserError: the file cannot be changed, or refuses the values; it is as it was then.
    """
    text = project.params.read_text(encoding="utf-8")
    wanted = apply(load_params(project.params).model(name), changes)
    changed = rewrite(text, name, changes)
    with atomic_path(project.params) as temporary:
        temporary.write_text(changed, encoding="utf-8")
        if load_params(temporary).model(name) != wanted:
            raise RuntimeError(f"{project.params} would not have held what was to be written into it.")
    return "\n".join(difflib.unified_diff(text.splitlines(), changed.splitlines(), "before", "after", lineterm="", n=0))


def rewrite(text: str, name: str, changes: Values) -> str:
    """Return the YAML text with other values at some paths of a model.

    The text of each value is replaced where it stands: writing the whole file anew would restyle it.

    Raises:
        UserError: a value is a list or a section in block style, whose text has no clear end.
    """
    root = YAML().compose(text)
    spans: list[tuple[int, int, str]] = []
    for path, value in changes.items():
        node = _find(root, ["models", name, *path.split(".")])
        if not isinstance(node, ScalarNode) and not node.flow_style:
            raise UserError(f"params.yaml: write models.{name}.{path} on one line, in brackets, and try again.")
        spans.append((node.start_mark.index, node.end_mark.index, _text_like(node, value)))
    for start, end, new in sorted(spans, reverse=True):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


def _text_like(node: Node, value: Any) -> str:
    """Return a value as text: a whole number without a decimal point, if there was none before."""
    is_whole = isinstance(value, float) and value.is_integer() and str(node.value).isdigit()
    return json.dumps(int(value) if is_whole else value)


def _find(node: Node, keys: Sequence[str]) -> Any:
    """Follow keys and indices through the nodes of a YAML text."""
    for key in keys:
        if isinstance(node, MappingNode):
            node = next(value for name, value in node.value if name.value == key)
        else:
            node = node.value[int(key)]
    return node
