"""The table of the failure matrix: component, fault, and what a user types before the same command again."""

from collections.abc import Mapping
from signal import SIGKILL, SIGSTOP, SIGTERM

from faults import damage, servers
from faults.components import Pipeline, Registration, Splitting, Study, Training
from faults.damage import cut, damaged, first_page, flip, full_disk, page, signalled
from faults.harness import Cell, Component, Fault
from faults.servers import Pull, Push, Tracked, database_sent, harm, server_sent

COMPONENTS: Mapping[str, type[Component]] = {
    kind.name: kind for kind in (Splitting, Training, Registration, Push, Pull, Tracked, Study, Pipeline)
}
KILLS: Mapping[str, Fault] = {
    "SIGKILL in the first third": signalled(SIGKILL, 0.0, 1 / 3),
    "SIGKILL in the second third": signalled(SIGKILL, 1 / 3, 2 / 3),
    "SIGKILL in the last third": signalled(SIGKILL, 2 / 3, 1.0),
    "SIGTERM": signalled(SIGTERM, 0.3, 0.9),
}
HERE: Mapping[str, Fault] = {
    **KILLS,
    "SIGSTOP for 25 s": signalled(SIGSTOP, 0.3, 0.9, pause=25),
    "disk full": full_disk(0.05, 0.95),
    "clock set back": damage.clock_back,
}
S3: Mapping[str, Fault] = {
    **KILLS,
    "S3 server stopped for 15 s": server_sent(SIGSTOP, 15),
    "connections reset for 4 s": harm("reset", 4, early=0.1, late=0.4),
    "every tenth request reset": harm("reset", None, 0.1, early=0.0, late=0.1),
    "every tenth request answered 500": harm("500", None, 0.1, early=0.0, late=0.1),
}
OBJECT = "cache object with a wrong byte"
OBJECTS = ".dvc/cache/files/md5/*/*[0-9a-f]"
PAGE, FIRST_PAGE = "a page of mlflow.db overwritten", "first page of mlflow.db overwritten"
LISTING = "SIGKILL while it lists the files"
MENDED = "the same, then DVC's index removed"
TWICE = "typed twice at once"
FAULTS: Mapping[str, Mapping[str, Fault]] = {
    "split": {**HERE, "train.npz cut off": damaged("data/split/train.npz", cut, "after")},
    "training": {
        **HERE,
        "checkpoint cut off": damaged(".checkpoints/mlp.npz", cut, "killed"),
        "checkpoint with a wrong byte": damaged(".checkpoints/mlp.npz", flip, "epoch 5/"),
        PAGE: damaged("mlflow.db", page, "epoch 3/"),
        FIRST_PAGE: damaged("mlflow.db", first_page),
    },
    "register": {
        **HERE,
        TWICE: damage.twice_at_once,
        FIRST_PAGE: damaged("mlflow.db", first_page),
        "model.keras cut off": damaged("models/mlp/model.keras", cut),
        "registered model with a wrong byte": damaged("mlruns/**/model.keras", flip, "after"),
    },
    "dvc push": {
        **S3,
        "S3 server killed for 5 s, and empty then": server_sent(SIGKILL, 5),
        LISTING: servers.killed_while_listing,
        MENDED: servers.killed_while_listing,
    },
    "dvc pull": {
        **S3,
        "disk full": full_disk(0.05, 0.95),
        "object on the remote with a wrong byte": servers.remote_object_damaged(verify=True),
        "the same without `verify = true`": servers.remote_object_damaged(verify=False),
        OBJECT: damaged(OBJECTS, flip, "after"),
    },
    "MLflow server": {
        "SIGKILL of the training": signalled(SIGKILL, 0.3, 0.9),
        "server killed for 8 s": server_sent(SIGKILL, 8),
        "server stopped for 20 s": server_sent(SIGSTOP, 20),
        "PostgreSQL killed for 8 s": database_sent(SIGKILL, 8),
        "PostgreSQL stopped for 20 s": database_sent(SIGSTOP, 20),
        "connections reset for 8 s": harm("reset", 8),
        "500s for 8 s": harm("500", 8),
        "every third request answered 500": harm("500", None, 0.33, early=0.0, late=0.0),
        "unreachable from the start": harm("reset", None, early=0.0, late=0.0),
        "unreachable from the middle to the end": harm("reset", None, early=0.5, late=0.8),
    },
    "study": {
        **HERE,
        TWICE: damage.twice_at_once,
        "SIGKILL of a worker": signalled(SIGKILL, 0.4, 0.8, damage.one_named("ray::Worker")),
        "SIGKILL of the raylet": signalled(SIGKILL, 0.4, 0.8, damage.one_named("raylet/raylet")),
        "SIGSTOP of a worker for 25 s": signalled(SIGSTOP, 0.4, 0.8, damage.one_named("ray::Worker"), pause=25),
        "line of garbage in the journal": damaged("mlruns/optuna/mlp.log", damage.garbage, "2/6 done"),
        "torn last line of the journal": damaged("mlruns/optuna/mlp.log", damage.torn, "3/6 done"),
        FIRST_PAGE: damaged("mlflow.db", first_page, "4/6 done"),
    },
    "dvc repro": {
        **HERE,
        "SIGKILL of dvc alone": signalled(SIGKILL, 0.3, 0.7, damage.leader),
        OBJECT: damaged(OBJECTS, flip, "after"),
        "dvc.lock cut off": damaged("dvc.lock", cut, "after"),
        "model.keras with a wrong byte": damaged("models/mlp/model.keras", flip, "after"),
        "train.npz cut off": damaged("data/split/train.npz", cut, "after"),
        "list of DVC's locks cut off": damaged(".dvc/tmp/rwlock", cut, "killed"),
        PAGE: damaged("mlflow.db", page, "after"),
    },
}
FIRST: Mapping[tuple[str, str], tuple[str, ...]] = {
    ("training", PAGE): ("rm mlflow.db",),
    ("training", FIRST_PAGE): ("rm mlflow.db",),
    ("register", FIRST_PAGE): ("rm mlflow.db", "mnist sync"),
    ("register", "model.keras cut off"): ("dvc checkout --force models/mlp/model.keras",),
    ("register", "registered model with a wrong byte"): ("mnist sync",),
    ("dvc push", MENDED): ('rm -rf "$DVC_SITE_CACHE_DIR"',),
    ("dvc pull", OBJECT): ("rm -r data",),
    ("study", FIRST_PAGE): ("rm mlflow.db",),
    ("dvc repro", OBJECT): ("rm -r data/split models/mlp",),
    ("dvc repro", "dvc.lock cut off"): ("rm dvc.lock",),
    ("dvc repro", "list of DVC's locks cut off"): ("mnist ready",),
    ("dvc repro", PAGE): ("rm mlflow.db", "mnist sync"),
}
"""What is typed before the command, as its message or the docs say."""
CELLS = [
    Cell(component, name, fault, FIRST.get((component, name), ()))
    for component, faults in FAULTS.items()
    for name, fault in faults.items()
]
