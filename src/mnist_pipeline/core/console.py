"""The one place that prints."""

import os
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from functools import cache

from rich.console import Console

from mnist_pipeline.core.errors import UserError


@cache
def console(*, stderr: bool = False) -> Console:
    """Return the console for results (standard output) or for notices and errors (standard error).

    Long lines are left to the terminal, so that paths can be copied and logs searched.
    """
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def say(message: str) -> None:
    """Print one plain line; square brackets in it are text, not Rich markup."""
    console().print(message, markup=False)


def warn(message: str) -> None:
    """Print one notice to standard error."""
    console(stderr=True).print(message, markup=False, style="yellow")


@contextmanager
def quiet_native_logs() -> Generator[None]:
    """Keep what native libraries write to standard error while they load, and show it only if that fails.

    TensorFlow greets from C++ before it reads TF_CPP_MIN_LOG_LEVEL: file descriptor 2 is the only place to stop it.
    """
    sys.stderr.flush()
    saved = os.dup(2)
    with tempfile.TemporaryFile() as kept:
        os.dup2(kept.fileno(), 2)
        try:
            yield
        except UserError:  # its sentence says it all
            raise
        except BaseException:
            os.dup2(saved, 2)
            kept.seek(0)
            os.write(2, kept.read())
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)
