"""README and docs/ tell of nothing that is not there; `make docs-check` also runs what they tell."""

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
from shown import PAGES, commands
from typer.testing import CliRunner

from mnist_pipeline.cli import app
from small_project import ROOT

MARKDOWN = sorted(page for folder in (".", "docs", "benchmarks", "examples/*") for page in ROOT.glob(f"{folder}/*.md"))
OTHERS = ("mlflow", "curl", "kubectl", "sbatch", "docker")
"""Programs that are not ours, and whose options are not looked at here."""


def exists(words: list[str]) -> bool:
    """Return whether a command and its options exist; they are only parsed."""
    match words:
        case [assignment, *rest] if "=" in assignment:
            return exists(rest)
        case ["mnist", *arguments]:
            return CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
        case ["dvc", *arguments]:
            from dvc.cli import DvcParserError, parse_args

            with suppress(DvcParserError):
                parse_args(arguments)
                return True
            return False
        case ["make", target, *_]:
            return f"\n{target}:" in (ROOT / "Makefile").read_text(encoding="utf-8")
        case ["python", script, *arguments]:
            options = (word.lstrip("-").replace("-", "_") for word in arguments if word.startswith("--"))
            file = ROOT / script
            return file.is_file() and all(f"{option}:" in file.read_text(encoding="utf-8") for option in options)
        case [program, *_]:
            return program in OTHERS
        case _:
            return False


def test_every_command_and_option_in_the_pages_exists() -> None:
    shown = commands()
    assert {command.page for command in shown} == set(PAGES)
    inline = {
        text
        for page in MARKDOWN
        for text in re.findall(r"`((?:mnist|make|python) [^`…]+)`", page.read_text(encoding="utf-8"))
    }
    assert len(inline) > 20
    texts = [*(command.text for command in shown), *sorted(inline)]
    parts = (part.strip() for text in texts for part in text.split("&&"))
    assert [part for part in parts if not exists(shlex.split(part))] == []


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_in_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert missing == []
