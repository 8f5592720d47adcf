"""The commands that README and docs/ tell their readers to type."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from small_project import ROOT

PAGES = ("README.md", *(f"docs/{name}.md" for name in ("reproducibility", "studies", "serving", "cluster", "team")))
"""The pages with commands, in the order in which they can be followed."""


@dataclass(frozen=True)
class Command:
    """One command."""

    page: str
    """The page that shows it."""
    text: str
    """What is to be typed, without the comment after it."""


def commands(pages: Sequence[str] = PAGES) -> list[Command]:
    """Return what stands after `$ ` in the console blocks of the pages."""
    found: list[Command] = []
    for page in pages:
        blocks = re.findall(
            r"^```console\n(.*?)^```", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
        )
        lines = (line for block in blocks for line in block.splitlines() if line.startswith("$ "))
        found += [Command(page, re.sub(r"\s+#.*", "", line[2:])) for line in lines]
    return found
