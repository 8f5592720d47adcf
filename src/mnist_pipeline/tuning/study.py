"""A study: creating and resuming it, asking it for trials, and telling it how they ended.

One process at a time writes to a study, within its session. The study carries `id` and `definition`; trials carry
`origin` (`current parameters` for the first), `retry_of` (the trial whose parameters it tries again), `attempt` (from
1), `result`, and if they failed `error`, or `mishap` if that was `interrupted`. Without either they were killed; what
was killed or interrupted is tried again. A trial whose network is too large has the constraint `weights` above 0 and is
PRUNED without training.
"""

import json
import uuid
from collections.abc import Container, Mapping, Sequence
from contextlib import suppress
from typing import Any, Literal

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tuning.params import Choice, FloatRange, IntRange, parameters_of
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.storage import OneWriter, Studies

ATTEMPTS = 3
"""How often the same parameters are tried when the process is killed under them."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count as a trial asked for."""
CURRENT = "current parameters"
"""Origin of the trial that a study starts from."""
LATEST = 1_000
"""The sampler goes by so many trials, because what it takes grows with them."""


def load_study(studies: Studies, name: str) -> optuna.Study:
    """Open an existing study; a UserError says if there is none, or it cannot be read."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = studies.names()
    if name in known:
        # Without a study (KeyError) or without its definition, whoever wanted to create it was killed at once.
        with suppress(KeyError):
            study = optuna.load_study(study_name=name, storage=studies.open(name))
            if "definition" in study.user_attrs:
                return study
    others = ", ".join(other for other in known if other != name) or "none yet"
    raise UserError(f"There is no study {name} in {studies.place}: choose one of those there ({others}).")


def create_or_resume(plan: Plan, storage: BaseStorage) -> optuna.Study:
    """Open the plan's study to write to it, creating it if it is new; `storage` is what its session gives.

    Raises:
        UserError: the study is about something else; the message says what differs.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it remarks on few trials is no news
    definition = plan.definition()
    where: dict[str, Any] = {"study_name": plan.study, "storage": storage}
    # In this order, so that a process killed between two of the steps leaves what the next one can finish.
    with suppress(KeyError):
        if "definition" not in optuna.load_study(**where).user_attrs:
            optuna.delete_study(**where)
    study = optuna.create_study(**where, directions=plan.goal.directions, load_if_exists=True)
    if "definition" not in study.user_attrs:
        study.set_user_attr("id", uuid.uuid4().hex)
        study.set_user_attr("definition", definition)
    before = study.user_attrs["definition"]
    different = [
        f"{key} was {before.get(key, 'not there')}, is {definition.get(key, 'not there')}"
        for key in sorted({*before, *definition})
        if before.get(key) != definition.get(key)
    ]
    if different:
        raise UserError(
            f"The study {plan.study} is about something else: {'; '.join(different)}. Go back to that to resume it, or "
            "start another study with --study NAME."
        )
    return optuna.load_study(
        study_name=plan.study, storage=OneWriter(storage, plan.study, len(plan.space)), pruner=pruner(plan)
    )


