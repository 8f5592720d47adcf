"""Pages on this machine: a free port, and opening the browser."""

import os
import socket
import sys
import webbrowser
from contextlib import suppress

from mnist_pipeline.core.errors import UserError


def free_port(wanted: int | None, first: int) -> int:
    """Return the port that is wanted, or else the first free one of the hundred from `first`.

    Raises:
        UserError: it is taken.
    """
    ports = [wanted] if wanted else range(first, first + 100)
    for port in ports:
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port
    raise UserError(f"Port {ports[0]} is taken: name another one with --port, or none to get the next free one.")


def open_page(address: str) -> None:
    """Open an address in the browser, if there is a desktop."""
    if sys.platform == "darwin" or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        webbrowser.open(address)
