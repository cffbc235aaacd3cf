"""Listing and calling tools of real stdio servers."""

import asyncio
import json
from pathlib import Path

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue import errors
from retinue.common.v1 import error_pb2
from retinue.mcphost.v1 import service_pb2, tool_pb2
from retinue.registry.v1 import mcp_server_pb2

from .hosting import Host, Registry, open_host, until


async def test_tools_are_listed_with_schemas_hints_and_display_names(host: Host) -> None:
    host.stdio("sdk", "sdk_server.py")
    tools, failures = await host.list_tools("sdk")
    by_name = {tool.name: tool for tool in tools}
    assert not failures
    assert list(by_name) == ["echo", "add", "fail", "picture", "pid", "count", "wait"]
    assert by_name["echo"].display_name == "sdk__echo"
    assert by_name["echo"].description == "Say it again."
    assert json.loads(by_name["echo"].input_schema_json)["properties"]["text"]["type"] == "string"
    assert json.loads(by_name["add"].output_schema_json)["required"] == ["total"]


async def test_a_call_answers_with_text_structure_image_or_the_tools_own_error(host: Host) -> None:
    host.stdio("sdk", "sdk_server.py")
    assert (await host.call("sdk", "echo", '{"text": "hé\\n"}')).content[0].text == "hé\n"
    assert json.loads((await host.call("sdk", "add", '{"a": 1, "b": 3}')).structured_json) == {"total": 4}
    picture = (await host.call("sdk", "picture")).content[0].blob
    assert (picture.mime_type, picture.data) == ("image/png", b"\x89PNG picture")
    failed = await host.call("sdk", "fail", '{"why": "no luck"}')
    assert failed.is_error
    assert failed.content[0].text


async def test_progress_comes_in_order_before_the_result(host: Host) -> None:
    host.stdio("sdk", "sdk_server.py")
    *progress, last = await host.updates("sdk", "count", '{"to": 20}')
    assert [update.progress.progress for update in progress] == list(range(1, 21))
    assert (progress[4].progress.total, progress[4].progress.message) == (20, "step 5")
    assert last.result.content[0].text == "done"


