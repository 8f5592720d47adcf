"""The outbox: with a server, runs are written to a store on disk first, and delivered to the server from there.

So no training waits for a server, whatever becomes of it, and nothing is lost: MLflow itself writes the runs down, by
its usual means, and a thread beside the training copies to the server what that has not been told yet. A run that has
ended and is delivered as a whole is deleted from the outbox in MLflow's way, which can be undone if the run goes on.
"""

import shutil
import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING
from urllib.parse import urlparse
from urllib.request import url2pathname

from mnist_pipeline.core.console import warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.processes import identity, is_alive
from mnist_pipeline.core.project import Project
from mnist_pipeline.tracking.artifacts import MODEL_DIGEST, MODEL_FILE, log_model
from mnist_pipeline.tracking.contents import NOTE, artifacts_page, link_to_winner
from mnist_pipeline.tracking.store import (
    OUTBOX,
    amid,
    experiment_name,
    is_offline,
    open_outbox,
    open_store,
    outbox_uri,
    reach,
    tracking_uri,
    trouble,
    tuning_experiment_name,
    what_is_wrong,
)

if TYPE_CHECKING:
    from filelock import BaseFileLock
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Run

PARENT = "mlflow.parentRunId"
"""MLflow's tag with the id of the run that a run belongs to."""
STUDY = "study_id"
"""Tag that joins a study's run to the study; names can be used again, these are unique."""
TRIAL = "trial"
"""Tag with the number of a child run's trial."""
TWIN = "delivered_as"
"""Tag of a run in the outbox: id of the server's run that it is delivered to."""
PAUSE = 3.0
"""Seconds between two deliveries."""
SHARE = 0.05
"""Share of the time that goes into deliveries: where they take long, the pauses are longer."""


@contextmanager
def recording(project: Project) -> "Generator[MlflowClient]":
    """Point MLflow at the store that runs are to be written to; a server is told meanwhile, unless it is offline.

    Raises:
        UserError: the server does not answer at the start.
    """
    if not tracking_uri(project).startswith("http"):
        end_abandoned_runs(client := open_store(project), project)
        yield client
        return
    reach(project)
    end_abandoned_runs(client := open_outbox(project), project)
    courier = _Courier(project)
    courier.start()
    try:
        yield client
    finally:
        courier.finish()


def deliver(project: Project, client: "MlflowClient") -> list[str]:
    """Deliver what the outbox still has to a store; return how many runs have arrived as a whole, as a sentence if any.

    Raises:
        UserError: a run could not be delivered.
    """
    if not (project.outbox / OUTBOX).is_file():
        return []
    with _lock(project.outbox):
        end_abandoned_runs(local := _local(project), project)
        arrived = Delivery(local, client).run()
    return [f"{arrived} run{'s' * (arrived > 1)} of when MLflow was out of reach: delivered"] if arrived else []


def process_tags() -> dict[str, str]:
    """Return what identifies this process, so that a later one can tell whether it is still alive."""
    return {"host": socket.gethostname(), "process": identity()}


def end_abandoned_runs(client: "MlflowClient", project: Project) -> None:
    """Mark KILLED what a killed process of this machine left RUNNING: nothing else can say so any more."""
    names = experiment_name(project), tuning_experiment_name(project)
    experiments = [found.experiment_id for name in names if (found := client.get_experiment_by_name(name))]
    running = f"attributes.status = 'RUNNING' and tags.host = '{socket.gethostname()}'"
    for run in client.search_runs(experiments, running):
        if not is_alive(run.data.tags["process"]):
            client.set_terminated(run.info.run_id, "KILLED")


def keeps_delivered(client: "MlflowClient") -> int:
    """Return MLflow's view of the runs that a client knows: in the outbox, also of those that are delivered."""
    from mlflow.entities import ViewType

    return ViewType.ALL if client.tracking_uri.endswith(f"/{OUTBOX}") else ViewType.ACTIVE_ONLY


def reopen(client: "MlflowClient", run: "Run") -> "Run":
    """Let a run that was found by that view go on, in this process; the outbox may have delivered and deleted it."""
    from mlflow.entities import RunTag

    run_id, is_deleted = run.info.run_id, run.info.lifecycle_stage == "deleted"
    # Alone, or it might be deleted once more before it is RUNNING.
    with _lock(Path(client.tracking_uri.removeprefix("sqlite:///")).parent) if is_deleted else nullcontext():
        if is_deleted:
            client.restore_run(run_id)
        client.log_batch(run_id, tags=[RunTag(*tag) for tag in process_tags().items()])
        client.update_run(run_id, "RUNNING")
    return client.get_run(run_id)


