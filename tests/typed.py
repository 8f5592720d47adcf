"""Commands of `mnist`, typed in the process of the tests: in one of its own, each would import everything again."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Said:
    """What a command said before it ended."""

    status: int | str | None
    printed: str
    """Standard output."""
    errors: str
    """Standard error."""

    @property
    def refusal(self) -> str:
        """The one sentence of a command that refuses to go on."""
        assert self.status == 1, self
        assert self.errors.startswith("error: "), self
        assert len(self.errors.splitlines()) == 1, self
        return self.errors


Mnist = Callable[[str, Path], Said]
"""Types the words after `mnist` in a folder."""
