"""What `mnist study list` and `mnist study show` print."""

import optuna
import pytest
from optuna.trial import TrialState
from studies import study_of, told

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params
from mnist_pipeline.tuning.plan import Plan
from mnist_pipeline.tuning.results import show_studies, show_study
from mnist_pipeline.tuning.storage import find_studies

SPACE = ["hidden_units", "dropout", "optimizer.learning_rate"]


def test_one_row_per_study_whatever_its_objective(
    project: Project, params: Params, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match="start one with `mnist tune MODEL`"):
        show_studies(find_studies(project))
    told(Plan(project, params, "tiny", "a", 2), [0.5], [0.75])
    told(Plan(project, params, "tiny", "b", 2, objective="loss"), [0.5], [0.75])
    told(Plan(project, params, "tiny", "c", 2, objective="accuracy,parameters"), [0.5, 10], [0.6, 9e3])
    # A process that was killed as soon as it had created a study.
    optuna.create_study(study_name="d", storage=find_studies(project).open("d"))
    show_studies(find_studies(project))
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert rows[0] == ["study", "model", "objective", "done", "failed", "best", "current"]
    assert rows[1] == ["a", "tiny", "accuracy", "2", "0", "75.00%", "50.00%"]
    assert rows[2] == ["b", "tiny", "loss", "2", "0", "0.5000", "0.5000"]
    assert " ".join(rows[3]) == "c tiny accuracy,parameters 2 0 60.00%, 9,000 weights 50.00%, 10 weights"
    assert len(rows) == 4


@pytest.mark.parametrize(("objective", "order"), [("accuracy", ["1", "2", "0"]), ("loss", ["0", "2", "1"])])
def test_trials_are_listed_best_first(
    project: Project, params: Params, capsys: pytest.CaptureFixture[str], objective: str, order: list[str]
) -> None:
    plan = told(Plan(project, params, "tiny", "tiny", 3, objective=objective), [0.5], [0.9], [0.7])
    study = study_of(plan)
    study.tell(study.ask(), state=TrialState.FAIL)
    show_study(study)
    head, *rows = (line.split() for line in capsys.readouterr().out.splitlines())
    assert head == ["trial", "outcome", objective, "weights", "epochs", "seconds", *SPACE]
    assert [row[0] for row in rows] == [*order, "3"]
    assert rows[3] == ["3", "failed", *["-"] * 7]
    show_study(study, limit=2)
    *rows, hint = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[0] for row in rows] == order[:2]
    assert hint == "... and 2 more: `mnist study show tiny --all`."


def test_a_pareto_study_shows_its_front(project: Project, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    plan = Plan(project, params, "tiny", "tiny", 4, objective="accuracy,parameters")
    show_study(study_of(told(plan, [0.9, 800], [0.95, 900], [0.8, 100], [0.7, 400])))
    _, _, front = capsys.readouterr().out.partition("Pareto front")
    assert [line.split()[0] for line in front.splitlines()[2:]] == ["1", "0", "2"]


def test_importances_need_enough_trials(project: Project, params: Params, capsys: pytest.CaptureFixture[str]) -> None:
    values = [[0.5 + 0.01 * number] for number in range(10)]
    few, enough = (Plan(project, params, "tiny", name, 10) for name in ("few", "enough"))
    show_study(study_of(told(few, *values[:9])))
    assert "Importance" not in capsys.readouterr().out
    show_study(study_of(told(enough, *values)))
    assert "learning_rate" in capsys.readouterr().out.partition("Importance")[2]