@dataclass
class Delivery:
    """Makes the runs of a store what they are in the outbox. Doing it twice, or half and then again, changes nothing.

    MLflow stores a metric with the same value, step and time once, so what a server may or may not have got before it
    was lost can be sent again.
    """

    local: "MlflowClient"
    """The outbox."""
    server: "MlflowClient"
    """The store that is told."""
    _sent: set[object] = field(default_factory=set[object])
    """What has arrived, as far as this process knows: metrics and files."""

    def run(self, *, models: bool = True) -> int:
        """Deliver each run, the oldest first, so that a study is there before its trials; return how many are whole.

        Runs with a model can be left out, because to log one Keras is needed, and standard error put aside.

        Raises:
            UserError: the server refuses a run; the others are delivered all the same.
            Exception: the server is lost.
        """
        every = [experiment.experiment_id for experiment in self.local.search_experiments()]
        arrived, refused = 0, list[str]()
        for run in self.local.search_runs(every, order_by=["attributes.start_time ASC"], max_results=50_000):
            try:
                if models or not (run.outputs and run.outputs.model_outputs):
                    arrived += self._deliver(self.local.get_run(run.info.run_id))
            except Exception as error:
                if what_is_wrong(error, self.server.tracking_uri):
                    raise
                refused.append(f"{run.info.run_name}: {trouble(error, self.server.tracking_uri)}")
        if refused:
            raise UserError("\n".join(refused))
        return arrived

    def _deliver(self, run: "Run") -> bool:
        """Deliver what the server lacks of a run, its end last; return whether it has all of an ended run."""
        from mlflow.entities import Param, RunTag

        is_over = run.info.status != "RUNNING"
        if twin := self._twin(run):
            run_id, known = twin.info.run_id, twin.data
            if not is_over and twin.info.status != "RUNNING":
                self.server.update_run(run_id, "RUNNING")
            params = [Param(key, value) for key, value in run.data.params.items() if key not in known.params]
            self.server.log_batch(run_id, params=params)
            if len(run.inputs.dataset_inputs) > len(twin.inputs.dataset_inputs):
                self.server.log_inputs(run_id, run.inputs.dataset_inputs)
            self._send_files(run, run_id)
            self._send_metrics(run, run_id, self._send_model(run, twin))
            tags = self._tags(run)
            if STUDY in tags:
                tags |= {NOTE: tags.get(NOTE, "").replace(artifacts_page(run), artifacts_page(twin))}
            else:  # the server's description of a training has links to runs on the server
                tags.pop(NOTE, None)
            new = [RunTag(key, value) for key, value in tags.items() if known.tags.get(key, "") != value]
            self.server.log_batch(run_id, tags=new)
            if is_over:
                self.server.set_terminated(run_id, run.info.status, run.info.end_time)
        if is_over:
            self._forget(run)
        return is_over

    def _twin(self, run: "Run") -> "Run | None":
        """Return the server's run, a new one if need be; None if there is nothing to deliver.

        That is where somebody has deleted it, and where another machine has told how a trial of a shared study ended.
        """
        from mlflow.entities import ViewType

        experiment, tags = self._experiment(run), self._tags(run)
        if TRIAL in tags:
            query = f"tags.`{PARENT}` = '{tags[PARENT]}' and tags.{TRIAL} = '{tags[TRIAL]}'"
        elif STUDY in tags:
            query = f"tags.{STUDY} = '{tags[STUDY]}'"
        else:
            query = f"start_time = {run.info.start_time} and tags.model = '{tags['model']}'"
        # It is there also where the answer to its creation was lost.
        if found := self.server.search_runs([experiment], query, ViewType.ALL, max_results=1):
            twin = found[0]
        else:
            first = {key: value for key, value in tags.items() if key != MODEL_DIGEST}
            twin = self.server.create_run(experiment, run.info.start_time, first, run.info.run_name)
        if run.data.tags.get(TWIN) != twin.info.run_id:
            if not {TRIAL, STUDY} & {*tags}:
                link_to_winner(self.server, twin.info.run_id)
            self.local.set_tag(run.info.run_id, TWIN, twin.info.run_id)
        is_told = TRIAL in tags and twin.info.status == run.info.status != "RUNNING"
        return None if is_told or twin.info.lifecycle_stage == "deleted" else self.server.get_run(twin.info.run_id)

    def _experiment(self, run: "Run") -> str:
        """Return the id of the experiment on the server that has the name of the run's own."""
        name = self.local.get_experiment(run.info.experiment_id).name
        found = self.server.get_experiment_by_name(name)
        return found.experiment_id if found else self.server.create_experiment(name)

    def _tags(self, run: "Run") -> dict[str, str]:
        """Return the tags of the server's run."""
        tags = {key: value for key, value in run.data.tags.items() if key != TWIN}
        if parent := tags.get(PARENT):
            tags[PARENT] = self.local.get_run(parent).data.tags[TWIN]
        return tags

    def _send_files(self, run: "Run", run_id: str) -> None:
        """Send the artifacts that have changed; one that is being written right now changes once more."""
        folder = _path(run.info.artifact_uri)
        for file in sorted(path for path in folder.rglob("*") if path.is_file()):
            status = file.stat()
            if (version := (file, status.st_mtime_ns, status.st_size)) not in self._sent:
                place = file.parent.relative_to(folder).as_posix()
                self.server.log_artifact(run_id, str(file), None if place == "." else place)
                self._sent.add(version)

    def _send_model(self, run: "Run", twin: "Run") -> "list[Metric]":
        """Send the logged model, if there is one; return its metrics."""
        from mlflow.entities import Metric

        metrics: list[Metric] = []
        for output in run.outputs.model_outputs if run.outputs else ():
            model = self.local.get_logged_model(output.model_id)
            there = twin.outputs.model_outputs if twin.outputs else []
            file, run_id = _path(model.artifact_location) / MODEL_FILE, twin.info.run_id
            model_id = there[0].model_id if there else log_model(self.server, run_id, model.name, file, output.step)
            metrics += [
                Metric(each.key, each.value, each.timestamp, each.step, model_id) for each in model.metrics or ()
            ]
        return metrics

    def _send_metrics(self, run: "Run", run_id: str, of_model: "list[Metric]") -> None:
        """Send the metrics that have not arrived, in the order of their time; those of the model go to both."""
        found = [*of_model]
        for key in run.data.metrics:
            found += self.local.get_metric_history(run.info.run_id, key)
        new = {(run_id, each.key, each.timestamp, each.step, each.value, each.model_id): each for each in found}
        for arrived in new.keys() & self._sent:
            del new[arrived]
        self.server.log_batch(run_id, metrics=sorted(new.values(), key=lambda each: each.timestamp))
        self._sent |= new.keys()

    def _forget(self, run: "Run") -> None:
        """Delete a run from the outbox such that it can be restored, but for its files."""
        self.local.delete_run(run.info.run_id)
        shutil.rmtree(_path(run.info.artifact_uri).parent, ignore_errors=True)
        for output in run.outputs.model_outputs if run.outputs else ():
            model = self.local.get_logged_model(output.model_id)
            shutil.rmtree(_path(model.artifact_location).parent, ignore_errors=True)


