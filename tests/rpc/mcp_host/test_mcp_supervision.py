"""Servers that fail: how their calls end, when they are tried again, and what is told of it."""

import asyncio
import json
import os
import signal
import time
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors
from retinue.mcphost.v1 import server_pb2
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections import connection
from retinue_mcp_host.model import ConnectionKey
from retinue_mcp_host.servers import supervision
from retinue_mcp_host.servers.supervision import Health, backoff_s

from .hosting import Host, Registry, alive, open_host, until, until_awaited

BRIEF_S = 0.15
"""A backoff that tests wait for."""


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Backoffs that do not grow."""
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", BRIEF_S)
    monkeypatch.setattr(supervision, "LONGEST_BACKOFF_S", BRIEF_S)


async def fail(host: Host, server: str, times: int) -> None:
    """Use a server that cannot be connected, so many times."""
    for _ in range(times):
        with pytest.raises(errors.McpServerUnavailableError, match="ended with exit status"):
            await host.call(server, "echo")


async def test_a_kill_ends_a_hundred_calls_under_way_and_the_next_call_works(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=50)
    calls = [asyncio.ensure_future(host.call("raw", "hang")) for _ in range(100)]

    async def under_way() -> bool:
        connections = (await host.servers.get("raw")).connections
        return bool(connections) and (connections[0].calls, connections[0].queued_calls) == (50, 50)

    await until_awaited(under_way, "half of the calls have a turn, and half wait")
    await until(lambda: len(host.lines("hanging")) == 50, "half of the calls are with the server")
    os.kill(host.pids()[0], signal.SIGKILL)
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpServerUnavailableError}
    assert all("was ended by SIGKILL" in str(outcome) for outcome in outcomes)
    assert (await host.call("raw", "echo", '{"text": "again"}')).content[0].text == "again"
    (shown,) = (await host.servers.get("raw")).connections
    assert (shown.state, shown.restarts, shown.failures) == (server_pb2.CONNECTION_STATE_READY, 1, 1)
    assert "SIGKILL" in shown.last_failure.message


@pytest.mark.usefixtures("brief")
async def test_after_the_second_failure_in_a_row_the_next_use_waits_for_the_backoff(host: Host) -> None:
    host.stdio("raw", "raw_server.py", "flaky")
    (host.folder / "broken").touch()
    await fail(host, "raw", 2)
    (shown,) = (await host.servers.get("raw")).connections
    assert (shown.state, shown.failures) == (server_pb2.CONNECTION_STATE_FAILED, 2)
    assert shown.retry_time.ToMicroseconds() > shown.since.ToMicroseconds()
    assert list(shown.stderr)[-1] == "it does not work today"
    (host.folder / "broken").unlink()
    calls = [host.call("raw", "echo", '{"text": "works"}') for _ in range(10)]
    results = await asyncio.gather(*calls)
    assert {result.content[0].text for result in results} == {"works"}
    assert len(host.pids()) == 3


@pytest.mark.usefixtures("brief")
async def test_the_breaker_opens_after_five_failures_and_lets_one_call_through_to_see(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.stdio("raw", "raw_server.py", "flaky")
    (host.folder / "broken").touch()
    await fail(host, "raw", 4)
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", 1.0)
    monkeypatch.setattr(supervision, "LONGEST_BACKOFF_S", 1.0)
    await fail(host, "raw", 1)
    begin = time.monotonic()
    with pytest.raises(errors.McpServerUnavailableError, match="failed 5 times in a row") as caught:
        await host.call("raw", "echo")
    assert time.monotonic() - begin < 0.5
    assert 0 < float(caught.value.facts["retry_after_s"]) <= 1
    assert caught.value.facts["last_failure"] == "MCP_SERVER_UNAVAILABLE"
    assert "it does not work today" in caught.value.facts["stderr"]
    (shown,) = (await host.servers.get("raw")).connections
    assert (shown.state, shown.failures) == (server_pb2.CONNECTION_STATE_BROKEN, 5)
    await until(lambda: time.time_ns() // 1000 > shown.retry_time.ToMicroseconds(), "it may be tried again")
    (host.folder / "broken").unlink()
    outcomes = await asyncio.gather(*(host.call("raw", "echo") for _ in range(10)), return_exceptions=True)
    refused = [each for each in outcomes if isinstance(each, errors.McpServerUnavailableError)]
    assert len(refused) == 9
    assert all("is just being tried" in each.message for each in refused)
    assert len(host.pids()) == 6
    await host.call("raw", "echo")
    (shown,) = (await host.servers.get("raw")).connections
    assert shown.state == server_pb2.CONNECTION_STATE_READY


async def test_a_restart_closes_the_breaker(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervision, "FIRST_BACKOFF_S", 60.0)
    monkeypatch.setattr(supervision, "BREAKS_AFTER", 2)
    host.stdio("raw", "raw_server.py", "flaky")
    (host.folder / "broken").touch()
    await fail(host, "raw", 2)
    with pytest.raises(errors.McpServerUnavailableError, match="it does not work today"):
        await host.servers.restart("raw")
    (host.folder / "broken").unlink()
    restarted = await host.servers.restart("raw")
    (shown,) = restarted.connections
    assert (shown.state, shown.failures) == (server_pb2.CONNECTION_STATE_READY, 0)
    await host.call("raw", "echo")


async def test_a_restart_fails_the_calls_under_way_and_ends_the_process_first(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    call = asyncio.ensure_future(host.call("raw", "hang"))
    await until(lambda: host.lines("hanging"), "the call reached the server")
    restarted = await host.servers.restart("raw")
    (outcome,) = await asyncio.gather(call, return_exceptions=True)
    assert isinstance(outcome, errors.McpServerUnavailableError)
    first, second = host.pids()
    assert not alive(first)
    assert restarted.connections[0].process_id == second


async def test_a_server_that_answers_no_call_and_no_ping_is_closed_as_failed(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "PING_S", 0.2)
    host.stdio("raw", "raw_server.py", call_timeout=Duration(nanos=300_000_000))
    await host.call("raw", "echo")
    os.kill(host.pids()[0], signal.SIGSTOP)
    # More than a pipe holds: it does not even read what it is sent.
    text = json.dumps({"text": "x" * 300_000})
    calls = [host.call("raw", "echo", text) for _ in range(3)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpTimeoutError}

    async def failure() -> str:
        return str((await host.servers.get("raw")).connections[0].last_failure.message)

    await until_awaited(failure, "it is taken for hanging")
    os.kill(host.pids()[0], signal.SIGCONT)
    assert "hangs: 3 requests in a row" in await failure()
    assert (await host.call("raw", "echo", '{"text": "again"}')).content[0].text == "again"
    assert len(host.pids()) == 2


async def test_a_server_whose_tool_alone_is_slow_is_not_taken_for_hanging(host: Host) -> None:
    host.stdio("raw", "raw_server.py", call_timeout=Duration(nanos=200_000_000))
    calls = [host.call("raw", "hang") for _ in range(4)]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpTimeoutError}
    await host.call("raw", "echo")
    assert len(host.pids()) == 1


async def test_a_missing_secret_is_told_each_time_and_opens_no_breaker(host: Host) -> None:
    host.stdio("raw", "raw_server.py", env={"TOKEN": "${env:RETINUE_TEST_NOT_SET}"})
    for _ in range(7):
        with pytest.raises(errors.SecretNotFoundError):
            await host.call("raw", "echo")
    (shown,) = (await host.servers.get("raw")).connections
    assert (shown.state, shown.failures) == (server_pb2.CONNECTION_STATE_FAILED, 0)


async def test_fifty_servers_start_side_by_side_and_bad_ones_harm_none(
    registry: Registry, tmp_path: Path
) -> None:
    async with open_host(registry, tmp_path) as host:
        good = [f"raw{number}" for number in range(46)]
        for name in good:
            host.stdio(name, "raw_server.py")
        host.stdio("mute", "raw_server.py", "mute", connect_timeout=Duration(seconds=60))
        host.stdio("dies", "raw_server.py", "dies")
        host.stdio("chatty", "raw_server.py", "garbage")
        host.stdio("floods", "raw_server.py")
        slow = asyncio.ensure_future(host.call("mute", "echo"))
        flood = asyncio.ensure_future(host.call("floods", "flood", '{"size": 100000000}'))
        dead = asyncio.ensure_future(host.call("dies", "echo"))
        said = await asyncio.gather(*(host.call(name, "echo", f'{{"text": "{name}"}}') for name in good))
        assert [each.content[0].text for each in said] == good
        assert not slow.done()
        assert (await host.call("chatty", "echo", '{"text": "on"}')).content[0].text == "on"
        with pytest.raises(errors.McpServerUnavailableError, match="No module named 'flux'"):
            await dead
        assert (await flood).content[0].text == "done"
        slow.cancel()


def test_a_connection_that_stood_for_long_forgets_the_failures_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    health = Health(ConnectionKey("default", "raw", 1, ""), Changes())
    died = errors.McpServerUnavailableError("it died")
    for _ in range(4):
        health.connecting()
        health.ready()
        health.failed(died)
    assert health.failures == 4
    monkeypatch.setattr(supervision, "SETTLED_S", 0.0)
    health.connecting()
    health.ready()
    health.failed(died)
    assert (health.state, health.failures, health.wait_s) == ("failed", 1, 0.0)


def test_the_backoff_doubles_with_jitter_up_to_its_longest() -> None:
    assert backoff_s(1) == 0
    for failures, longest in ((2, 0.5), (3, 1.0), (6, 8.0), (9, 30.0), (10_000, 30.0)):
        waits = {backoff_s(failures) for _ in range(20)}
        assert len(waits) > 1
        assert all(longest / 2 <= wait <= longest for wait in waits)
