"""Taking a study's winner over into `params.yaml`, once it has proved itself on other seeds."""

import difflib
import json
from collections.abc import Iterable, Sequence
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from mnist_pipeline.console import say
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path
from mnist_pipeline.params import Params, load_params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.studies import Adoption, StudyRun
from mnist_pipeline.tuning.confirm import train_again
from mnist_pipeline.tuning.goal import Goal
from mnist_pipeline.tuning.outcome import complete, front_of, goal_of
from mnist_pipeline.tuning.plan import MONITOR
from mnist_pipeline.tuning.space import Values, apply, parameters_of
from mnist_pipeline.tuning.study import decode, load_study, space_of_study

LISTED = 10
"""Trials that a refusal names."""


def adopt(project: Project, params: Params, study_name: str, confirm: int, number: int | None = None) -> None:
    """Write the values of a study's trial into `params.yaml`, if they beat the current ones on average on other seeds.

    Where the study counts weights too, it is enough to be more accurate or smaller. Current parameters with more
    weights than the study allows cannot stay, whatever their accuracy.

    Args:
        project: whose studies and `params.yaml`.
        params: the content of the latter.
        study_name: of the study.
        confirm: with how many seeds both are trained again, none of which the study has used; 0 takes its word.
        number: of the trial; the best one if None, which a study with a Pareto front does not have.

    Raises:
        UserError: there is no such study, model or complete trial, or `params.yaml` cannot be changed.
    """
    study = load_study(project.studies / f"{study_name}.log")
    definition, goal = study.user_attrs["definition"], goal_of(study)
    trial, name = _chosen(study, goal, number), definition["model"]
    space, current = space_of_study(study), params.model(name)
    wanted = {MONITOR: goal.number, **decode(space, trial.params)}
    if gone := sorted(wanted.keys() - parameters_of(current).keys()):
        raise UserError(f"models.{name} in params.yaml has no {gone[0]} any more, which {study_name} is about.")
    changes = {path: value for path, value in wanted.items() if value != parameters_of(current)[path]}
    if not changes:
        say(f"params.yaml has the parameters of trial {trial.number} of {study_name} already.")
        return
    say(f"Trial {trial.number} of {study_name}: {goal.text(trial.values)}.")
    model = apply(current, changes)
    confirmation = train_again(project, params, current, model, goal, confirm)
    adopted = confirmation.favours_new(definition["max_parameters"])
    if adopted:
        say(write(project, name, changes))
        missing = "" if name in params.train else f", once it is named under `train` in {project.params.name}"
        say(f"`dvc repro` now trains and evaluates {name} with them{missing}.")
    else:
        say("The new parameters are not better on average: params.yaml stays as it is.")
    if record := StudyRun.find(project, study.user_attrs["id"]):
        record.log_adoption(Adoption(trial.number, model, confirmation.metrics, confirmation.table, adopted=adopted))


def _chosen(study: optuna.Study, goal: Goal, number: int | None) -> FrozenTrial:
    """Return the trial to adopt.

    Raises:
        UserError: it is not complete, or has to be chosen from a Pareto front.
    """
    best_first = complete(study.get_trials(deepcopy=False), goal)
    name = study.study_name
    if not best_first:
        model = study.user_attrs["definition"]["model"]
        raise UserError(f"The study {name} has no complete trial yet: go on with `mnist tune {model}`.")
    if number is None and goal.small:
        raise UserError(
            f"The study {name} has no single best trial: choose one with --trial: {_list(front_of(study, goal), goal)}."
        )
    found = [trial for trial in best_first if number in (None, trial.number)]
    if not found:
        raise UserError(
            f"--trial {number} is no complete trial of the study {name}: choose one, such as "
            f"{_list(best_first[:LISTED], goal)}."
        )
    return found[0]


def _list(trials: Iterable[FrozenTrial], goal: Goal) -> str:
    return "; ".join(f"{trial.number} ({goal.text(trial.values)})" for trial in trials)


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
