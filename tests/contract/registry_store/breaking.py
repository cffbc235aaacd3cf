"""A way to MongoDB that breaks in the middle of a command.

It has threads of its own: where the driver closes, it stops the event loop until the other end has answered.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any
from urllib.parse import urlsplit

MONGODB_PORT = 27017


class Breaking(ThreadingTCPServer):
    """Passes on each message and its answer, until a command comes that holds given bytes."""

    daemon_threads = True

    def __init__(self, uri: str) -> None:
        super().__init__(("127.0.0.1", 0), _Passing)
        self.to = urlsplit(uri)
        self._needle = b""
        self._answered = self._stays_down = False
        self.down = False
        """Whether nothing is let through."""

    def uri(self) -> str:
        """The address of the same database on this way. The driver does not try again by itself."""
        options = "retryWrites=false&directConnection=true&serverSelectionTimeoutMS=2000"
        # One answer for each message: without this the server goes on to tell that it is alive.
        options += "&serverMonitoringMode=poll"
        return f"mongodb://127.0.0.1:{self.server_address[1]}{self.to.path}?{options}"

    def break_at(self, needle: bytes, *, answered: bool, stays_down: bool = False) -> None:
        """Break the connection at the next such command; `answered`: once the server has done it."""
        self._needle, self._answered, self._stays_down = needle, answered, stays_down

    def breaks(self, message: bytes, server: socket.socket) -> bool:
        """Whether the connection breaks at a message."""
        if not self._needle or self._needle not in message:
            return False
        self._needle = b""
        self.down = self._stays_down
        if self._answered:
            server.sendall(message)
            _receive(server)
        return True


class _Passing(BaseRequestHandler):
    server: Any
    request: socket.socket

    def handle(self) -> None:
        to = self.server.to
        with socket.create_connection((to.hostname, to.port or MONGODB_PORT)) as server:
            while not self.server.down and (message := _receive(self.request)):
                if self.server.down or self.server.breaks(message, server):
                    return
                server.sendall(message)
                self.request.sendall(_receive(server))


def _receive(connection: socket.socket) -> bytes:
    """The next message of the protocol; empty at the end."""
    received = b""
    length = 4
    while len(received) < length:
        try:
            part = connection.recv(length - len(received))
        except ConnectionError:
            return b""
        if not part:
            return b""
        received += part
        if len(received) == 4:  # the length stands in front
            length = int.from_bytes(received, "little")
    return received


@contextmanager
def open_breaking(uri: str) -> Iterator[Breaking]:
    """Open a way to the server at an address."""
    with Breaking(uri) as breaking:
        serving = threading.Thread(target=breaking.serve_forever, args=(0.05,))
        serving.start()
        try:
            yield breaking
        finally:
            breaking.shutdown()
            serving.join()
