"""Adds the seconds that a process has spent on imports to the file named by `IMPORT_SECONDS`, as its last act.

Python runs a module of this name when it starts, if its folder is in `PYTHONPATH`. (`-X importtime` prints to standard
error, which our commands close while TensorFlow is imported.)
"""

import atexit
import builtins
import os
import threading
import time
from pathlib import Path
from typing import Any

_import = builtins.__import__
_total = 0.0
_depth = threading.local()


def _timed(*arguments: Any, **keywords: Any) -> Any:
    """Import as usual; an import inside another counts with that one."""
    global _total
    started, outer = time.perf_counter(), getattr(_depth, "now", 0)
    _depth.now = outer + 1
    try:
        return _import(*arguments, **keywords)
    finally:
        _depth.now = outer
        if not outer:
            _total += time.perf_counter() - started


def _tell() -> None:
    with Path(os.environ["IMPORT_SECONDS"]).open("a", encoding="utf-8") as file:
        file.write(f"{_total}\n")


builtins.__import__ = _timed
atexit.register(_tell)
