"""The one place that prints."""

from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


@cache
def console(*, stderr: bool = False) -> "Console":
    """Return the console for results (standard output) or for notices and errors (standard error).

    Long lines are left to the terminal, so that paths can be copied and logs searched.
    """
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one plain line; square brackets in it are text, not Rich markup."""
    console().print(message, markup=False)


def warn(message: str) -> None:
    """Print one notice to standard error."""
    console(stderr=True).print(message, markup=False, style="yellow")
