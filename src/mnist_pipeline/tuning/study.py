"""A study on disk: creating and resuming it, handing out its trials, and repairing what killed processes left.

Optuna's journal is the truth; `mnist_pipeline.tracking.studies` shows it in MLflow. Trials carry user attributes:
`worker` (who runs it), `origin` (`current parameters` for the first), `retry_of` (the trial whose parameters it tries
again), `attempt` (from 1), `error` (why it failed) and `result.*`. The study carries `id`, `definition` and, for each
trial that did not end by itself, `mishap.<number>`. A trial whose network is too large has the constraint `weights`
above 0 and is PRUNED without having been trained.
"""

import json
import os
import time
import uuid
from collections import Counter
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import optuna
from filelock import FileLock, Timeout
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.tuning.params import Choice, FloatRange, IntRange
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.space import current_values

ATTEMPTS = 3
"""How often the same parameters are tried when the process is killed under them."""
Mishap = Literal["killed", "interrupted"]
"""Why a trial did not end by itself."""
DONE = (TrialState.COMPLETE, TrialState.PRUNED)
"""The states that count as a trial asked for."""
CURRENT = "current parameters"
"""Origin of the trial that a study starts from."""


def journal_lock(file: Path) -> FileLock:
    """Return the lock of a journal. It is one object per process and file, and may be taken again while it is held."""
    file.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(file.parent / f".{file.stem}.lock", is_singleton=True)


@contextmanager
def session(file: Path) -> Generator[None]:
    """Hold a study from the start of a session to its end.

    Raises:
        UserError: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(file.parent / f".{file.stem}.session").acquire(timeout=0)
    except Timeout as error:
        raise UserError(
            f"The study {file.stem} is running in another process: wait for it, or start another with --study NAME."
        ) from error
    with lock:
        yield


def load_study(file: Path) -> optuna.Study:
    """Open an existing study.

    Raises:
        UserError: there is none.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # what it remarks on few trials is no news
    # Without a study (KeyError) or without its definition, whoever wanted to create it was killed at once.
    with suppress(KeyError):
        if file.exists():
            study = optuna.load_study(study_name=file.stem, storage=_storage(file))
            if "definition" in study.user_attrs:
                return study
    known = ", ".join(sorted(other.stem for other in file.parent.glob("*.log"))) or "none yet"
    raise UserError(f"There is no study {file.stem} in {file.parent}: choose one of those there ({known}).")


def create_or_resume(plan: Plan) -> optuna.Study:
    """Open the plan's study, creating it if it is new; call it within its `session`.

    Raises:
        UserError: the journal holds a study about something else; the message says what differs.
    """
    file, definition = plan.file, plan.definition()
    with journal_lock(file):
        cut_torn_tail(file)
        # In this order, so that a process killed between two of the steps leaves what the next one can finish.
        try:
            study = load_study(file)
        except UserError:
            file.unlink(missing_ok=True)
            study = optuna.create_study(study_name=file.stem, storage=_storage(file), directions=plan.goal.directions)
            study.set_user_attr("id", uuid.uuid4().hex)
            study.set_user_attr("definition", definition)
        _refuse_another(file.stem, study.user_attrs["definition"], definition)
        if not study.get_trials(deepcopy=False):
            first = {path: encode(value) for path, value in current_values(plan.space, plan.model).items()}
            study.enqueue_trial(first, user_attrs={"origin": CURRENT, "attempt": 1})
    return study


def cut_torn_tail(file: Path) -> None:
    """Cut what a killed writer or a power loss left of a last line; a journal with it can neither be read nor go on.

    Call it with the journal's lock held.
    """
    content = file.read_bytes() if file.exists() else b""
    lines = content.splitlines(keepends=True)
    while lines and not _is_record(lines[-1]):
        lines.pop()
    whole = sum(map(len, lines))
    if whole < len(content):
        os.truncate(file, whole)


def count_done(study: optuna.Study) -> int:
    """Return how many of the trials asked for have ended."""
    return len(study.get_trials(deepcopy=False, states=DONE))