async def test_fifty_callers_at_once_start_one_process(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    calls = [host.call("raw", "echo", json.dumps({"text": str(number)})) for number in range(50)]
    results = await asyncio.gather(*calls)
    assert [result.content[0].text for result in results] == [str(number) for number in range(50)]
    assert len(host.pids()) == 1
    assert len(host.lines("lists")) == 1


async def test_no_more_connections_are_open_than_allowed(registry: Registry, tmp_path: Path) -> None:
    async with open_host(registry, tmp_path, max_connections=1) as host:
        host.stdio("raw", "raw_server.py")
        host.stdio("sdk", "sdk_server.py")
        await host.call("raw", "echo", '{"text": "a"}')
        with pytest.raises(errors.McpServerUnavailableError, match="RETINUE_MAX_CONNECTIONS"):
            await host.call("sdk", "echo", '{"text": "b"}')
        await host.call("raw", "echo", '{"text": "c"}')


async def test_an_unknown_tool_names_the_nearest(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    with pytest.raises(errors.McpToolNotFoundError, match="did you mean echo") as caught:
        await host.call("raw", "ecco")
    assert caught.value.facts == {"server": "raw", "tool": "ecco", "nearest": "echo"}


@pytest.mark.parametrize("arguments", ["[1]", "{", "null", '{"a": NaN}'])
async def test_arguments_that_are_no_json_object_are_refused(host: Host, arguments: str) -> None:
    host.stdio("raw", "raw_server.py")
    with pytest.raises(errors.InvalidArgumentError, match="JSON"):
        await host.call("raw", "echo", arguments)
    assert not host.pids()


async def test_arguments_keep_every_digit_and_may_have_line_ends(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    result = await host.call("raw", "echo", '{\n "text": "12345678901234567890123",\r\n "more": 1}')
    assert result.content[0].text == "12345678901234567890123"
    answer = await host.call("raw", "meta", '{"big": 9007199254740993}')
    assert json.loads(answer.structured_json) == {"raw": {"big": 9007199254740993}}


async def test_a_list_of_several_pages_is_read_whole(host: Host) -> None:
    host.stdio("raw", "raw_server.py", "pages")
    tools, _ = await host.list_tools("raw")
    assert [tool.name for tool in tools] == [
        *("echo", "gather", "hang", "big", "bad_bytes", "die", "env", "rename", "meta", "twice", "refuse"),
        *("pid", "flood", "change_often", "hang_up", "complain", "ask"),
        *("ask_back", "ask_late", "ask_hugely", "take_back", "rounds", "crooked"),
    ]


async def test_a_crooked_tool_does_not_cost_the_list(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    tools, failures = await host.list_tools("raw")
    assert not failures
    assert [tool.input_schema_json for tool in tools if tool.name == "crooked"] == ["{}"]
    assert all(tool.name for tool in tools)


async def test_a_list_that_goes_in_a_circle_is_a_protocol_error(host: Host) -> None:
    host.stdio("raw", "raw_server.py", "circle")
    _, failures = await host.list_tools("raw")
    assert failures[0].failure.reason == error_pb2.ERROR_REASON_MCP_PROTOCOL_ERROR


async def test_servers_are_listed_side_by_side_and_a_bad_one_harms_no_other(host: Host) -> None:
    host.stdio("good", "raw_server.py")
    host.stdio("bad", "raw_server.py", "dies")
    tools, failures = await host.list_tools("bad", "good", "unknown")
    assert {tool.server for tool in tools} == {"good"}
    reasons = {failure.server: failure.failure.reason for failure in failures}
    assert reasons == {
        "bad": error_pb2.ERROR_REASON_MCP_SERVER_UNAVAILABLE,
        "unknown": error_pb2.ERROR_REASON_COMPONENT_NOT_FOUND,
    }
    assert "No module named 'flux'" in failures[0].failure.metadata["stderr"]


async def test_lists_come_in_pages_that_lose_nothing(host: Host) -> None:
    host.stdio("one", "raw_server.py")
    host.stdio("two", "raw_server.py")
    host.stdio("bad", "raw_server.py", "dies")
    servers = [tool_pb2.ServerRef(name=name) for name in ("one", "bad", "two")]
    whole, _ = await host.tools.list(servers)
    found, failures, token = [], [], ""
    while True:
        request = service_pb2.ListToolsRequest(servers=servers, page_size=4, page_token=token)
        page = await host.stub.ListTools(request)
        assert len(page.tools) <= 4
        found.extend(page.tools)
        failures.extend(page.failures)
        token = page.next_page_token
        if not token:
            break
    assert found == whole
    assert len(failures) == 1


async def test_the_idempotency_key_reaches_the_server(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    result = await host.call("raw", "meta", idempotency_key="run-1:7")
    assert json.loads(result.content[0].text)["retinue/idempotencyKey"] == "run-1:7"


async def test_cancelling_the_rpc_cancels_the_request_at_the_server(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    call = asyncio.ensure_future(host.call("raw", "hang"))
    hanging = await until(lambda: host.lines("hanging"), "the call reached the server")
    call.cancel()
    assert await until(lambda: host.lines("cancelled"), "the cancel reached the server") == hanging
    assert (await host.call("raw", "echo", '{"text": "on"}')).content[0].text == "on"


async def test_a_call_that_takes_too_long_is_cancelled_and_says_what_to_raise(host: Host) -> None:
    host.stdio("raw", "raw_server.py", call_timeout=Duration(nanos=200_000_000))
    with pytest.raises(errors.McpTimeoutError, match="call_timeout") as caught:
        await host.call("raw", "hang")
    assert caught.value.facts["timeout_s"] == "0.2"
    assert await until(lambda: host.lines("cancelled"), "the cancel reached the server")


async def test_results_beyond_the_limit_are_cut_and_say_so(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    result = await host.call("raw", "big", '{"size": 2000000}')
    assert len(result.content[0].text) == 1024 * 1024
    assert "2000000 bytes" in result.content[1].text


async def test_the_list_is_asked_for_again_when_the_server_says_that_it_changed(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    await host.list_tools("raw")
    await host.call("raw", "rename")
    tools, _ = await host.list_tools("raw")
    assert tools[0].name == "shout"
    assert len(host.lines("lists")) == 2


async def test_requests_of_the_server_are_answered_ping_and_unknown(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    answers = json.loads((await host.call("raw", "ask")).content[0].text)
    assert answers["ping-0"] == {}
    assert answers["roots/wonder-1"]["code"] == -32601


async def test_a_second_answer_and_one_that_nobody_waits_for_are_ignored(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    assert (await host.call("raw", "twice")).content[0].text == "first"
    assert (await host.call("raw", "echo", '{"text": "third"}')).content[0].text == "third"


async def test_what_a_server_refuses_comes_out_with_its_code(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    with pytest.raises(errors.McpRequestRefusedError, match="size must be a number") as caught:
        await host.call("raw", "refuse")
    assert caught.value.facts == {"server": "raw", "code": "-32602"}


async def test_a_tool_that_asks_back_is_a_protocol_error(host: Host) -> None:
    host.stdio("raw", "raw_server.py")
    with pytest.raises(errors.McpProtocolError, match="input_required"):
        await host.call("raw", "ask_back")


@pytest.mark.parametrize("ways", [("modern",), ("modern", "by-its-headers")])
async def test_a_server_that_is_too_new_for_the_handshake_is_spoken_to_in_its_revision(
    host: Host, ways: tuple[str, ...]
) -> None:
    host.stdio("raw", "raw_server.py", *ways)
    _, failures = await host.list_tools("raw")
    assert not failures
    asked = json.loads((await host.call("raw", "meta", idempotency_key="k")).content[0].text)
    assert asked["io.modelcontextprotocol/protocolVersion"] == "2026-07-28"
    assert asked["io.modelcontextprotocol/clientInfo"]["name"] == "retinue"
    assert asked["retinue/idempotencyKey"] == "k"


async def test_a_component_without_transport_is_invalid(host: Host) -> None:
    host.registry.put("empty", mcp_server_pb2.McpServerSpec())
    with pytest.raises(errors.ComponentInvalidError, match="transport"):
        await host.call("empty", "x")


async def test_an_exact_version_is_asked_of_the_registry_once(host: Host) -> None:
    version = host.stdio("raw", "raw_server.py")
    server = tool_pb2.ServerRef(name="raw", version=version)
    for _ in range(3):
        await host.tools.list([server])
    assert host.registry.asked == 1


async def test_a_real_time_server_is_found_beside_python_and_tells_the_time(host: Host) -> None:
    host.stdio("time", "mcp-server-time", "--local-timezone", "Europe/Berlin", env={"PATH": "/nowhere"})
    tools, failures = await host.list_tools("time")
    assert not failures
    assert [tool.name for tool in tools] == ["get_current_time", "convert_time"]
    result = await host.call("time", "get_current_time", '{"timezone": "Asia/Tokyo"}')
    assert json.loads(result.content[0].text)["timezone"] == "Asia/Tokyo"
