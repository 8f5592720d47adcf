"""A real MLflow server behind a proxy that can do what networks do."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from typing import Literal, cast

Mood = Literal["well", "gone", "hanging", "broken", "forgetful"]
"""gone: connections are closed; hanging: never answered; broken: answered 500; forgetful: what changes
something is done, but never answered."""


class Proxy(ThreadingHTTPServer):
    """Hands requests on to a server, depending on its mood."""

    daemon_threads = True

    def __init__(self, behind: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.behind, self.released, self.asked = behind, Event(), 0
        self.mood: Mood = "well"
        self.loses = ""
        """End of the path of a request whose answer is lost, once."""

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that have lost their patience are no news."""


class _Handler(BaseHTTPRequestHandler):
    def hand_on(self) -> None:
        proxy = cast("Proxy", self.server)
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        proxy.asked += 1
        match proxy.mood:
            case "gone":
                return
            case "hanging":
                proxy.released.wait()
                return
            case "broken":
                self.send_error(500)
                return
            case mood:
                connection = HTTPConnection("127.0.0.1", proxy.behind)
                # What has no length is an empty file, in chunks of which there is none.
                headers = {key: value for key, value in self.headers.items() if key.lower() != "transfer-encoding"}
                connection.request(self.command, self.path, body, headers)
                answer = connection.getresponse()
                content = answer.read()
                connection.close()
                if proxy.loses and self.path.endswith(proxy.loses):
                    proxy.loses = ""
                    return
                if mood == "forgetful" and self.command != "GET" and "/search" not in self.path:
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", ""))
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = hand_on  # noqa: N815 - the names that http.server wants

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Say nothing."""


@contextmanager
def running_server(folder: Path) -> Generator[Proxy]:
    """Run an MLflow server, with one worker, and a proxy before it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        f"{sys.executable} -m mlflow server --port {port} --workers 1 "
        f"--backend-store-uri sqlite:///{folder}/server.db --artifacts-destination {folder}/artifacts".split(),
        env={**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_for(port)
        with Proxy(port) as proxy:
            Thread(target=proxy.serve_forever, daemon=True).start()
            yield proxy
            proxy.released.set()
            proxy.shutdown()
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(timeout=30)


def wait_for(port: int) -> None:
    """Wait until a server listens."""
    for _ in range(240):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.5)
    raise AssertionError("the server did not come up in two minutes")