def claim(study: optuna.Study, plan: Plan, worker: int) -> Trial | None:
    """Start the next trial for a worker, or return None when the study has all that were asked for or the time is up.

    While the last ones run in other workers it waits: if one of them fails, its slot is free again.
    """
    while not plan.is_time_up:
        with journal_lock(plan.file):
            known = study.get_trials(deepcopy=False)
            states = Counter(trial.state for trial in known)
            done = sum(states[state] for state in DONE)
            if done >= plan.trials:
                return None
            if done + states[TrialState.RUNNING] < plan.trials:
                study.sampler = _sampler(plan, known, worker)
                # All parameters in every trial: conditional ones would be sampled independently of the others.
                trial = study.ask({path: _distribution(values) for path, values in plan.space.items()})
                trial.set_user_attr("worker", worker)
                return trial
        time.sleep(0.5)
    return None


def repair(study: optuna.Study, file: Path, worker: int | None = None, *, mishap: Mishap = "killed") -> None:
    """Mark failed what is RUNNING though its worker stopped, any if None, and have its parameters tried again.

    An interruption by the user is not held against the parameters.
    """
    with journal_lock(file):
        cut_torn_tail(file)
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            # A claim writes the worker before it lets go of the lock: one without was killed in the middle of it.
            if worker is None or trial.user_attrs.get("worker", worker) == worker:
                # The reason first: without it, nobody would know that the parameters are to be tried again. On the
                # study, because the trial of another process takes no attributes.
                study.set_user_attr(f"mishap.{trial.number}", mishap)
                study.tell(trial.number, state=TrialState.FAIL)
        _try_again(study)


def mishap_of(study: optuna.Study, trial: FrozenTrial) -> Mishap | None:
    """Return why a trial did not end by itself; None if it did."""
    return study.user_attrs.get(f"mishap.{trial.number}")


def _try_again(study: optuna.Study) -> None:
    """Enqueue the parameters of trials that met with a mishap, unless they are in the queue or were tried too often."""
    trials = study.get_trials(deepcopy=False)
    retried = {trial.user_attrs.get("retry_of") for trial in trials}
    for trial in trials:
        mishap = mishap_of(study, trial)
        if mishap is None or trial.number in retried:
            continue
        attempt = trial.user_attrs.get("attempt", 1) + (mishap == "killed")
        values = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        # Killed before it had any parameters, it never really began.
        if attempt <= ATTEMPTS and values:
            origin = {key: value for key, value in trial.user_attrs.items() if key == "origin"}
            study.enqueue_trial(values, user_attrs={**origin, "retry_of": trial.number, "attempt": attempt})


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
    values: dict[str, Any] = {}
    for path, value in trial.params.items():
        if isinstance(trial.distributions[path], FloatDistribution):
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


def _sampler(plan: Plan, trials: list[FrozenTrial], worker: int) -> optuna.samplers.BaseSampler:
    """Return TPE with a seed of its own for each worker and trial.

    Retries do not count, so that a study that was killed and resumed asks the questions it would have asked.
    """
    asked = sum("retry_of" not in trial.user_attrs for trial in trials)
    seed = int(np.random.SeedSequence([plan.params.seed, worker, asked]).generate_state(1)[0])
    # For two objectives not NSGA-II, whose first generation of 50 random trials is longer than most of our studies, and
    # each parameter by itself: Optuna reports a gain of sampling them jointly for one objective only. On a synthetic
    # trade-off of accuracy and weights, joint sampling often stayed with one choice of layers, and its front was worse.
    return optuna.samplers.TPESampler(seed=seed, multivariate=not plan.goal.small)


def _storage(file: Path) -> JournalStorage:
    # Optuna's own locks stay for 30 seconds when their holder is killed; the operating system releases this one.
    lock: Any = journal_lock(file)
    return JournalStorage(JournalFileBackend(str(file), lock_obj=lock))


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
