"""A study on disk: creating and resuming it, handing out its trials, and mending what killed processes left.

Optuna's journal is the truth; `mnist_pipeline.tracking.studies` shows it in MLflow. Trials carry user attributes:
`worker` (who runs it), `origin` (`current parameters` for the first), `mishap` (why it did not end by itself),
`retry_of` (the trial whose parameters it tries again), `attempt` (from 1), `error` (why it failed) and `result.*`.
A trial whose network is too large has the constraint `weights` above 0 and is PRUNED without having been trained.
"""

import json
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import BaseJournalFileLock
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import TypeAdapter

from mnist_pipeline.errors import UserError
from mnist_pipeline.params import Choice, FloatRange, IntRange, SearchSpace
from mnist_pipeline.tuning.goal import find_goal
from mnist_pipeline.tuning.plan import SPACE, Plan
from mnist_pipeline.tuning.space import Space, Values

ATTEMPTS = 3
"""How often the same parameters are tried when the process is killed under them."""
Mishap = Literal["killed", "interrupted"]
"""Why a trial did not end by itself."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count as a trial asked for."""
CURRENT = "current parameters"
"""Origin of the trial that a study starts from."""
DIGITS = 6
"""Significant digits of a real number that is tried."""
POLL_SECONDS = 0.5
"""Between two looks at whether the last running trials have left a slot."""


class _Lock(BaseJournalFileLock):
    """A lock that the operating system releases when its holder is killed; Optuna's own stays for 30 seconds."""

    def __init__(self, lock: FileLock) -> None:
        self._lock = lock

    def acquire(self) -> bool:
        self._lock.acquire()
        return True

    def release(self) -> None:
        self._lock.release()


def journal_lock(file: Path) -> FileLock:
    """Return the lock of a journal. It is one object per process and file, and may be taken again while it is held."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.parent / f".{file.stem}.lock", is_singleton=True)


def session_lock(file: Path) -> FileLock:
    """Return the lock that whoever runs a study holds from start to end."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.parent / f".{file.stem}.session")


def load_study(file: Path) -> optuna.Study:
    """Open an existing study.

    Raises:
        UserError: there is none.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if file.exists():
            study = optuna.load_study(study_name=file.stem, storage=_storage(file))
            if "definition" in study.user_attrs:
                return study
    except KeyError:
        pass
    # Without a study or without its definition, whoever wanted to create it was killed at once.
    known = ", ".join(sorted(other.stem for other in file.parent.glob("*.log"))) or "none yet"
    raise UserError(f"There is no study {file.stem} in {file.parent}: choose one of those there ({known}).")


def create_or_resume(file: Path, definition: Mapping[str, Any], first: Values) -> optuna.Study:
    """Open the study in `file`, creating it if it is new; call it with the session lock held.

    Args:
        file: the journal; its name is the study's.
        definition: what the study is about, as flat JSON: space, fixed parameters, data, objective.
        first: the values of the first trial.

    Raises:
        UserError: the file holds a study about something else; the message says what differs.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with journal_lock(file):
        cut_torn_tail(file)
        study = _create_or_load(file, find_goal(definition["objective"]).directions)
        # In this order, so that a process killed between two of the steps leaves what the next one can finish.
        if "definition" not in study.user_attrs:
            study.set_user_attr("id", uuid.uuid4().hex)
            study.set_user_attr("definition", dict(definition))
        _refuse_another(file.stem, study.user_attrs["definition"], definition)
        if not study.get_trials(deepcopy=False):
            study.enqueue_trial(encode(first), user_attrs={"origin": CURRENT, "attempt": 1})
    return study


def _create_or_load(file: Path, directions: Sequence[Literal["maximize", "minimize"]]) -> optuna.Study:
    """Return the study of a journal, with these directions unless it has been defined with others."""
    storage = _storage(file)
    study = optuna.create_study(study_name=file.stem, storage=storage, directions=directions, load_if_exists=True)
    if "definition" in study.user_attrs or [way.name.lower() for way in study.directions] == list(directions):
        return study
    # Killed before it had a definition, and now started with another objective.
    optuna.delete_study(study_name=file.stem, storage=storage)
    return optuna.create_study(study_name=file.stem, storage=storage, directions=directions)


def space_of_study(study: optuna.Study) -> Space:
    """Return the space that a study searches, whatever `params.yaml` says by now."""
    ranges = {
        key.removeprefix(SPACE): json.loads(text)
        for key, text in study.user_attrs["definition"].items()
        if key.startswith(SPACE)
    }
    return TypeAdapter(SearchSpace).validate_python(ranges)


def cut_torn_tail(file: Path) -> None:
    """Cut what a killed writer or a power loss left of a last line; a journal with it can neither be read nor go on.

    Call it with the journal's lock held.
    """
    if not file.exists():
        return
    content = file.read_bytes()
    end = len(content)
    while end and not _is_record(content[content.rfind(b"\n", 0, end - 1) + 1 : end]):
        end = content.rfind(b"\n", 0, end - 1) + 1
    if end < len(content):
        with file.open("r+b") as journal:
            journal.truncate(end)


