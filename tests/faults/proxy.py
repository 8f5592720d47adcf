"""A proxy between a client and its server that can be told to do harm: cut connections, or answer 500 by itself."""

import asyncio
import random
import socket
import struct
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Literal

Harm = Literal["", "reset", "500"]
ANSWER = b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}"
AT_ONCE = struct.pack("ii", 1, 0)
"""For SO_LINGER: close with a reset."""


@dataclass
class Proxy:
    """Hands on what it gets, unless it is to do harm."""

    target: int
    """Port of the server, on this machine."""
    port: int = 0
    harm: Harm = ""
    share: float = 1.0
    """Of the requests that are harmed."""
    harmed: int = 0
    moments: random.Random = field(default_factory=lambda: random.Random(0))
    tasks: set[asyncio.Task[None] | None] = field(default_factory=set["asyncio.Task[None] | None"])
    started: threading.Event = field(default_factory=threading.Event)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.tasks.add(task := asyncio.current_task())  # or the garbage collector may take it
        with suppress(OSError):
            from_server, to_server = await asyncio.open_connection("127.0.0.1", self.target)
            self.tasks.add(answers := asyncio.create_task(hand_on(from_server, writer)))
            while request := await reader.read(1 << 16):
                if self.harm and self.moments.random() < self.share:
                    self.harmed += 1
                    await self.do_harm(writer)
                    break
                to_server.write(request)
                await to_server.drain()
            if request:
                answers.cancel()
            to_server.close()
            await asyncio.wait([answers])
            self.tasks.discard(answers)
        writer.close()
        self.tasks.discard(task)

    async def do_harm(self, writer: asyncio.StreamWriter) -> None:
        if self.harm == "500":
            writer.write(ANSWER)
            await writer.drain()
        else:
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, AT_ONCE)

    async def run(self) -> None:
        self.loop, self.stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        async with server:
            self.port = server.sockets[0].getsockname()[1]
            self.started.set()
            await self.stop.wait()


async def hand_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while answer := await reader.read(1 << 16):
            writer.write(answer)
            await writer.drain()
    writer.close()


@contextmanager
def proxy_to(port: int) -> Generator[Proxy]:
    """Run a proxy in a thread of its own."""
    proxy = Proxy(port)
    thread = threading.Thread(target=lambda: asyncio.run(proxy.run()), daemon=True)
    thread.start()
    proxy.started.wait()
    yield proxy
    proxy.loop.call_soon_threadsafe(proxy.stop.set)
    thread.join(5)
