"""The one error that users are meant to read, and the hint that helps with a misspelt name."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake or a circumstance that the user can correct.

    The message is one clear sentence: the key or file, the value found, what is allowed and the way out. The command
    line prints it without a traceback and exits with status 1; every other exception is a bug and keeps its traceback.
    """


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return the question after the nearest of the known names, to be put into a sentence; empty if none is near."""
    close = difflib.get_close_matches(name, [*known], n=1, cutoff=0.5)
    return f"did you mean `{close[0]}`? " if close else ""
