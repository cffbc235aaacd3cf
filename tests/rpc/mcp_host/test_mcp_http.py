"""Servers that speak streamable HTTP."""

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors

from .hosting import SERVERS, Host, answers, until

Start = Callable[[], subprocess.Popen[bytes]]


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@pytest.fixture
async def start(port: int) -> AsyncIterator[Start]:
    """Starts the SDK's server on the port; it ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def run() -> subprocess.Popen[bytes]:
        argv = [sys.executable, str(SERVERS / "sdk_server.py"), "--http", str(port)]
        started.append(subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        return started[-1]

    yield run
    for process in started:
        process.kill()
        process.wait()


async def test_tools_are_listed_and_called_with_progress(host: Host, start: Start, port: int) -> None:
    start()
    await until(lambda: answers(port), "the server listens")
    host.http("web", f"http://127.0.0.1:{port}/mcp")
    tools, failures = await host.list_tools("web")
    assert not failures
    assert tools[0].display_name == "web__echo"
    assert (await host.call("web", "echo", '{"text": "hé"}')).content[0].text == "hé"
    assert json.loads((await host.call("web", "add", '{"a": 1, "b": 3}')).structured_json) == {"total": 4}
    *progress, last = await host.updates("web", "count", '{"to": 5}')
    assert [update.progress.progress for update in progress] == [1, 2, 3, 4, 5]
    assert last.result.content[0].text == "done"


async def test_cancel_reaches_the_server(host: Host, start: Start, port: int, tmp_path: Path) -> None:
    start()
    await until(lambda: answers(port), "the server listens")
    host.http("web", f"http://127.0.0.1:{port}/mcp")
    call = asyncio.ensure_future(host.call("web", "wait", json.dumps({"folder": str(tmp_path)})))
    await until((tmp_path / "started").exists, "the call reached the server")
    call.cancel()
    await until((tmp_path / "cancelled").exists, "the cancel reached the server")


async def test_a_server_that_is_gone_is_a_typed_error_and_its_return_is_found(
    host: Host, start: Start, port: int
) -> None:
    process = start()
    await until(lambda: answers(port), "the server listens")
    host.http("web", f"http://127.0.0.1:{port}/mcp")
    first = (await host.call("web", "pid")).content[0].text
    process.kill()
    process.wait()
    with pytest.raises(errors.McpServerUnavailableError, match="cannot be reached"):
        await host.call("web", "pid")
    with pytest.raises(errors.McpServerUnavailableError, match="cannot be reached"):
        await host.call("web", "pid")
    start()
    await until(lambda: answers(port), "the server listens again")
    assert (await host.call("web", "pid")).content[0].text != first


async def test_a_restart_between_two_calls_is_not_noticed(host: Host, start: Start, port: int) -> None:
    process = start()
    await until(lambda: answers(port), "the server listens")
    host.http("web", f"http://127.0.0.1:{port}/mcp")
    first = (await host.call("web", "pid")).content[0].text
    process.kill()
    process.wait()
    start()
    await until(lambda: answers(port), "the server listens again")
    assert (await host.call("web", "pid")).content[0].text != first


async def test_a_kill_in_the_middle_of_calls_fails_them_all(
    host: Host, start: Start, port: int, tmp_path: Path
) -> None:
    process = start()
    await until(lambda: answers(port), "the server listens")
    host.http("web", f"http://127.0.0.1:{port}/mcp", call_timeout=Duration(seconds=8))
    folders = [tmp_path / str(number) for number in range(5)]
    for folder in folders:
        folder.mkdir()
    calls = [
        asyncio.ensure_future(host.call("web", "wait", json.dumps({"folder": str(folder)})))
        for folder in folders
    ]
    await until(
        lambda: all((folder / "started").exists() for folder in folders), "all calls are with the server"
    )
    process.kill()
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpServerUnavailableError}


async def test_a_server_that_takes_connections_and_says_nothing_times_out(host: Host) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/mcp"
        host.http("mute", url, connect_timeout=Duration(nanos=500_000_000))
        with pytest.raises(errors.McpTimeoutError, match="connect_timeout"):
            await host.call("mute", "echo")


async def test_headers_carry_resolved_secrets_and_a_refusal_its_status(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WEB_TOKEN", "t0ken")
    seen: list[bytes] = []

    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        host.http("web", f"http://127.0.0.1:{port}/mcp", {"Authorization": "Bearer ${env:WEB_TOKEN}"})
        with pytest.raises(errors.McpRequestRefusedError, match="HTTP status 401"):
            await host.call("web", "echo")
    assert b"authorization: bearer t0ken" in seen[0].lower()
