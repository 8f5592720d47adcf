"""Running the trials of a study, in any process that reaches its journal and its MLflow store."""

import itertools

import optuna
from optuna.trial import Trial, TrialState

from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.training.devices import Device, choose_device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.tuning.objective import Score, TuningData, load_data, score
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
    data = load_data(plan.project)
    study = load_study(plan.file)
    study.pruner = pruner(plan.params.tune.pruner, plan.model.training.epochs)
    record = StudyRun.open(plan.project, run_id)
    progress = Progress(study, plan)
    failures = 0
    try:
        for _ in itertools.count() if limit is None else range(limit):
            if plan.is_time_up:
                return
            trial = claim(study, plan.file, plan.space, trials=plan.trials, seed=plan.params.seed, worker=worker)
            if trial is None:
                return
            error = _run_trial(plan, study, trial, record, data, device)
            progress.show(trial.number)
            failures = failures + 1 if error else 0
            if error and failures == FAILURES:
                raise error
    except KeyboardInterrupt:
        mend(study, plan.file, worker, mishap="interrupted")
        record.reconcile(trial_ends(study, plan.space))
        raise


def _run_trial(
    plan: Plan, study: optuna.Study, trial: Trial, record: StudyRun, data: TuningData, device: Device
) -> Exception | None:
    """Train with the trial's parameters and write down how it ended: in the journal first, which decides."""
    values = decode(plan.space, trial.params)
    run_id = record.start_trial(trial.number, values)
    failure = None
    pruned = False

    def report(epoch: Epoch) -> bool:
        nonlocal pruned
        record.log_epoch(run_id, epoch)
        trial.report(epoch.validation_accuracy, epoch.epoch)
        # In the last epoch there is nothing left to save.
        pruned = epoch.epoch < plan.model.training.epochs and trial.should_prune()
        return pruned

    try:
        result = score(apply(plan.model, values), data, report, seed=plan.params.seed, device=device)
        _keep(trial, result)
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
        else:
            study.tell(trial, result.best.validation_accuracy)
    except Exception as error:  # whatever it is, it is this trial that failed; three in a row are raised
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        study.tell(trial, state=TrialState.FAIL)
        failure = error
    record.end_trial(run_id, trial_end(study.get_trials(deepcopy=False)[trial.number], plan.space))
    return failure


def _keep(trial: Trial, result: Score) -> None:
    """Keep what the value does not say."""
    for key, value in {
        "best_epoch": result.best.epoch,
        "best_validation_accuracy": result.best.validation_accuracy,
        "best_validation_loss": result.best.validation_loss,
        "parameters": result.parameters,
        "training_seconds": round(result.seconds, 1),
    }.items():
        trial.set_user_attr(f"{RESULT}{key}", value)
