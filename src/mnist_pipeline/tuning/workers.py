"""Running the trials of a study, in any process that reaches its journal and its MLflow store."""

import itertools
from collections.abc import Callable

import optuna
from optuna.trial import Trial, TrialState

from mnist_pipeline.params import ModelParams
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.training.devices import choose_device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.trainer import Trainer
from mnist_pipeline.tuning.goal import Goal
from mnist_pipeline.tuning.objective import Score, count_weights, load_trainer, score
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.progress import Progress
from mnist_pipeline.tuning.records import RESULT, trial_end, trial_ends
from mnist_pipeline.tuning.space import apply
from mnist_pipeline.tuning.study import claim, decode, load_study, mend, pruner

FAILURES = 3
"""So many trials that fail one after the other are no accident: the study stops with the last one's error."""


def run_worker(plan: Plan, worker: int, run_id: str, *, threads: int | None = None, limit: int | None = None) -> None:
    """Run trials until the study has all that were asked for or the time is up.

    Args:
        plan: of the study, which exists.
        worker: its number, from 0; no two that live at once may share one.
        run_id: of the study in MLflow.
        threads: that one operation of TensorFlow may use; None leaves it to TensorFlow.
        limit: stop after so many trials, and leave the rest to a fresh process; None is no limit.

    Raises:
        Exception: of the last of three trials that failed one after the other.
    """
    if threads:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
    device = choose_device(plan.params.device)
    trainer = load_trainer(plan.project, device)
    study = load_study(plan.file)
    study.pruner = pruner(plan.pruner, plan.model.training.epochs)
    record = StudyRun.open(plan.project, run_id)
    progress = Progress(study, plan)
    failures = 0
    try:
        for _ in itertools.count() if limit is None else range(limit):
            if (trial := claim(study, plan, worker)) is None:
                return
            error = _run_trial(plan, study, trial, record, trainer, device.tags())
            progress.show(trial.number)
            failures = failures + 1 if error else 0
            if error and failures == FAILURES:
                raise error
    except KeyboardInterrupt:
        mend(study, plan.file, worker, mishap="interrupted")
        record.reconcile(trial_ends(study, plan.space))
        raise


def _run_trial(
    plan: Plan, study: optuna.Study, trial: Trial, record: StudyRun, trainer: Trainer, tags: dict[str, str]
) -> Exception | None:
    """Try the trial's parameters and write down how it ended: in the journal first, which decides."""
    values = decode(plan.space, trial.params)
    run_id = record.start_trial(trial.number, values, tags)
    failure = None
    try:
        model = apply(plan.model, values)
        if _is_too_large(plan, trial, model):
            study.tell(trial, state=TrialState.PRUNED)
        else:
            epochs = _Epochs(plan.goal, trial, model.training.epochs, lambda epoch: record.log_epoch(run_id, epoch))
            result = score(model, trainer, epochs, seed=plan.params.seed)
            _keep(trial, result, epochs.count)
            if epochs.pruned:
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, plan.goal.values(result.best, result.parameters))
    except Exception as error:  # whatever it is, it is this trial that failed; three in a row are raised
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
        failure = error
    record.end_trial(run_id, trial_end(study.get_trials(deepcopy=False)[trial.number], plan.space))
    return failure


class _Epochs:
    """Follows a trial's training: logs each epoch, and stops it where the pruner says so."""

    def __init__(self, goal: Goal, trial: Trial, last: int, log: Callable[[Epoch], None]) -> None:
        self.count = 0
        self.pruned = False
        self._goal, self._trial, self._last, self._log = goal, trial, last, log

    def __call__(self, epoch: Epoch) -> bool:
        """Take the next epoch; say whether to stop here."""
        self.count = epoch.epoch
        self._log(epoch)
        if self._goal.small:  # Optuna prunes by one value only
            return False
        self._trial.report(self._goal.measure(epoch), epoch.epoch)
        # In the last epoch there is nothing left to save.
        self.pruned = epoch.epoch < self._last and self._trial.should_prune()
        return self.pruned


def _is_too_large(plan: Plan, trial: Trial, model: ModelParams) -> bool:
    """Say whether the network has more weights than allowed, and tell the sampler by how many."""
    if plan.max_parameters is None:
        return False
    weights = count_weights(model)
    trial.set_user_attr(f"{RESULT}parameters", weights)
    trial.set_constraint("weights", weights - plan.max_parameters)
    return weights > plan.max_parameters


def _keep(trial: Trial, result: Score, epochs: int) -> None:
    """Keep what the value does not say."""
    for key, value in {
        "best_epoch": result.best.epoch,
        "best_validation_accuracy": result.best.validation_accuracy,
        "best_validation_loss": result.best.validation_loss,
        "epochs": epochs,
        "parameters": result.parameters,
        "training_seconds": round(result.seconds, 1),
    }.items():
        trial.set_user_attr(f"{RESULT}{key}", value)
