"""What breaks under a run: a host that hangs, a definition that cannot be read, a store that cannot."""

import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from retinue.common.v1 import error_pb2
from retinue.engine.v1 import run_pb2
from retinue.errors import StoreUnavailableError
from retinue.mcphost.v1 import service_pb2, service_pb2_grpc, tool_pb2
from retinue_engine.stores.sqlite.store import open_sqlite_store
from tests.suite import Suite, check_story, open_suite, stdio_server

OpenSuite = Callable[..., Awaitable[Suite]]


class SilentHost(service_pb2_grpc.McpHostServiceServicer):
    """A host that lists a tool, takes calls of it, and never answers one."""

    async def ListTools(self, _request: service_pb2.ListToolsRequest, _context: Any) -> Any:  # noqa: N802
        tool = tool_pb2.Tool(server="tools", name="x", display_name="tools__x", input_schema_json="{}")
        return service_pb2.ListToolsResponse(tools=[tool])

    async def StreamToolCalls(self, requests: AsyncIterator[Any], _context: Any) -> AsyncIterator[Any]:  # noqa: N802
        yield service_pb2.StreamToolCallsResponse()
        async for _ in requests:
            pass


async def test_a_call_is_given_up_where_the_host_says_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retinue_engine.convert_definition.HOST_GRACE_S", 0.1)
    server = grpc.aio.server()
    service_pb2_grpc.add_McpHostServiceServicer_to_server(SilentHost(), server)
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    await server.start()
    try:
        script = {"turns": [{"tool_calls": [{"name": "tools__x"}]}, {"text": "so be it"}]}
        servers = {"tools": stdio_server(tmp_path, connect_timeout="0.1s", call_timeout="0.1s")}
        agents = {"b": {"mcp_servers": ["tools"]}}
        async with open_suite(
            tmp_path, script, agents=agents, mcp_servers=servers, host_address=address
        ) as suite:
            events = await suite.story("b")
    finally:
        await server.stop(0)
    check_story(events)
    (ended,) = [e.tool_call_completed for e in events if e.WhichOneof("event") == "tool_call_completed"]
    assert ended.error.reason == error_pb2.ERROR_REASON_MCP_TIMEOUT
    assert events[-1].run_finished.result.output == "so be it"


async def test_a_run_whose_definition_cannot_be_read_fails_and_is_not_left_lying(tmp_path: Path) -> None:
    async with open_suite(tmp_path, {"default": {"hang": True}}) as suite:
        run = await suite.client.runs.start("a", "hi")
    with sqlite3.connect(tmp_path / "engine" / "engine.db") as connection:
        connection.execute("UPDATE runs SET definition = ?", (b"\xff\xff",))
    connection.close()
    async with open_suite(tmp_path) as suite:
        ended = await suite.ended(run.run_id)
        check_story(await suite.watched(run.run_id))
    assert ended.state == run_pb2.RUN_STATE_FAILED
    assert ended.result.error.reason == error_pb2.ERROR_REASON_INTERNAL


async def test_a_store_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "engine.db"
    async with open_sqlite_store(path) as store:
        with sqlite3.connect(path) as connection:
            connection.execute("ALTER TABLE runs RENAME TO elsewhere")
        connection.close()
        with pytest.raises(StoreUnavailableError):
            await store.get_run("default", "run-1")
