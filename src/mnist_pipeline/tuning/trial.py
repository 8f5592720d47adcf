"""Running the trials of a study, in any process that reaches its journal and its MLflow store."""

import math
import sys
import time
from dataclasses import dataclass
from datetime import timedelta

import optuna
from optuna.trial import Trial, TrialState

from mnist_pipeline.core.console import say
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.dataset import load_train, load_validation
from mnist_pipeline.data.normalize import load_statistics
from mnist_pipeline.models.model import build_model
from mnist_pipeline.tracking.store import open_store
from mnist_pipeline.tracking.studies import StudyRun
from mnist_pipeline.training.devices import Device, choose_device
from mnist_pipeline.training.history import Epoch
from mnist_pipeline.training.params import ModelParams
from mnist_pipeline.training.trainer import TrainingData, train
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import RESULT, best_of, count_others, front_of, outcome_of, trial_end
from mnist_pipeline.tuning.space import apply
from mnist_pipeline.tuning.study import claim, count_done, load_study, pruner, values_of

FAILURES = 3
"""So many trials that fail one after the other are no accident: the study stops with the last one's error."""


def load_data(project: Project) -> TrainingData:
    """Load what every trial learns from and is judged on, never the test split."""
    statistics = load_statistics(project.normalization)
    return TrainingData(load_train(project.split), load_validation(project.split), statistics)


def run_trials(plan: Plan, worker: int, run_id: str, *, limit: int = sys.maxsize) -> None:
    """Run `limit` trials, or until the study, whose run in MLflow is `run_id`, has all of them or the time is up.

    No two workers that live at once may share a number, from 0.

    Raises:
        Exception: of the last of three trials that failed one after the other.
    """
    device = choose_device(plan.params.device)
    study = load_study(plan.file)
    study.pruner = pruner(plan)
    runner = _Runner(plan, study, StudyRun(open_store(plan.project), run_id), load_data(plan.project), device)
    since, before, failures = time.time(), count_done(study), 0
    for _ in range(limit):
        if (trial := claim(study, plan, worker)) is None:
            return
        error = runner.run(trial)
        say(_line(study, plan, trial.number, since, before))
        failures = failures + 1 if error else 0
        if error and failures == FAILURES:
            raise error


@dataclass(frozen=True)
class _Runner:
    """What all trials of one process share."""

    plan: Plan
    study: optuna.Study
    record: StudyRun
    data: TrainingData
    device: Device

    def run(self, trial: Trial) -> Exception | None:
        """Try the trial's parameters and write down how it ended: in the journal first, which decides."""
        values = values_of(trial)
        run_id = self.record.start_trial(trial.number, values, self.device.tags())
        failure = None
        try:
            model = apply(self.plan.model, values)
            if self._is_too_large(trial, model):
                self.study.tell(trial, state=TrialState.PRUNED)
            else:
                self._train(trial, model, run_id)
        except Exception as error:  # whatever it is, it is this trial that failed; three in a row are raised
            trial.set_user_attr("error", f"{type(error).__name__}: {error}")
            self.study.tell(trial, state=TrialState.FAIL)
            failure = error
        self.record.end_trial(run_id, trial_end(self.study, self.study.get_trials(deepcopy=False)[trial.number]))
        return failure

    def _train(self, trial: Trial, model: ModelParams, run_id: str) -> None:
        """Train until the end or until the pruner stops it, logging each epoch."""
        goal, pruned = self.plan.goal, False

        def on_epoch(epoch: Epoch) -> bool:
            nonlocal pruned
            self.record.log_epoch(run_id, epoch)
            if not goal.small:  # Optuna prunes by one value only
                trial.report(goal.measure(epoch), epoch.epoch)
                # In the last epoch there is nothing left to save.
                pruned = epoch.epoch < model.training.epochs and trial.should_prune()
            return pruned

        result = train(model, self.data, seed=self.plan.params.seed, device=self.device, on_epoch=on_epoch)
        best, weights = result.best, result.model.count_params()
        for key, value in {
            "best_epoch": best.epoch,
            "best_validation_accuracy": best.validation_accuracy,
            "best_validation_loss": best.validation_loss,
            "epochs": len(result.history),
            "parameters": weights,
            "training_seconds": round(result.seconds, 1),
        }.items():
            trial.set_user_attr(f"{RESULT}{key}", value)
        if pruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        else:
            self.study.tell(trial, [goal.measure(best), *([float(weights)] if goal.small else [])])

    def _is_too_large(self, trial: Trial, model: ModelParams) -> bool:
        """Say whether the network has more weights than allowed, and tell the sampler by how many."""
        if self.plan.max_parameters is None:
            return False
        weights = build_model(model.architecture, model.normalization, self.data.statistics).count_params()
        trial.set_user_attr(f"{RESULT}parameters", weights)
        trial.set_constraint("weights", weights - self.plan.max_parameters)
        return weights > self.plan.max_parameters


def _line(study: optuna.Study, plan: Plan, number: int, since: float, before: int) -> str:
    """Return one line on a trial that has ended, for a terminal and a log file alike.

    It says how the trial ended, what is best so far, how many are done and how long the rest will take, as far as one
    can tell from this session: it began at `since`, in seconds since 1970, when `before` trials were done.
    """
    goal, done, best, width = plan.goal, count_done(study), best_of(study), len(str(plan.trials))
    trial = study.get_trials(deepcopy=False)[number]
    value = goal.text(trial.values) if trial.values else ""  # so far, if it was pruned
    aligned = f"{value:>{len('98.12%, 12,345,678 weights' if goal.small else '100.00%')}}"
    front = f"front of {len(front_of(study))}, " if goal.small else ""
    found = f"{front}best {goal.number_text(best.values[0])} (trial {best.number})" if best else "none is complete yet"
    left = _left(plan, done, (time.time() - since) / (done - before)) if done > before else ""
    error = f"  ({trial.user_attrs['error']})" if "error" in trial.user_attrs else ""
    return (
        f"trial {number:>{width}}  {outcome_of(trial):<9}  {aligned}  {found}  "
        f"{done:>{width}}/{plan.trials} done{count_others(study)}{left}{error}"
    )


def _left(plan: Plan, done: int, pace: float) -> str:
    """Estimate the time left as h:mm:ss, at so many seconds a trial; the timeout may come first."""
    if done >= plan.trials:
        return ""
    seconds, until_timeout = (plan.trials - done) * pace, max((plan.until or math.inf) - time.time(), 0)
    if seconds <= until_timeout:
        return f", {timedelta(seconds=round(seconds))} left"
    return f", time is up in {timedelta(seconds=round(until_timeout))}"