def count_done(study: optuna.Study) -> int:
    """Return how many of the trials asked for have ended."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def wants_more(study: optuna.Study, plan: Plan) -> bool:
    """Return whether another trial is to start: some that were asked for have not been started, and there is time."""
    started = study.get_trials(deepcopy=False, states=(*DONE, TrialState.RUNNING))
    return len(started) < plan.trials and not plan.is_time_up


def ask(study: optuna.Study, plan: Plan) -> Trial:
    """Start the next trial, if the study `wants_more`."""
    known = study.get_trials(deepcopy=False)
    _queue_what_comes_first(study, plan, known)
    # All parameters in every trial: conditional ones would be sampled independently of the others.
    space = {path: _distribution(values) for path, values in plan.space.items()}
    study.sampler = sampler(plan, space, known)
    return study.ask(space)


def _queue_what_comes_first(study: optuna.Study, plan: Plan, known: Sequence[FrozenTrial]) -> None:
    """Queue the current parameters if they were never asked for, or else what met with a mishap and may be tried again.

    An interruption by the user is not held against the parameters.
    """
    if not known:
        values = parameters_of(plan.model)
        first = {path: encode(values[path]) for path in plan.space}
        study.enqueue_trial(first, user_attrs={"origin": CURRENT, "attempt": 1})
    retried = {trial.user_attrs.get("retry_of") for trial in known}
    for trial in study.get_trials(deepcopy=False, states=(TrialState.FAIL,)):
        mishap, attributes = mishap_of(trial), trial.user_attrs
        attempt = attributes.get("attempt", 1) + (mishap == "killed")
        if mishap and trial.number not in retried and attempt <= ATTEMPTS:
            origin = {"origin": CURRENT} if "origin" in attributes else {}
            study.enqueue_trial(trial.params, user_attrs={**origin, "retry_of": trial.number, "attempt": attempt})
            return


def recover(study: optuna.Study, interrupted: Mapping[int, Trial] | None = None) -> None:
    """End what is RUNNING though nobody runs it any more: it was interrupted if it is among these, or else killed."""
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if interrupted and trial.number in interrupted:
            interrupted[trial.number].set_user_attr("mishap", "interrupted")
        study.tell(trial.number, state=TrialState.FAIL)


def mishap_of(trial: FrozenTrial) -> Literal["killed", "interrupted"] | None:
    """Return why a trial did not end by itself; None if it did."""
    if trial.state is not TrialState.FAIL or "error" in trial.user_attrs:
        return None
    return trial.user_attrs.get("mishap", "killed")


class BoundedSampler(optuna.samplers.TPESampler):
    """TPE in a space that all trials share, by the latest of them: Optuna's own goes through all of them each time."""

    def __init__(self, space: Mapping[str, BaseDistribution], seed: int, *, jointly: bool) -> None:
        """Sample from a space, all parameters jointly or each by itself."""
        super().__init__(seed=seed, multivariate=jointly)
        self._joint = {path: values for path, values in sorted(space.items()) if jointly and not values.single()}

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """Return what is sampled jointly."""
        return self._joint

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Sample jointly."""
        return super().sample_relative(Latest.of(study), trial, search_space)

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """Sample a parameter by itself."""
        return super().sample_independent(Latest.of(study), trial, param_name, param_distribution)


class Latest(InMemoryStorage):
    """The latest trials of a study, as a study of their own that nobody writes to."""

    trials: Sequence[FrozenTrial] = ()

    @classmethod
    def of(cls, study: optuna.Study) -> optuna.Study:
        """Show so many trials of a study."""
        storage = cls()
        storage.trials = study.get_trials(deepcopy=False)[-LATEST:]
        storage.create_new_study(study.directions, study.study_name)
        return optuna.load_study(study_name=None, storage=storage)

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        """Return them, whatever the study."""
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Ignore what TPE would tell other processes."""


def sampler(
    plan: Plan, space: Mapping[str, BaseDistribution], known: Sequence[FrozenTrial]
) -> optuna.samplers.BaseSampler:
    """Return TPE with a seed of its own for each trial.

    Retries do not count, so that a study that was killed and resumed asks the questions it would have asked.
    """
    questions = sum("retry_of" not in trial.user_attrs for trial in known)
    seed = int(np.random.SeedSequence([plan.params.seed, questions]).generate_state(1)[0])
    # For two objectives not NSGA-II, whose first generation of 50 random trials is longer than most of our studies, and
    # each parameter by itself: Optuna reports a gain of sampling them jointly for one objective only. On a synthetic
    # trade-off of accuracy and weights, joint sampling often stayed with one choice of layers, and its front was worse.
    return BoundedSampler(space, seed, jointly=not plan.goal.small)


def pruner(plan: Plan) -> optuna.pruners.BasePruner:
    """Return the plan's pruner."""
    epochs = plan.model.training.epochs
    match plan.pruner:
        case "percentile":
            # Averaged weights lag behind at first, most where batches are large: too early to tell who is good.
            return optuna.pruners.PercentilePruner(50, n_startup_trials=5, n_warmup_steps=epochs // 5)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
        case "none":
            return optuna.pruners.NopPruner()


def encode(value: Any) -> Any:
    """Return a value as Optuna keeps it: it takes no lists, so they become JSON text."""
    return json.dumps(value) if isinstance(value, list | dict) else value


def values_of(trial: Trial | FrozenTrial) -> dict[str, Any]:
    """Return the values to train with, by path: what `encode` was given, real numbers to six significant digits.

    Those can be read and copied; more of them change nothing but would clutter `params.yaml`.
    """
    values, distributions = dict[str, Any](), trial.distributions
    for path, value in trial.params.items():
        if isinstance(distributions[path], FloatDistribution):
            values[path] = float(f"{value:.6g}")
        else:
            values[path] = json.loads(value) if str(value).startswith(("[", "{")) else value
    return values


def _distribution(values: FloatRange | IntRange | Choice) -> BaseDistribution:
    match values:
        case FloatRange():
            return FloatDistribution(values.low, values.high, log=values.log, step=values.step)
        case IntRange():
            return IntDistribution(values.low, values.high, log=values.log, step=values.step or 1)
        case Choice():
            return CategoricalDistribution([encode(value) for value in values.values])
