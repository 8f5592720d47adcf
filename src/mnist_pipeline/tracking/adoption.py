"""Links between the trial of a study whose parameters were adopted and the trainings with these parameters.

They are found by what the parameters are: no file carries a run's id, so nothing that DVC hashes changes.
"""

import hashlib
from typing import TYPE_CHECKING

from mnist_pipeline.tracking.store import tuning_experiment_name
from mnist_pipeline.training.params import ModelParams

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

ADOPTED = "adopted_md5"
"""Tag of an adopted trial's run: the digest of the model's parameters in `params.yaml` after that."""
TRAINED = "trained_run"
"""Tag of an adopted trial's run: id of the newest training with these parameters."""
TUNED = "tuned_by_run"
"""Tag of a training's run: id of the adopted trial's."""


def link_to_winner(client: "MlflowClient", run_id: str, name: str, model: ModelParams) -> None:
    """Link a training's run and the run of the trial whose adoption gave it its parameters, if there is one."""
    experiment = client.get_experiment_by_name(tuning_experiment_name())
    found = client.search_runs(
        [experiment.experiment_id] if experiment else [],
        f"tags.{ADOPTED} = '{digest(model)}' and tags.model = '{name}'",
        order_by=["attributes.start_time DESC"],
        max_results=1,
    )
    for winner in found:
        training = client.get_run(run_id)
        _link(client, training, TUNED, winner, "Its parameters were found by the trial")
        _link(client, winner, TRAINED, training, "Its parameters were adopted; trained with them:")


def _link(client: "MlflowClient", run: "Run", tag: str, other: "Run", sentence: str) -> None:
    """Tag a run with another's id, and say so in its description, where a link can be clicked."""
    client.set_tag(run.info.run_id, tag, other.info.run_id)
    url = f"#/experiments/{other.info.experiment_id}/runs/{other.info.run_id}"
    description = run.data.tags.get("mlflow.note.content", "").partition(f"\n{sentence}")[0]
    client.set_tag(run.info.run_id, "mlflow.note.content", f"{description}\n{sentence} [{other.info.run_name}]({url}).")


def digest(model: ModelParams) -> str:
    """Return what tells the parameters of a model from any others."""
    return hashlib.md5(model.model_dump_json().encode(), usedforsecurity=False).hexdigest()