def claim(study: optuna.Study, plan: Plan, worker: int) -> Trial | None:
    """Start the next trial, or return None when the study has all that were asked for or the time is up.

    While the last ones run in other workers it waits: if one of them fails, its slot is free again.

    Args:
        study: of the plan, opened in this process.
        plan: how many trials, of what, until when.
        worker: who asks, from 0.
    """
    while not plan.is_time_up:
        with journal_lock(plan.file):
            known = study.get_trials(deepcopy=False)
            states = Counter(trial.state for trial in known)
            done = sum(states[state] for state in DONE)
            if done >= plan.trials:
                return None
            if done + states[TrialState.RUNNING] < plan.trials:
                study.sampler = _sampler(known, plan.params.seed, worker)
                # All parameters in every trial: conditional ones would be sampled independently of the others.
                trial = study.ask({path: _distribution(values) for path, values in plan.space.items()})
                trial.set_user_attr("worker", worker)
                return trial
        time.sleep(POLL_SECONDS)
    return None


def mend(study: optuna.Study, file: Path, worker: int | None = None, *, mishap: Mishap = "killed") -> None:
    """Mark failed what is RUNNING though nobody works on it any more, and have its parameters tried again.

    Args:
        study: opened in this process.
        file: its journal.
        worker: the one that stopped; None if no worker is alive.
        mishap: what stopped it. An interruption by the user is not held against the parameters.
    """
    with journal_lock(file):
        cut_torn_tail(file)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A claim writes the worker before it lets go of the lock: one without was killed in the middle of it.
            if worker is None or trial.user_attrs.get("worker", worker) == worker:
                # The reason first: a trial that has ended takes no more attributes.
                study._storage.set_trial_user_attr(trial._trial_id, "mishap", mishap)
                study.tell(trial.number, state=TrialState.FAIL)
        _try_again(study)


def _try_again(study: optuna.Study) -> None:
    """Enqueue the parameters of trials that met with a mishap, unless they are in the queue or were tried too often."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        mishap = trial.user_attrs.get("mishap")
        if mishap is None or trial.number in retried:
            continue
        attempt = trial.user_attrs.get("attempt", 1) + (mishap == "killed")
        values = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        # Killed before it had any parameters, it never really began.
        if attempt <= ATTEMPTS and values:
            origin = {key: value for key, value in trial.user_attrs.items() if key == "origin"}
            study.enqueue_trial(values, user_attrs={**origin, "retry_of": trial.number, "attempt": attempt})


def pruner(name: Literal["percentile", "hyperband", "none"], epochs: int) -> optuna.pruners.BasePruner:
    """Return the pruner of that name for trainings of at most `epochs` epochs."""
    match name:
        case "percentile":
            # Averaged weights lag behind at first, most where batches are large: too early to tell who is good.
            return optuna.pruners.PercentilePruner(50, n_startup_trials=5, n_warmup_steps=epochs // 5)
        case "hyperband":
            return optuna.pruners.HyperbandPruner(min_resource=1, max_resource=epochs)
        case "none":
            return optuna.pruners.NopPruner()


def encode(values: Values) -> dict[str, Any]:
    """Return the values as Optuna keeps them: it takes no lists, so they become JSON text."""
    return {path: _encode(value) for path, value in values.items()}


def decode(space: Space, values: Values) -> dict[str, Any]:
    """Return the values to train with: what `encode` was given, real numbers to six significant digits.

    Those can be read and copied; more of them change nothing but would clutter `params.yaml`.
    """
    return {path: _decode(space[path], value) for path, value in values.items()}


def _encode(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _decode(values: FloatRange | IntRange | Choice, value: Any) -> Any:
    if isinstance(values, Choice):
        return next(choice for choice in values.values if _encode(choice) == value)
    return float(f"{value:.{DIGITS}g}") if isinstance(values, FloatRange) else value


def _distribution(values: FloatRange | IntRange | Choice) -> BaseDistribution:
    match values:
        case FloatRange():
            return FloatDistribution(values.low, values.high, log=values.log, step=values.step)
        case IntRange():
            return IntDistribution(values.low, values.high, log=values.log, step=values.step or 1)
        case Choice():
            return CategoricalDistribution([_encode(value) for value in values.values])


def _sampler(trials: list[FrozenTrial], seed: int, worker: int) -> optuna.samplers.BaseSampler:
    """Return Optuna's default sampler with a seed of its own for each worker and trial.

    Retries do not count, so that a study that was killed and resumed asks the questions it would have asked.
    """
    asked = sum("retry_of" not in trial.user_attrs for trial in trials)
    return optuna.samplers.TPESampler(seed=int(np.random.SeedSequence([seed, worker, asked]).generate_state(1)[0]))


def _storage(file: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(file), lock_obj=_Lock(journal_lock(file))))


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and isinstance(json.loads(line), dict)
    except ValueError:
        return False


def _refuse_another(name: str, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    different = [
        f"{key} was {before.get(key, 'not there')}, is {now.get(key, 'not there')}"
        for key in sorted({*before, *now})
        if before.get(key) != now.get(key)
    ]
    if different:
        raise UserError(
            f"The study {name} is about something else: {'; '.join(different)}. Go back to that to resume it, or start "
            "another study with --study NAME."
        )
