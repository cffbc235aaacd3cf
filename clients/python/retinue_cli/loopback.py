"""A page on this machine to which a browser is sent after a login: it listens for one visit that counts."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

CALLBACK = "/callback"
MAX_HEAD_BYTES = 32 * 1024
READ_S = 10.0
"""For the head of one request."""
WRITE_S = 5.0
"""For the page."""
MAX_VISITS = 16
"""That wait to be looked at; who comes then is sent away."""


_NO_BROWSER = (
    TimeoutError,
    asyncio.IncompleteReadError,
    asyncio.LimitOverrunError,
    asyncio.QueueFull,
    OSError,
)
"""What comes of visitors that are none, have gone, or are too many."""


class Visit:
    """One visit of a browser, which waits for what it is shown."""

    def __init__(self, url: str) -> None:
        self.url = url
        """The whole address that it asked for."""
        self.page: asyncio.Future[tuple[HTTPStatus, str]] = asyncio.get_running_loop().create_future()
        self.over = asyncio.Event()

    async def show(self, status: HTTPStatus, text: str) -> None:
        """Show it a text, once, and wait until it has that, or has gone."""
        self.page.set_result((status, text))
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(WRITE_S):
                await self.over.wait()


class Loopback:
    """The page. Visits come from whatever runs on this machine, and may be nobody's browser."""

    def __init__(self, host: str, path: str) -> None:
        self._host = host
        self._path = path
        self._port = 0
        self._visits: asyncio.Queue[Visit] = asyncio.Queue(MAX_VISITS)

    @property
    def redirect_uri(self) -> str:
        """Where the browser is to be sent."""
        return f"http://{self._host}:{self._port}{self._path}"

    def listens(self, port: int) -> None:
        """Note its port."""
        self._port = port

    async def visit(self) -> Visit:
        """Wait for the next visit."""
        return await self._visits.get()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one request."""
        visit: Visit | None = None
        try:
            async with asyncio.timeout(READ_S):
                head = await reader.readuntil(b"\r\n\r\n")
            visit = self._visit(head.partition(b"\r\n")[0])
            if visit is None:
                writer.write(_page(HTTPStatus.NOT_FOUND, "Nothing is here."))
            else:
                self._visits.put_nowait(visit)
                writer.write(_page(*await visit.page))
            await writer.drain()
        except _NO_BROWSER:
            return
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            if visit is not None:
                visit.over.set()

    def _visit(self, line: bytes) -> Visit | None:
        method, _, target = line.decode("ascii", "replace").rpartition(" ")[0].partition(" ")
        if method != "GET" or target.partition("?")[0] != self._path:
            return None
        return Visit(f"http://{self._host}:{self._port}{target}")


def _page(status: HTTPStatus, text: str) -> bytes:
    body = f"<!doctype html><title>Retinue</title><p>{text}</p>".encode()
    head = (
        f"HTTP/1.1 {status.value} {status.phrase}",
        "Content-Type: text/html; charset=utf-8",
        f"Content-Length: {len(body)}",
        "Referrer-Policy: no-referrer",
        "Connection: close",
    )
    return "\r\n".join((*head, "", "")).encode() + body


@asynccontextmanager
async def open_loopback(host: str, port: int, path: str, *, any_port: bool) -> AsyncIterator[Loopback]:
    """Listen on a port of this machine; with `any_port` on a free one where it is taken. Raises OSError."""
    page = Loopback(host, path)
    try:
        server = await asyncio.start_server(page.serve, host.strip("[]"), port, limit=MAX_HEAD_BYTES)
    except OSError:
        if not any_port:
            raise
        server = await asyncio.start_server(page.serve, host.strip("[]"), 0, limit=MAX_HEAD_BYTES)
    page.listens(server.sockets[0].getsockname()[1])
    async with server:
        yield page
