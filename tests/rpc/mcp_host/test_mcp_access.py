"""Which tools a caller has, in lists and in calls; tools that lie about their results; what servers log."""

import json
from fnmatch import fnmatchcase
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue import errors
from retinue.mcphost.v1 import server_pb2, service_pb2, tool_pb2
from retinue_engine.definition import Server
from retinue_engine.definition import ToolAccess as AgentAccess
from retinue_engine.definition import ToolSelector as AgentSelector
from retinue_engine.host.toolbox import open_host_toolbox
from retinue_engine.tools import Tool, ToolRequest
from retinue_mcp_host.calls.access import ToolAccess, ToolSelector, is_allowed

from .hosting import Host, serve_http

NAMES = st.text("ab[*", min_size=1, max_size=3)
SELECTORS = st.lists(
    st.builds(ToolSelector, st.sampled_from(["", "a", "b"]), st.text("ab*?", max_size=3)), max_size=3
)


def access(allowed: list[dict[str, str]] | None = None, **more: Any) -> tool_pb2.ToolAccess:
    return tool_pb2.ToolAccess(allowed=allowed or [], **more)


@given(st.builds(tuple, SELECTORS), st.builds(tuple, SELECTORS), st.sampled_from("ab"), NAMES)
def test_a_tool_is_had_where_something_allows_it_and_nothing_excludes_it(
    allowed: tuple[ToolSelector, ...], excluded: tuple[ToolSelector, ...], server: str, tool: str
) -> None:
    def fits(selector: ToolSelector) -> bool:
        pattern = (selector.tool or "*").replace("[", "[[]")
        return selector.server in ("", server) and fnmatchcase(tool, pattern)

    expected = (not allowed or any(map(fits, allowed))) and not any(map(fits, excluded))
    assert is_allowed(ToolAccess(allowed, excluded), server, tool) == expected


def test_a_bracket_in_a_pattern_stands_for_itself() -> None:
    only = ToolAccess((ToolSelector("", "a[b]*"),))
    assert is_allowed(only, "s", "a[b]c")
    assert not is_allowed(only, "s", "abc")


async def test_one_rule_decides_what_is_listed_and_what_is_called(host: Host) -> None:
    host.stdio("sdk", "sdk_server.py")
    host.stdio("raw", "raw_server.py", "pages")
    rule = access([{"server": "sdk", "tool": "*d*"}, {"tool": "e???"}], excluded=[{"server": "raw"}])
    refs = [tool_pb2.ServerRef(name=name) for name in ("sdk", "raw")]
    everything, _ = await host.tools.list(refs)
    listed, failures = await host.tools.list(refs, access=rule)
    assert not failures
    assert [(tool.server, tool.name) for tool in listed] == [("sdk", "echo"), ("sdk", "add"), ("sdk", "pid")]
    for tool in everything:
        is_listed = tool in listed
        called = host.tools.call(tool.server, tool.name, '{"text": "x", "a": 1, "b": 2}', access=rule)
        if is_listed:
            assert [update async for update in called]
        else:
            with pytest.raises(errors.McpToolNotAllowedError) as caught:
                await anext(called)
            assert caught.value.facts == {"server": tool.server, "tool": tool.name}
    assert not host.lines("hanging")


