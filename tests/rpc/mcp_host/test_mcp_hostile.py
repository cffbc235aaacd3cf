"""Servers that do what no server should: each harms itself alone."""

import asyncio
import time
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors

from .hosting import Host, Registry, alive, open_host, until, until_awaited
from .test_mcp_streams import open_stream

HUNDRED_MB = 100_000_000


async def longest_wait(host: Host, until_done: "asyncio.Future[Any]") -> float:
    """Call a good server until something else is done; the longest of its calls, in seconds."""
    longest = 0.0
    while not until_done.done():
        begin = time.monotonic()
        await host.call("good", "echo", '{"text": "near"}')
        longest = max(longest, time.monotonic() - begin)
    return longest


@pytest.fixture
async def good(host: Host) -> Host:
    """A host with a good server that is connected."""
    host.stdio("good", "raw_server.py")
    await host.call("good", "echo")
    return host


async def test_a_hundred_megabytes_in_one_line_are_skipped_and_the_answer_comes(
    good: Host,
) -> None:
    good.stdio("raw", "raw_server.py")
    call = asyncio.ensure_future(good.call("raw", "flood", f'{{"size": {HUNDRED_MB}}}'))
    assert await longest_wait(good, call) < 2
    assert (await call).content[0].text == "done"


async def test_a_flood_of_short_lines_is_read_slowly_and_the_neighbours_go_on(good: Host) -> None:
    good.stdio("raw", "raw_server.py", call_timeout=Duration(seconds=2))
    flood = f'{{"size": {HUNDRED_MB}, "line": 2}}'
    call = asyncio.ensure_future(good.call("raw", "flood", flood))
    assert await longest_wait(good, call) < 2
    with pytest.raises(errors.McpTimeoutError):
        await call


async def test_list_changed_in_a_loop_is_told_now_and_then(good: Host) -> None:
    good.stdio("raw", "raw_server.py")
    await good.call("raw", "echo")
    async with open_stream(good) as stream:
        begin = time.monotonic()
        await good.call("raw", "change_often", '{"times": 5000}')
        took_s = time.monotonic() - begin
        await stream.until(lambda: stream.changed, "it is told")
        assert len(stream.changed) <= 2 + took_s / 0.5
    assert (await good.call("raw", "echo", '{"text": "on"}')).content[0].text == "on"


async def test_a_server_that_closes_its_stdout_in_the_middle_is_gone(good: Host) -> None:
    good.stdio("raw", "raw_server.py")
    with pytest.raises(errors.McpServerUnavailableError, match="closed its stdout"):
        await good.call("raw", "hang_up")
    assert (await good.call("raw", "echo", '{"text": "again"}')).content[0].text == "again"


async def test_a_result_of_fifty_megabytes_fails_its_call_alone(good: Host) -> None:
    good.stdio("raw", "raw_server.py")
    with pytest.raises(errors.PayloadTooLargeError):
        await good.call("raw", "big", '{"size": 50000000}')
    assert (await good.call("raw", "echo", '{"text": "on"}')).content[0].text == "on"


async def test_beyond_its_queue_a_server_is_busy_and_a_cancel_makes_room(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=1, max_queued_calls=2)
    await host.call("raw", "echo")
    first, *waiting = [asyncio.ensure_future(host.call("raw", "hang")) for _ in range(3)]
    await until(lambda: host.lines("hanging"), "the first is with the server")

    async def queued(count: int) -> bool:
        return (await host.servers.get("raw")).connections[0].queued_calls == count

    await until_awaited(lambda: queued(2), "two wait")
    with pytest.raises(errors.McpServerBusyError, match="max_queued_calls") as caught:
        await host.call("raw", "echo")
    assert caught.value.facts["max_queued_calls"] == "2"
    waiting[0].cancel()
    await until_awaited(lambda: queued(1), "one has left")
    third = asyncio.ensure_future(host.call("raw", "echo", '{"text": "third"}'))
    waiting[1].cancel()
    first.cancel()
    assert (await third).content[0].text == "third"
    assert len(host.lines("hanging")) == 1


async def test_a_wait_for_a_turn_ends_with_the_call_timeout(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=1, call_timeout=Duration(nanos=500_000_000))
    calls = [host.call("raw", "hang"), host.call("raw", "hang")]
    outcomes = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(outcome) for outcome in outcomes} == {errors.McpTimeoutError}


async def test_a_process_that_kept_nothing_of_its_ancestors_ends_with_the_server(
    registry: Registry, tmp_path: Any
) -> None:
    async with open_host(registry, tmp_path) as host:
        host.stdio("raw", "raw_server.py", "escapes")
        host.stdio("died", "raw_server.py", "escapes")
        await host.call("raw", "echo")
        (first,) = host.pids("children")
        with pytest.raises(errors.McpServerUnavailableError):
            await host.call("died", "die")
        _, second = host.pids("children")
        await until(lambda: not alive(second), "what the dead server left is ended")
        assert alive(first)
    assert not alive(first)