class _Courier(Thread):
    """Delivers once in a while beside a training or a study, which never waits for it."""

    def __init__(self, project: Project) -> None:
        from mlflow import MlflowClient

        super().__init__(daemon=True, name="courier")
        self._project, self._end = project, Event()
        self._trouble = "offline" if is_offline(project) else ""
        self._delivery = Delivery(_local(project), MlflowClient(tracking_uri(project)))

    def run(self) -> None:
        """Deliver until `finish` is called."""
        pause = PAUSE
        while not is_offline(self._project) and not self._end.wait(pause):
            begin = time.monotonic()
            self._attempt(last=False)
            pause = PAUSE if self._trouble else max(PAUSE, (time.monotonic() - begin) / SHARE)

    def finish(self) -> None:
        """Deliver what is left, and say so if that cannot be."""
        self._end.set()
        self.join()
        if not is_offline(self._project):
            self._attempt(last=True)
        if self._trouble:
            kept = f"What MLflow was not told of this is kept in {self._project.outbox}."
            warn(f"{kept} `mnist sync` delivers it when the server is there.")

    def _attempt(self, *, last: bool) -> None:
        """Deliver, unless another process does; say so when the server is lost, and when it is back."""
        lost, self._trouble = self._trouble, ""
        try:
            with _lock(self._project.outbox, 30 if last else 0):
                self._delivery.run(models=last)
        except TimeoutError:
            self._trouble = lost or ("another process delivers" if last else "")
        except Exception as error:  # whatever it is, the training does not depend on it
            self._trouble = trouble(error, tracking_uri(self._project))
            if not lost:
                warn(f"Going on without MLflow, which is told later: {amid(self._trouble)}")
        else:
            if lost:
                warn("The MLflow server is back, and is told what it missed.")


def _local(project: Project) -> "MlflowClient":
    from mlflow import MlflowClient

    return MlflowClient(outbox_uri(project))


def _lock(folder: Path, seconds: float = -1) -> "BaseFileLock":
    """Return the lock of the only process that delivers; a TimeoutError says that another did for so many seconds."""
    from filelock import FileLock

    return FileLock(folder / ".delivery.lock", timeout=seconds)


def _path(uri: str | None) -> Path:
    return Path(url2pathname(urlparse(uri or "").path))
