"""StreamToolCalls: many calls over one stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from retinue.common.v1 import error_pb2
from retinue.mcphost.v1 import service_pb2, tool_pb2

from .hosting import SOON_S, Host, until


class Stream:
    """A caller's side of one stream."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.responses: list[service_pb2.StreamToolCallsResponse] = []
        self.updates: list[service_pb2.ToolCallUpdate] = []
        self.changed: list[tuple[str, str]] = []

    async def read(self) -> None:
        """Take what comes, to the end."""
        async for response in self.call:
            self.responses.append(response)
            self.updates.extend(response.updates)
            self.changed.extend((each.namespace, each.server) for each in response.tools_changed)

    async def send(self, *commands: service_pb2.ToolCallCommand) -> None:
        """Send commands in one message."""
        await self.call.write(service_pb2.StreamToolCallsRequest(commands=commands))

    async def until(self, condition: Callable[[], Any], what: str) -> Any:
        """Wait for something to come."""
        return await until(condition, what)

    def ends(self, call_id: int) -> list[service_pb2.ToolCallUpdate]:
        """The last words about a call; there must be one of them."""
        return [
            update
            for update in self.updates
            if update.call_id == call_id and update.WhichOneof("update") != "progress"
        ]


def start(call_id: int, server: str, tool: str, arguments_json: str = "{}") -> service_pb2.ToolCallCommand:
    call = tool_pb2.ToolCall(server=tool_pb2.ServerRef(name=server), tool=tool, arguments_json=arguments_json)
    return service_pb2.ToolCallCommand(call_id=call_id, start=call)


def cancel(call_id: int) -> service_pb2.ToolCallCommand:
    return service_pb2.ToolCallCommand(call_id=call_id, cancel=service_pb2.CancelToolCall())


@asynccontextmanager
async def open_stream(host: Host) -> AsyncIterator[Stream]:
    call = host.stub.StreamToolCalls()
    stream = Stream(call)
    reading = asyncio.ensure_future(stream.read())
    await until(lambda: stream.responses, "the first response")
    assert stream.responses[0] == service_pb2.StreamToolCallsResponse()
    try:
        yield stream
    finally:
        await call.done_writing()
        async with asyncio.timeout(SOON_S):
            await reading


async def test_many_calls_each_end_in_one_result_and_travel_together(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=300)
    async with open_stream(host) as stream:
        commands = [
            start(number, "raw", "gather", f'{{"text": "{number}", "of": 300}}') for number in range(300)
        ]
        await stream.send(*commands)
        await stream.until(lambda: len(stream.updates) == 300, "all results")
        for number in range(300):
            (end,) = stream.ends(number)
            assert end.result.content[0].text == str(number)
        assert len(stream.responses) < 300
    assert len(host.pids()) == 1


async def test_progress_of_a_call_comes_before_its_result(host: Host) -> None:
    host.stdio("sdk", "sdk_server.py")
    async with open_stream(host) as stream:
        await stream.send(start(7, "sdk", "count", '{"to": 5}'))
        await stream.until(lambda: stream.ends(7), "the result")
        kinds = [update.WhichOneof("update") for update in stream.updates]
        assert kinds == ["progress"] * 5 + ["result"]


