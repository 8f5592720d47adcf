"""The files for containers, as far as they can be checked without a container: rules, schema, secrets."""

import re
import shutil

import pytest

from repository import environment, run
from servers import DEPLOYED
from small_project import ROOT


def check(*command: str) -> None:
    """Run a program of the development environment on a file of deploy/."""
    if not shutil.which(command[0], path=environment()["PATH"]):
        pytest.skip(f"the development environment has {command[0]}")
    run(ROOT / "deploy", *command)


def test_the_dockerfile_follows_the_rules_of_hadolint() -> None:
    check("hadolint", "Dockerfile")


def test_compose_understands_its_file() -> None:
    check("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "compose.yaml")


def test_every_secret_comes_from_the_environment() -> None:
    values = {
        name: value
        for service in DEPLOYED["services"].values()
        for name, value in service["environment"].items()
        if re.search("PASSWORD|SECRET", name)
    }
    assert len(values) == 5
    assert [name for name, value in values.items() if not re.fullmatch(r"\$\{.+\}", value)] == []
