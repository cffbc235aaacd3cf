"""Servers that speak HTTP+SSE, as revision 2024-11-05 had it; and TLS, for these and for streamable HTTP."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors
from retinue.mcphost.v1 import server_request_pb2
from retinue.registry.v1 import mcp_server_pb2
from tests.certificates import make_certificate

from .hosting import SERVERS, SOON_S, Host, Registry, answers, open_host, until

SHORT = Duration(seconds=8)


def store(host: Host, url: str, headers: dict[str, str] | None = None, **spec: Any) -> None:
    """Store a server named `old`."""
    tls = spec.pop("tls", None)
    spec.setdefault("connect_timeout", SHORT)
    transport = mcp_server_pb2.SseTransport(url=url, headers=headers or {}, tls=tls)
    host.registry.put("old", mcp_server_pb2.McpServerSpec(sse=transport, **spec))


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start(port: int) -> Any:
    """Starts the SDK's server on the port; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run(kind: str = "--sse", *more: str) -> subprocess.Popen[bytes]:
        argv = [sys.executable, str(SERVERS / "sdk_server.py"), kind, str(port), *more]
        started.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


async def test_tools_work_and_a_death_is_noticed_and_a_return_found(
    host: Host, start: Start, port: int, tmp_path: Path
) -> None:
    process = start()
    await until(lambda: answers(port), "the server listens")
    store(host, f"http://127.0.0.1:{port}/sse", call_timeout=SHORT)
    assert json.loads((await host.call("old", "add", '{"a": 1, "b": 3}')).structured_json) == {"total": 4}
    *progress, last = await host.updates("old", "count", '{"to": 5}')
    assert [update.progress.progress for update in progress] == [1, 2, 3, 4, 5]
    assert last.result.content[0].text == "done"
    together = await asyncio.gather(*(host.call("old", "echo", f'{{"text": "{n}"}}') for n in range(100)))
    assert [each.content[0].text for each in together] == [str(n) for n in range(100)]
    folders = [tmp_path / name for name in ("cancelled", "killed")]
    calls = []
    for folder in folders:
        folder.mkdir()
        calls.append(asyncio.ensure_future(host.call("old", "wait", json.dumps({"folder": str(folder)}))))
        await until((folder / "started").exists, "the call reached the server")
    calls[0].cancel()
    await until((folders[0] / "cancelled").exists, "the cancel reached the server")
    process.kill()
    process.wait()
    with pytest.raises(errors.McpServerUnavailableError, match=r"stream of events|cannot be reached"):
        await calls[1]
    with pytest.raises(errors.McpServerUnavailableError, match="cannot be reached"):
        await host.call("old", "pid")
    start()
    await until(lambda: answers(port), "the server listens again")
    assert (await host.call("old", "echo", '{"text": "again"}')).content[0].text == "again"


class OldServer:
    """An SSE server on bare sockets, for what no SDK would do."""

    def __init__(self) -> None:
        self.seen: list[bytes] = []
        """The heads of all requests."""
        self.stream: asyncio.StreamWriter | None = None
        self.writers: list[asyncio.StreamWriter] = []
        self.endpoint = "/messages?session=1"
        self.get = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"
        self.post = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"
        self.asks = False
        """Whether a tool call asks a person first; what they say is its result."""
        self.asking = 0
        self.before = b""
        """What it writes in front of the answer of a tool call."""

    def say(self, **message: Any) -> None:
        """Send an event."""
        assert self.stream is not None
        data = json.dumps({"jsonrpc": "2.0", **message})
        # In two pieces, as the standard allows; a comment keeps the connection alive.
        self.stream.write(
            f": ping\r\nevent: message\r\ndata: {data[:1]}\r\ndata: {data[1:]}\r\n\r\n".encode()
        )

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        self.writers.append(writer)
        while True:
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.IncompleteReadError:
                return
            self.seen.append(head)
            if head.startswith(b"GET"):
                self.stream = writer
                writer.write(self.get)
                writer.write(f"event: endpoint\ndata: {self.endpoint}\n\n".encode())
                continue
            length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
            self.answer(json.loads(await reader.readexactly(length)))
            writer.write(self.post)

    def answer(self, message: dict[str, Any]) -> None:
        """Answer on the stream what was POSTed."""
        method = message.get("method")
        if method == "initialize":
            info = {"name": "old", "version": "1"}
            result = {"protocolVersion": "2024-11-05", "capabilities": {"tools": {}}, "serverInfo": info}
            self.say(id=message["id"], result=result)
        elif method == "tools/list":
            self.say(id=message["id"], result={"tools": [{"name": "go", "inputSchema": {}}]})
        elif method == "tools/call" and self.asks:
            self.asking = message["id"]
            params = {"message": "Which?", "requestedSchema": {"type": "object", "properties": {}}}
            self.say(id="question", method="elicitation/create", params=params)
        elif message.get("id") == "question":
            text = json.dumps(message["result"])
            self.say(id=self.asking, result={"content": [{"type": "text", "text": text}]})
        elif method == "tools/call":
            assert self.stream is not None
            self.stream.write(self.before.replace(b"ID", str(message["id"]).encode()))
            self.say(id=message["id"], result={"content": [{"type": "text", "text": "went"}]})


@asynccontextmanager
async def old_server() -> AsyncIterator[tuple[OldServer, str]]:
    """A server and the address of its stream."""
    server = OldServer()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    try:
        yield server, f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}/sse"
    finally:
        listening.close()
        for writer in server.writers:
            writer.close()
        await asyncio.gather(*(each.wait_closed() for each in server.writers), return_exceptions=True)


