"""What the user asks for is checked before anything starts."""

import pytest

from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.training.params import Params
from mnist_pipeline.tuning.plan import Plan, parse_duration


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("2h", 7200), ("1h30m", 5400)])
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "30", "m", "1.5h", "30m1h", "0s", "-5m", "30 m"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="write it like"):
        parse_duration(text)


@pytest.mark.parametrize("study", ["../up", ".hidden", "a b", "a.b", "x" * 62])
def test_a_name_that_is_no_file_name_is_refused(project: Project, params: Params, study: str) -> None:
    with pytest.raises(UserError, match="cannot name a file"):
        Plan(project, params, "tiny", study, 1)


def test_epochs_replace_those_of_the_model_and_are_checked(project: Project, params: Params) -> None:
    assert Plan(project, params, "tiny", "tiny", 1, epochs=7).model.training.epochs == 7
    with pytest.raises(UserError, match="1000"):
        Plan(project, params, "tiny", "tiny", 1, epochs=1001)


def test_what_varies_is_part_of_a_study_and_its_current_value_is_not(project: Project, params: Params) -> None:
    def definition(**changed: float) -> dict[str, object]:
        tiny = params.models["tiny"]
        training = tiny.training.model_copy(update={"optimizer": tiny.training.optimizer.model_copy(update=changed)})
        models = {"tiny": tiny.model_copy(update={"training": training})}
        return Plan(project, params.model_copy(update={"models": models}), "tiny", "tiny", 1).definition()

    assert definition(learning_rate=0.02) == definition(learning_rate=0.01)
    assert definition(beta_1=0.8) != definition(beta_1=0.9)


def test_a_front_cannot_be_adopted_without_a_choice(project: Project, params: Params) -> None:
    with pytest.raises(UserError, match=r"^--adopt cannot choose .* choose with `mnist adopt tiny --trial N`"):
        Plan(project, params, "tiny", "tiny", 1, objective="accuracy,parameters", adopt=True)
