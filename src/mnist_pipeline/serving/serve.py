"""`mnist serve`: the champion behind HTTP, in a process without TensorFlow and MLflow, which take seconds and 0.9 GB.

Another process, which ends when it is done, asks MLflow who is champion and exports it: see `registry/exports.py`.
"""

import asyncio
import socket
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress

import uvicorn
from fastapi import FastAPI

from mnist_pipeline.core.console import say, warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.project import Project
from mnist_pipeline.data.params import load_data
from mnist_pipeline.serving.champion import Champion, read_champion, store_state
from mnist_pipeline.serving.server import Served, make_app

PREPARE = (sys.executable, "-c", "from mnist_pipeline.cli import main; main()", "prepare")
"""The command that exports the champion, and writes down who it is."""
LOOK = 2
"""Seconds between two looks at a store that is a local file."""
ASK = 60
"""Seconds between two questions to another store."""


def run(project: Project, uri: str, host: str, port: int, *, follow: bool) -> None:
    """Answer until SIGTERM or Ctrl+C; what was asked until then is still answered.

    Args:
        project: whose champion.
        uri: of the MLflow store.
        host: address to listen at.
        port: port to listen at; 0 for any free one.
        follow: whether to change to another version when the alias moves.

    Raises:
        UserError: the port is taken.
        SystemExit: there is no champion, or it cannot be exported; why has been printed.
    """
    with _listen(host, port) as listener:
        champion = _find_champion(project, uri)
        address = f"http://{f'[{host}]' if ':' in host else host}:{listener.getsockname()[1]}"

        @asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncGenerator[None]:
            say(
                f"Version {champion.version} answers at {address}/predict; {address}/docs says how to ask. "
                "(Ctrl+C ends it)"
            )
            following = asyncio.create_task(_follow(app, project, uri)) if follow else None
            yield
            if following:
                following.cancel()
                await asyncio.wait([following])

        app = make_app(Served.load(project, load_data(project), champion), lifespan)
        config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=10)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    try:
        listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        reason = str(error.strerror).partition(" (")[0]
        raise UserError(f"{host}, port {port}: {reason}; name another one with --port or --host.") from error
    # As asyncio does for sockets of its own: an answer is two packets, and the second would wait 40 ms for the first.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def _find_champion(project: Project, uri: str) -> Champion:
    """Return who is champion: as it was written down, if the store has not changed since."""
    champion = read_champion(project)
    if champion and champion.store_state and champion.store_state == store_state(uri):
        return champion
    say("Asking MLflow which version is champion …")
    if (champion := asyncio.run(_ask(project))) is None:
        raise SystemExit(1)
    return champion


async def _ask(project: Project) -> Champion | None:
    """Return who is champion, after another process has exported it; None if it could not, and has said why."""
    child = await asyncio.create_subprocess_exec(*PREPARE, start_new_session=True)  # Ctrl+C is for us alone
    try:
        return None if await child.wait() else read_champion(project)
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()


async def _follow(app: FastAPI, project: Project, uri: str) -> None:
    """Change to another version whenever the alias has moved; a request that is being answered keeps the one it has."""
    state = app.state.served.champion.store_state
    while True:
        await asyncio.sleep(LOOK if state else ASK)
        if state and state == store_state(uri):
            continue
        begin = time.monotonic()
        champion = await _ask(project)
        if champion:
            _change_to(app, project, champion)
        state = champion.store_state if champion else ""
        # A training writes all the time: what it takes to ask stays below a tenth.
        await asyncio.sleep(10 * (time.monotonic() - begin))


def _change_to(app: FastAPI, project: Project, champion: Champion) -> None:
    former = app.state.served.champion
    if (champion.version, champion.file) == (former.version, former.file):
        return
    try:
        app.state.served = Served.load(project, app.state.served.data, champion)
    except UserError as error:
        warn(str(error))
    else:
        say(f"Version {champion.version} is champion now, and answers.")