async def test_headers_go_with_the_stream_and_with_each_post(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLD_TOKEN", "t0ken")
    async with old_server() as (server, url):
        store(host, url, {"Authorization": "Bearer ${env:OLD_TOKEN}"})
        assert (await host.call("old", "go")).content[0].text == "went"
    assert server.seen[0].startswith(b"GET /sse ")
    assert all(head.startswith(b"POST /messages?session=1 ") for head in server.seen[1:])
    assert all(b"authorization: bearer t0ken" in head.lower() for head in server.seen)


@pytest.mark.parametrize(
    ("get", "endpoint", "error", "match"),
    [
        (
            b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            "/m",
            "refused",
            "401: it wants a token",
        ),
        (b"HTTP/1.1 405 No\r\nContent-Length: 0\r\n\r\n", "/m", "refused", "use streamable_http"),
        (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "/m", "unavailable", "HTTP status 503"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n", "/m", "refused", "text/html content"),
        (None, "http://169.254.169.254/steal", "refused", "is not where its events come from"),
    ],
)
async def test_a_stream_that_is_none_is_a_typed_error(
    host: Host, get: bytes | None, endpoint: str, error: str, match: str
) -> None:
    kinds = {"refused": errors.McpRequestRefusedError, "unavailable": errors.McpServerUnavailableError}
    async with old_server() as (server, url):
        server.get, server.endpoint = get or server.get, endpoint
        store(host, url)
        with pytest.raises(kinds[error], match=match):
            await host.call("old", "go")


async def test_what_a_server_asks_is_answered(host: Host) -> None:
    async with old_server() as (server, url):
        server.asks = True
        store(host, url)
        accept = server_request_pb2.ElicitationAnswer(
            action=server_request_pb2.ELICITATION_ACTION_ACCEPT, content_json='{"colour": "red"}'
        )
        async for update in host.tools.call("old", "go", accepts_elicitation=True):
            if update.HasField("request"):
                assert update.request.elicitation.message == "Which?"
                await host.tools.answer(update.request.request_id, accept)
        said = json.loads(update.result.content[0].text)
        assert said == {"action": "accept", "content": {"colour": "red"}}
        with pytest.raises(errors.McpServerRequestNotFoundError):
            await host.tools.answer("unknown", accept)


@pytest.mark.parametrize("status", [b"404 Not Found", b"500 Broken"])
async def test_a_post_that_is_not_taken_fails_its_call_at_once(host: Host, status: bytes) -> None:
    async with old_server() as (server, url):
        store(host, url, call_timeout=SHORT)
        await host.call("old", "go")
        server.answer = lambda message: None  # type: ignore[method-assign]
        server.post = b"HTTP/1.1 " + status + b"\r\nContent-Length: 0\r\n\r\n"
        async with asyncio.timeout(SOON_S):
            with pytest.raises(errors.RetinueError) as caught:
                await host.call("old", "go")
        assert "forgotten the session" in str(caught.value) or "HTTP status 500" in str(caught.value)


async def test_events_that_are_no_messages_or_too_long_cost_nobody_else(
    registry: Registry, tmp_path: Path
) -> None:
    async with (
        open_host(registry, tmp_path, max_server_message_bytes=65536) as host,
        old_server() as (
            server,
            url,
        ),
    ):
        store(host, url, call_timeout=SHORT)
        server.before = b"event: odd\ndata: 1\n\ndata: {broken\n\ndata\n\n\xff\xfe\n\n"
        assert (await host.call("old", "go")).content[0].text == "went"
        long = b'data: {"jsonrpc":"2.0","id":ID,"result":{"content":[{"type":"text","text":"'
        server.before = long + b"x" * 100_000 + b'"}]}}\n\n'
        with pytest.raises(errors.PayloadTooLargeError, match="longer than 65536 bytes"):
            await host.call("old", "go")
        server.before = b""
        assert (await host.call("old", "go")).content[0].text == "went"


@pytest.mark.parametrize("kind", ["sse", "streamable_http"])
async def test_tls_trusts_the_ca_file_and_shows_the_certificate(
    host: Host, start: Start, port: int, kind: str, tmp_path: Path
) -> None:
    cert, key, ca = map(str, make_certificate(tmp_path, "127.0.0.1"))
    start("--sse" if kind == "sse" else "--http", "--tls", cert, key, ca)
    await until(lambda: answers(port), "the server listens")
    url = f"https://127.0.0.1:{port}/{'sse' if kind == 'sse' else 'mcp'}"
    both = {"ca_file": ca, "cert_file": cert, "key_file": key}
    for name, tls in {
        "both": both,
        "none": {},
        "no_cert": {"ca_file": ca},
        "gone": {"ca_file": "/x"},
    }.items():
        transport = {"url": url, "tls": tls}
        host.registry.put(name, mcp_server_pb2.McpServerSpec(**{kind: transport}))
    assert (await host.call("both", "echo", '{"text": "safe"}')).content[0].text == "safe"
    with pytest.raises(errors.McpServerUnavailableError, match=r"(?i)certificate"):
        await host.call("none", "echo", '{"text": ""}')
    with pytest.raises(errors.McpServerUnavailableError, match=r"(?i)certificate|cannot be reached"):
        await host.call("no_cert", "echo", '{"text": ""}')
    with pytest.raises(
        errors.McpServerUnavailableError, match=r"tls.ca_file /x cannot be used: No such file"
    ):
        await host.call("gone", "echo", '{"text": ""}')
