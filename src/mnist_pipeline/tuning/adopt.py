"""Taking a study's winner over into `params.yaml`, once it has proved itself on other seeds."""

import difflib
import json
from collections.abc import Mapping, Sequence
from statistics import mean
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode

from mnist_pipeline.console import quiet_native_logs, say
from mnist_pipeline.errors import UserError
from mnist_pipeline.files import atomic_path
from mnist_pipeline.params import ModelParams, Params, load_params
from mnist_pipeline.project import Project
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.tuning.progress import best_of
from mnist_pipeline.tuning.space import Values, apply, current_values, parameters_of
from mnist_pipeline.tuning.study import decode, load_study, space_of_study


def adopt(project: Project, params: Params, study_name: str, confirm: int) -> None:
    """Write the best values of a study into `params.yaml`, if they beat the current ones on average over other seeds.

    Args:
        project: whose studies and `params.yaml`.
        params: the content of the latter.
        study_name: of the study.
        confirm: with how many seeds both are trained again, none of which the study has used; 0 takes its word.

    Raises:
        UserError: there is no such study or model, no trial is complete, or `params.yaml` cannot be changed.
    """
    study = load_study(project.studies / f"{study_name}.log")
    name = study.user_attrs["definition"]["model"]
    best = best_of(study.get_trials())
    if best is None:
        raise UserError(f"The study {study_name} has no complete trial yet: go on with `mnist tune {name}`.")
    space = space_of_study(study)
    current = params.model(name)
    if gone := sorted(space.keys() - parameters_of(current).keys()):
        raise UserError(f"models.{name} in params.yaml has no {gone[0]} any more, which {study_name} is about.")
    before, after = current_values(space, current), decode(space, best.params)
    changes = {path: value for path, value in after.items() if value != before[path]}
    if not changes:
        say(f"params.yaml has the best parameters of {study_name} already.")
        return
    means = _train_again(project, params, {"current": current, "new": apply(current, changes)}, confirm)
    adopted = not confirm or means["new"] > means["current"]
    if adopted:
        say(write(project, name, changes))
        say(f"`dvc repro` now trains and evaluates {name} with them.")
    else:
        say("The new parameters are not better on average: params.yaml stays as it is.")
    if record := StudyRun.find(project, study.user_attrs["id"]):
        record.log_adoption(
            {f"confirm_{key}_validation_accuracy": value for key, value in means.items()}, adopted=adopted
        )


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
        spans.append((node.start_mark.index, node.end_mark.index, json.dumps(value)))
    for start, end, new in sorted(spans, reverse=True):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


def _find(node: Node, keys: Sequence[str]) -> Any:
    """Follow keys and indices through the nodes of a YAML text."""
    for key in keys:
        if isinstance(node, MappingNode):
            node = next(value for name, value in node.value if name.value == key)
        else:
            node = node.value[int(key)]
    return node


def _train_again(project: Project, params: Params, models: Mapping[str, ModelParams], seeds: int) -> dict[str, float]:
    """Train each model with seeds that the study has not used; print and return the mean validation accuracies."""
    if not seeds:
        return {}
    with quiet_native_logs():
        from mnist_pipeline.training.devices import choose_device
        from mnist_pipeline.tuning import objective
    device, data = choose_device(params.device), objective.load_data(project)
    accuracies: dict[str, list[float]] = {key: [] for key in models}
    for seed in ((params.seed + 1 + index) % 2**32 for index in range(seeds)):
        for key, model in models.items():
            result = objective.score(model, data, lambda _: False, seed=seed, device=device)
            accuracies[key].append(result.best.validation_accuracy)
        say(f"seed {seed}: {', '.join(f'{key} {values[-1]:.2%}' for key, values in accuracies.items())}")
    means = {key: mean(values) for key, values in accuracies.items()}
    say(f"mean of {seeds}: {', '.join(f'{key} {value:.2%}' for key, value in means.items())} (validation accuracy)")
    return means
