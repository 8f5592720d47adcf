"""One change of the registry at a time, whichever machines they come from: a queue in tags of the registered model.

MLflow cannot compare and set, and this takes no more than writing and reading: it is Lamport's bakery algorithm. Who
comes draws a number larger than all that there are, and the smallest number is next. A tag whose number is 0 says that
its owner is drawing: who has a number waits for that, too, because the other may have read the numbers before.
"""

import socket
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from mnist_pipeline.core.console import warn
from mnist_pipeline.core.errors import UserError
from mnist_pipeline.core.processes import identity, is_alive

if TYPE_CHECKING:
    from mlflow import MlflowClient

PREFIX = "turn."
"""How the tags of the queue begin."""
PATIENCE = 300.0
"""Seconds after which a process of another machine, which cannot be asked, is taken for dead."""


class _Ticket(NamedTuple):
    """A place in the queue; the smallest is the next."""

    number: int
    tag: str
    host: str
    process: str

    def is_abandoned(self) -> bool:
        """Return whether its owner was a process of this machine that has ended."""
        return self.host == socket.gethostname() and not is_alive(self.process)


@contextmanager
def turn(client: "MlflowClient", model: str) -> Generator[None]:
    """Wait until nobody else is changing a registered model, and hold the others off meanwhile.

    Raises:
        UserError: another machine took this process for dead while it waited.
    """
    ticket = _Ticket(0, f"{PREFIX}{uuid4().hex}", socket.gethostname(), identity())
    try:
        _show(client, model, ticket)
        ticket = ticket._replace(number=1 + max((other.number for other in _queue(client, model)), default=0))
        _show(client, model, ticket)
        _wait(client, model, ticket)
        yield
    finally:
        _remove(client, model, ticket)


def _show(client: "MlflowClient", model: str, ticket: _Ticket) -> None:
    client.set_registered_model_tag(model, ticket.tag, f"{ticket.number}|{ticket.host}|{ticket.process}")


def _queue(client: "MlflowClient", model: str) -> list[_Ticket]:
    """Return all tickets, the next one first; one request reads them as they were at one moment."""
    tags = client.get_registered_model(model).tags
    split = ((tag, value.split("|")) for tag, value in tags.items() if tag.startswith(PREFIX))
    return sorted(_Ticket(int(number), tag, host, process) for tag, (number, host, process) in split)


def _wait(client: "MlflowClient", model: str, ticket: _Ticket) -> None:
    """Wait until a ticket is the first, and remove those before it whose owners are dead."""
    first, since = ticket, 0.0
    while (queue := _queue(client, model))[:1] != [ticket]:
        if ticket not in queue:
            raise UserError("Another machine took this process for dead while it waited: run the command again.")
        if queue[0] != first:
            first, since = queue[0], time.monotonic()
            if not first.is_abandoned():
                warn(f"Process {first.process.partition(' ')[0]} on {first.host} is changing the registry: waiting.")
        if first.is_abandoned() or time.monotonic() - since > PATIENCE:
            _remove(client, model, first)
        else:
            time.sleep(0.5)


def _remove(client: "MlflowClient", model: str, ticket: _Ticket) -> None:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # the server is lost; the next one will find that the owner is dead
        client.delete_registered_model_tag(model, ticket.tag)
