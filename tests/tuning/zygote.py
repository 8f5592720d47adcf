"""Starts `mnist` commands at once: it has imported everything, and each command is a fork of it.

For every line on standard input, JSON with `folder`, `arguments` and `log`, it prints the new process's number. Each
process leads a process group, as under a terminal. Loading TensorFlow for each of them would take minutes.
"""

import importlib
import json
import os
import signal
import sys


def run(command: dict[str, object]) -> None:
    """Run `mnist` with these arguments, in this process."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.chdir(str(command["folder"]))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(str(command["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    arguments = command["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["mnist", *arguments]
    from mnist_pipeline.cli import main

    status: object = 0
    try:
        main()
    except SystemExit as stop:
        status = stop.code
    except BaseException:
        status = 1
        raise
    finally:
        sys.stderr.flush()
        say(f"exit {status or 0}")
        os._exit(0)


def say(what: object) -> None:
    """Print a line, at once."""
    sys.stdout.write(f"{what}\n")
    sys.stdout.flush()


def serve() -> None:
    """Read commands until the input ends."""
    for name in ("mlflow", "matplotlib.pyplot", "mnist_pipeline.tuning.tune", "mnist_pipeline.tuning.trial"):
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # so that nobody has to wait for the children
    say("ready")
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            run(json.loads(line))
        say(child)


if __name__ == "__main__":
    serve()