async def test_a_call_of_an_engine_carries_its_agents_rule(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    rule = AgentAccess(excluded=(AgentSelector("raw", "ec*"),))
    tool = Tool(Server("raw", 1, 10.0), "echo", read_only=True, idempotent=True, access=rule)
    async with open_host_toolbox(host.channel) as toolbox:
        with pytest.raises(errors.McpToolNotAllowedError):
            await toolbox.call_tool(ToolRequest("default", tool, "{}", "key", "run"), lambda *_: None)
        listed = await toolbox.list_tools("default", [tool.server], rule)
    assert "raw__meta" in listed.by_name
    assert "raw__echo" not in listed.by_name


async def test_pages_go_on_where_tools_are_left_out(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    request = {"servers": [{"name": "raw"}], "page_size": 1, "access": access(excluded=[{"tool": "*_*"}])}
    names, token = [], ""
    while True:
        page = await host.stub.ListTools(service_pb2.ListToolsRequest(**request, page_token=token))
        names += [tool.name for tool in page.tools]
        assert len(page.tools) <= 1
        token = page.next_page_token
        if not token:
            break
    everything, _ = await host.list_tools("raw")
    assert names == [tool.name for tool in everything if "_" not in tool.name]


async def test_tools_are_listed_by_the_labels_of_their_servers(host: Host) -> None:
    host.stdio("one", "raw_server.py", labels={"team": "a", "tier": "1"})
    host.stdio("two", "raw_server.py", labels={"team": "a"})
    host.stdio("three", "raw_server.py", labels={"team": "b"})
    listed, _ = await host.tools.list(labels={"team": "a"})
    assert {tool.server for tool in listed} == {"one", "two"}
    listed, _ = await host.tools.list(labels={"team": "a", "tier": "1"})
    assert {tool.server for tool in listed} == {"one"}
    assert await host.tools.list(labels={"team": "none"}) == ([], [])
    with pytest.raises(errors.InvalidArgumentError, match="or give labels"):
        await host.tools.list([tool_pb2.ServerRef(name="one")], labels={"team": "a"})


OUTPUTS = {
    "honest": {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    "broken": {"type": "nonsense"},
    "remote": {"$ref": "https://example.com/schema.json"},
    "slow": {"properties": {"text": {"pattern": "^(a+)+$"}}},
    "endless": {
        "$ref": "#/$defs/a0",
        "$defs": {
            **{f"a{n}": {"allOf": [{"$ref": f"#/$defs/a{n + 1}"}] * 2} for n in range(40)},
            "a40": {"type": "object"},
        },
    },
    "circular": {"$ref": "#"},
    "unique": {"properties": {"list": {"uniqueItems": True}}},
}


@pytest.mark.parametrize(
    ("tool", "structured", "complaint"),
    [
        ("honest", {"n": 1}, ""),
        ("honest", {"n": "one"}, r"\['n'\]: 'one' is not of type 'integer'"),
        ("honest", {}, "'n' is a required property"),
        ("honest", None, ""),
        ("broken", {"n": 1}, ""),
        ("remote", {"n": 1}, ""),
        ("slow", {"text": "a" * 60 + "!"}, ""),
        ("endless", {"n": 1}, ""),
        ("circular", {"n": 1}, ""),
        ("unique", {"list": [{"n": 1, "m": 2}, {"m": 2, "n": 1}]}, "not unique"),
    ],
)
async def test_a_structured_result_fits_its_schema_or_is_a_protocol_error(
    host: Host, tool: str, structured: Any, complaint: str
) -> None:
    tools = [{"name": name, "inputSchema": {}, "outputSchema": schema} for name, schema in OUTPUTS.items()]
    host.stdio("lying", "lying_server.py", json.dumps(tools))
    listed, _ = await host.list_tools("lying")
    assert [each.name for each in listed] == list(OUTPUTS)
    for _ in range(2):
        if complaint:
            with pytest.raises(errors.McpProtocolError, match=complaint):
                await host.call("lying", tool, json.dumps({"structured": structured}))
        else:
            result = await host.call("lying", tool, json.dumps({"structured": structured}))
            assert json.loads(result.structured_json or "null") == structured


async def test_links_sound_and_files_of_a_result_are_passed_on(host: Host) -> None:
    host.stdio("lying", "lying_server.py", '[{"name": "any"}]')
    content = [
        {"type": "resource_link", "uri": "file:///a.txt", "name": "a", "mimeType": "text/plain"},
        {"type": "audio", "data": "AAE=", "mimeType": "audio/wav"},
        {"type": "resource", "resource": {"uri": "file:///b", "blob": "AAE=", "mimeType": "a/b"}},
        {"type": "resource", "resource": {"uri": "file:///c", "text": "c"}},
    ]
    link, sound, blob, text = (await host.call("lying", "any", json.dumps({"content": content}))).content
    assert (link.link.uri, link.link.name, link.link.mime_type) == ("file:///a.txt", "a", "text/plain")
    assert (sound.blob.mime_type, sound.blob.data) == ("audio/wav", b"\0\1")
    assert (blob.blob.mime_type, blob.blob.data) == ("a/b", b"\0\1")
    assert (text.blob.mime_type, text.blob.data) == ("text/plain", b"c")


async def test_what_a_server_logs_by_mcp_is_kept_and_its_level_asked_for(host: Host) -> None:
    host.stdio("docs", "content_server.py")
    messages = [
        {"level": "warning", "logger": "disk", "data": "full"},
        {"level": "error", "data": {"code": 7}},
        {"level": "loud", "data": "x" * 100_000},
        {"level": 5},
    ]
    await host.call("docs", "log", json.dumps({"messages": messages}))
    assert host.lines("setLevel") == ["info"]
    kept = [
        (entry.logger, entry.message)
        async for response in host.servers.log("docs", level=server_pb2.LOG_LEVEL_WARNING)
        for entry in response.entries
        if entry.level
    ]
    assert kept == [("disk", "full"), ("", '{"code":7}')]


async def test_a_json_answer_over_http_is_not_read_without_end(host: Host) -> None:
    async with serve_http("content_http.py") as (url, _):
        host.http("web", url)
        with pytest.raises(errors.PayloadTooLargeError, match="longer than"):
            await host.call("web", "big")
        assert (await host.call("web", "small")).content[0].text == "small"
