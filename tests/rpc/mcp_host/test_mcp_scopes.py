"""Whose connection a call takes, and when it ends."""

import sys
from pathlib import Path
from typing import Any

from retinue.engine.v1 import event_pb2
from retinue.mcphost.v1 import resource_pb2, service_pb2, tool_pb2
from retinue.registry.v1 import mcp_server_pb2
from tests.suite import open_suite

from .hosting import SERVERS, Host, alive, until
from .test_mcp_streams import open_stream

SESSION = mcp_server_pb2.SERVER_SCOPE_SESSION
RUN = mcp_server_pb2.SERVER_SCOPE_RUN


async def pid(host: Host, server: str, **who: Any) -> int:
    """Which process answers a caller."""
    call = tool_pb2.ToolCall(server=tool_pb2.ServerRef(name=server), tool="pid", **who)
    (answer,) = [each async for each in host.stub.CallTool(service_pb2.CallToolRequest(call=call))]
    return int(answer.result.content[0].text)


async def test_a_run_tree_has_a_connection_of_its_own_where_the_scope_is_run(host: Host) -> None:
    host.stdio("raw", "raw_server.py", scope=RUN)
    first = await pid(host, "raw", run_id="child", root_run_id="root", session_id="s")
    assert await pid(host, "raw", run_id="root", session_id="t") == first
    other = await pid(host, "raw", run_id="other", session_id="s")
    assert other != first
    scopes = {each.scope_id for each in (await host.servers.get("raw")).connections}
    assert scopes == {"root", "other"}


async def test_the_runs_of_a_session_share_a_connection_and_one_without_has_its_own(host: Host) -> None:
    host.stdio("raw", "raw_server.py", scope=SESSION)
    first = await pid(host, "raw", run_id="a", session_id="s")
    assert await pid(host, "raw", run_id="b", session_id="s") == first
    assert await pid(host, "raw", run_id="c") != first
    assert {each.scope_id for each in (await host.servers.get("raw")).connections} == {"s", "c"}


async def test_a_list_of_tools_takes_the_callers_connection(host: Host) -> None:
    host.stdio("raw", "raw_server.py", scope=RUN)
    scope = resource_pb2.CallerScope(root_run_id="root")
    request = service_pb2.ListToolsRequest(servers=[tool_pb2.ServerRef(name="raw")], scope=scope)
    assert (await host.stub.ListTools(request)).tools
    (connection,) = (await host.servers.get("raw")).connections
    assert connection.scope_id == "root"


async def test_the_end_of_a_scope_ends_its_connections_and_no_other(host: Host) -> None:
    host.stdio("mine", "raw_server.py", scope=RUN)
    host.stdio("all", "raw_server.py")
    gone = await pid(host, "mine", run_id="over")
    stays = [await pid(host, "mine", run_id="other"), await pid(host, "all", run_id="over")]
    async with open_stream(host) as stream:
        scope = service_pb2.CloseScope(scope_id="over")
        await stream.send(service_pb2.ToolCallCommand(close_scope=scope))
        await until(lambda: not alive(gone), "the process of the scope has ended")
    assert all(map(alive, stays))
    assert {each.scope_id for each in (await host.servers.get("mine")).connections} == {"other"}
    assert not stream.updates


def answers(story: list[event_pb2.RunEvent]) -> dict[str, set[int]]:
    """Which processes answered a run's calls, by server."""
    servers = {
        each.tool_call_started.call_id: each.tool_call_started.server
        for each in story
        if each.HasField("tool_call_started")
    }
    found: dict[str, set[int]] = {}
    for each in story:
        if each.HasField("tool_call_completed"):
            completed = each.tool_call_completed
            found.setdefault(servers[completed.call_id], set()).add(int(completed.text))
    return found


async def test_the_runs_of_an_engine_have_connections_of_their_own_that_end_with_them(tmp_path: Path) -> None:
    servers = {
        name: {
            "stdio": {
                "command": sys.executable,
                "args": [str(SERVERS / "raw_server.py")],
                "env": {"TEST_FOLDER": str(tmp_path)},
            },
            "scope": scope,
        }
        for name, scope in (("mine", "run"), ("ours", "session"))
    }
    calls = {"tool_calls": [{"name": "mine__pid"}, {"name": "ours__pid"}]}
    agents = {"a": {"mcp_servers": ["mine", "ours"]}}
    script = {"turns": [calls, calls, {"text": "done"}] * 2}
    async with open_suite(tmp_path, script, agents=agents, mcp_servers=servers) as suite:
        first = answers(await suite.story(session_id="s"))
        (mine,), (ours,) = first["mine"], first["ours"]
        await until(lambda: not alive(mine), "the connection of the run has ended with it")
        second = answers(await suite.story(session_id="s"))
        assert second["ours"] == {ours}
        assert len(second["mine"]) == 1
        assert second["mine"] != {mine}