async def test_failures_are_updates_and_the_stream_goes_on(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with open_stream(host) as stream:
        await stream.send(
            start(1, "raw", "ecco"),
            start(2, "unknown", "echo"),
            start(3, "raw", "echo", "[]"),
            start(4, "", "echo"),
            service_pb2.ToolCallCommand(call_id=5),
            start(6, "raw", "echo", '{"text": "on"}'),
        )
        await stream.until(lambda: len(stream.updates) == 6, "all updates")
        reasons = [stream.ends(number)[0].failure.reason for number in range(1, 6)]
        assert reasons == [
            error_pb2.ERROR_REASON_MCP_TOOL_NOT_FOUND,
            error_pb2.ERROR_REASON_COMPONENT_NOT_FOUND,
            error_pb2.ERROR_REASON_INVALID_ARGUMENT,
            error_pb2.ERROR_REASON_INVALID_ARGUMENT,
            error_pb2.ERROR_REASON_INVALID_ARGUMENT,
        ]
        assert stream.ends(6)[0].result.content[0].text == "on"
        assert stream.ends(1)[0].failure.metadata["nearest"] == "echo"


async def test_cancel_reaches_the_server_and_ends_the_call_once(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with open_stream(host) as stream:
        await stream.send(start(1, "raw", "hang"))
        await until(lambda: host.lines("hanging"), "the call reached the server")
        await stream.send(cancel(1), cancel(1), cancel(99))
        (end,) = await stream.until(lambda: stream.ends(1), "the end of the call")
        assert end.failure.reason == error_pb2.ERROR_REASON_CANCELLED
        assert await until(lambda: host.lines("cancelled"), "the cancel reached the server") == host.lines(
            "hanging"
        )
        await stream.send(start(2, "raw", "echo"), cancel(2))
        (end,) = await stream.until(
            lambda: stream.ends(2), "the end of a call that was cancelled as it began"
        )
        assert end.failure.reason == error_pb2.ERROR_REASON_CANCELLED


async def test_a_number_that_is_started_twice_ends_once(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    async with open_stream(host) as stream:
        await stream.send(start(1, "raw", "hang"))
        await until(lambda: host.lines("hanging"), "the call reached the server")
        await stream.send(start(1, "raw", "echo"))
        await until(lambda: host.lines("cancelled"), "the first is cancelled")
        (end,) = await stream.until(lambda: stream.ends(1), "the end of both")
        assert end.failure.reason == error_pb2.ERROR_REASON_INVALID_ARGUMENT


async def test_more_calls_than_the_limit_are_refused(host: Host) -> None:
    host.stdio("raw", "raw_server.py", max_concurrent_calls=2000)
    async with open_stream(host) as stream:
        await stream.send(*(start(number, "raw", "hang") for number in range(1025)))
        (end,) = await stream.until(lambda: stream.ends(1024), "the one too many")
        assert end.failure.reason == error_pb2.ERROR_REASON_TOO_MANY_RUNS
        await until(lambda: len(host.lines("hanging")) == 1024, "the others are with the server")


@pytest.mark.parametrize("broken", [False, True])
async def test_the_end_of_the_stream_cancels_its_calls(host: Host, broken: bool) -> None:
    host.stdio("raw", "raw_server.py")
    call = host.stub.StreamToolCalls()
    stream = Stream(call)
    await stream.send(*(start(number, "raw", "hang") for number in range(3)))
    await until(lambda: len(host.lines("hanging")) == 3, "the calls are with the server")
    if broken:
        call.cancel()
    else:
        await call.done_writing()
        await stream.read()
        assert [len(stream.ends(number)) for number in range(3)] == [1, 1, 1]
    await until(lambda: len(host.lines("cancelled")) == 3, "the cancels reached the server")


async def test_tools_changed_is_pushed_for_list_changed_death_reconnect_and_version(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    change = ("default", "raw")
    async with open_stream(host) as stream, open_stream(host) as other:
        await host.call("raw", "rename")
        await stream.until(lambda: stream.changed == [change], "list_changed")
        await other.until(lambda: other.changed == [change], "list_changed on the other stream")
        stream.changed.clear()
        await stream.send(start(1, "raw", "die"))
        (end,) = await stream.until(lambda: stream.ends(1), "the failure")
        assert end.failure.reason == error_pb2.ERROR_REASON_MCP_SERVER_UNAVAILABLE
        assert "out of luck" in end.failure.metadata["stderr"]
        await stream.until(lambda: stream.changed == [change], "the death")
        stream.changed.clear()
        await host.call("raw", "echo")
        await stream.until(lambda: stream.changed == [change], "the new connection")
        stream.changed.clear()
        host.stdio("raw", "raw_server.py", env={"VERSION": "2"})
        await host.call("raw", "echo")
        await stream.until(lambda: change in stream.changed, "the new version")


async def test_a_connect_that_fails_tells_nobody_to_list_again(host: Host) -> None:
    host.stdio("bad", "raw_server.py", "dies")
    host.stdio("raw", "raw_server.py")
    async with open_stream(host) as stream:
        await stream.send(*(start(number, "bad", "echo") for number in range(3)))
        await stream.until(lambda: len(stream.updates) == 3, "the failures")
        await stream.send(start(4, "bad", "echo"), start(5, "raw", "rename"))
        await stream.until(lambda: stream.ends(4) and stream.ends(5), "the end of both")
        await stream.until(lambda: stream.changed, "the change of the other server")
    assert stream.changed == [("default", "raw")]
