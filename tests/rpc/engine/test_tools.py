"""Tool calls of a run, through a real MCP host to a real server: side by side, and whatever happens told."""

import json
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.engine.v1.event_pb2 import (
    TOOL_CALL_OUTCOME_CALL_FAILED,
    TOOL_CALL_OUTCOME_SUCCEEDED,
    TOOL_CALL_OUTCOME_TOOL_ERROR,
)
from tests.suite import Suite, check_story, kinds, stdio_server

OpenSuite = Callable[..., Awaitable[Suite]]


def call(name: str, arguments: Any = None, **more: Any) -> dict[str, Any]:
    return {"name": f"tools__{name}", "arguments": {} if arguments is None else arguments, **more}


async def with_calls(
    opened: OpenSuite, folder: Path, calls: Sequence[dict[str, Any]], *, server: Any = None, **agent: Any
) -> Suite:
    """A suite whose model makes calls, and then says `done: ` and the last result."""
    script = {"turns": [{"tool_calls": list(calls)}, {"text": "done: {last_tool}", "chunk_size": 1000}]}
    return await opened(
        script,
        agents={"b": {"mcp_servers": ["tools"], **agent}},
        mcp_servers={"tools": server or stdio_server(folder)},
    )


def completed(events: list[event_pb2.RunEvent]) -> list[event_pb2.ToolCallCompleted]:
    return [e.tool_call_completed for e in events if e.WhichOneof("event") == "tool_call_completed"]


def started(events: list[event_pb2.RunEvent]) -> list[event_pb2.ToolCallStarted]:
    return [e.tool_call_started for e in events if e.WhichOneof("event") == "tool_call_started"]


def told(suite: Suite) -> list[str]:
    """What the model was told of its calls, in order."""
    messages = suite.model.requests[-1]["messages"]
    asked = [each["id"] for each in messages[-1 - sum(m["role"] == "tool" for m in messages)]["tool_calls"]]
    results = [each for each in messages if each["role"] == "tool"]
    assert [each["tool_call_id"] for each in results] == asked
    return [each["content"] for each in results]


async def test_a_tool_is_shown_called_and_its_result_told(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, [call("count", {"n": 12345678901234567890}, id="c1")])
    events = await suite.story("b")
    check_story(events)
    shown = {each["function"]["name"]: each["function"] for each in suite.model.requests[0]["tools"]}
    assert shown["tools__count"]["parameters"] == {"type": "object"}
    assert shown["tools__count"]["description"] == "The tool count."
    (start,), (end,) = started(events), completed(events)
    assert (start.call_id, start.server, start.tool) == ("c1", "tools", "count")
    assert json.loads(start.arguments_json) == {"n": 12345678901234567890}
    assert start.idempotency_key == f"{events[0].run_id}:1:c1"
    assert (end.call_id, end.outcome, end.text) == ("c1", TOOL_CALL_OUTCOME_SUCCEEDED, "ok")
    assert end.duration.ToNanoseconds() > 0
    (effect,) = suite.notes()
    assert (effect["key"], effect["arguments"]) == (start.idempotency_key, {"n": 12345678901234567890})
    assert told(suite) == ["ok"]
    result = events[-1].run_finished.result
    assert (result.output, result.turns, result.tool_calls) == ("done: ok", 2, 1)
    paths = [event.path for event in events[1:-1]]
    assert paths == sorted(paths)
    assert set(paths) == {"turn:1", "turn:2"}


async def test_calls_of_one_turn_run_side_by_side(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, [call("meet", {"of": 5})] * 5)
    await suite.story("b")
    assert told(suite) == ["met 5"] * 5


@pytest.mark.parametrize(("agent", "option", "most"), [({"tool_concurrency": 1}, None, 1), ({}, 2, 2)])
async def test_no_more_calls_run_side_by_side_than_allowed(
    opened: OpenSuite, tmp_path: Path, agent: dict[str, int], option: int | None, most: int
) -> None:
    suite = await with_calls(opened, tmp_path, [call("meet", {"of": most + 1, "within_s": 0.2})] * 4, **agent)
    await suite.story("b", options=run_pb2.RunOptions(tool_concurrency=option))
    assert max(int(each.removeprefix("met ")) for each in told(suite)) == most


async def test_a_call_that_waits_for_its_place_is_not_on_record_as_begun(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_calls(opened, tmp_path, [call("count")] * 3, tool_concurrency=1)
    events = await suite.story("b")
    calls = [kind for kind in kinds(events) if kind and kind.startswith("tool_call")]
    assert calls == ["tool_call_started", "tool_call_completed"] * 3


async def test_what_is_wrong_with_a_call_is_told_and_the_run_goes_on(
    opened: OpenSuite, tmp_path: Path
) -> None:
    calls = [
        call("count", "{not json"),
        call("count", "[1, 2]"),
        call("count", '{"a": ' + "[" * 100_000),
        {"name": "no_such_tool"},
        call("fail"),
        call("count", ""),
        call("count", '{"a": NaN}'),
    ]
    suite = await with_calls(opened, tmp_path, calls)
    events = await suite.story("b")
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    texts = told(suite)
    assert "not valid JSON" in texts[0]
    assert "not a JSON object" in texts[1]
    assert "not valid JSON" in texts[2]
    assert "no tool 'no_such_tool'" in texts[3]
    assert "tools__count" in texts[3]
    assert texts[4:6] == ["the tool is out of order", "ok"]
    assert "JSON" in texts[6]
    ends = {each.call_id: each for each in completed(events)}
    ordered = [ends[each.call_id] for each in started(events)]
    assert [each.outcome for each in ordered] == [
        *[TOOL_CALL_OUTCOME_CALL_FAILED] * 4,
        TOOL_CALL_OUTCOME_TOOL_ERROR,
        TOOL_CALL_OUTCOME_SUCCEEDED,
        TOOL_CALL_OUTCOME_CALL_FAILED,
    ]
    assert [each.error.reason for each in ordered[:4]] == [
        *[pb.ERROR_REASON_INVALID_ARGUMENT] * 3,
        pb.ERROR_REASON_MCP_TOOL_NOT_FOUND,
    ]
    assert (started(events)[3].server, started(events)[3].tool) == ("", "no_such_tool")
    assert len(suite.notes()) == 1


async def test_two_calls_with_one_id_are_two_calls(opened: OpenSuite, tmp_path: Path) -> None:
    calls = [call("count", {"n": 1}, id="same"), call("count", {"n": 2}, id="same")]
    suite = await with_calls(opened, tmp_path, calls)
    events = await suite.story("b")
    assert len({each.call_id for each in started(events)}) == 2
    assert sorted(each["arguments"]["n"] for each in suite.notes()) == [1, 2]
    assert len({each["key"] for each in suite.notes()}) == 2
    assert told(suite) == ["ok", "ok"]


async def test_a_tool_that_takes_too_long_is_cancelled_and_the_model_told(
    opened: OpenSuite, tmp_path: Path
) -> None:
    server = stdio_server(tmp_path, call_timeout="300ms")
    suite = await with_calls(opened, tmp_path, [call("hang"), call("count")], server=server)
    events = await suite.story("b")
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    slow = next(each for each in completed(events) if each.outcome == TOOL_CALL_OUTCOME_CALL_FAILED)
    assert slow.error.reason == pb.ERROR_REASON_MCP_TIMEOUT
    assert "0.3 s" in told(suite)[0]
    assert told(suite)[1] == "ok"
    assert len(suite.notes("cancelled")) == 1


async def test_a_server_that_dies_in_a_call_is_told_with_its_last_words(
    opened: OpenSuite, tmp_path: Path
) -> None:
    script = {
        "turns": [{"tool_calls": [call("die")]}, {"tool_calls": [call("count")]}, {"text": "{last_tool}"}],
    }
    suite = await opened(
        script, agents={"b": {"mcp_servers": ["tools"]}}, mcp_servers={"tools": stdio_server(tmp_path)}
    )
    events = await suite.story("b")
    died, counted = completed(events)
    assert died.error.reason == pb.ERROR_REASON_MCP_SERVER_UNAVAILABLE
    assert "out of luck" in died.text
    assert counted.outcome == TOOL_CALL_OUTCOME_SUCCEEDED


async def test_a_server_that_will_not_start_fails_the_run_with_its_stderr(
    opened: OpenSuite, tmp_path: Path
) -> None:
    server = stdio_server(tmp_path)
    server["stdio"]["args"].append("dies")
    suite = await opened(agents={"b": {"mcp_servers": ["tools"]}, "good": {}}, mcp_servers={"tools": server})
    events = await suite.story("b")
    check_story(events)
    error = events[-1].run_finished.result.error
    assert error.reason == pb.ERROR_REASON_MCP_SERVER_UNAVAILABLE
    assert "No module named 'flux'" in error.metadata["stderr"]
    assert "No module named 'flux'" in error.message
    assert (await suite.result("good")).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_progress_is_shown_in_order_and_long_words_are_cut(opened: OpenSuite, tmp_path: Path) -> None:
    calls = [call("steps", {"to": 20}), call("steps", {"to": 1, "say": "long", "times": 500_000})]
    suite = await with_calls(opened, tmp_path, calls)
    events = await suite.story("b")
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    first = started(events)[0].call_id
    seen = [e.tool_call_progress for e in events if e.WhichOneof("event") == "tool_call_progress"]
    mine = [each for each in seen if each.call_id == first]
    assert [each.progress for each in mine] == list(range(1, 21))
    assert {(each.total, each.message) for each in mine} == {(20, "step")}
    assert all(len(each.message) <= 4096 for each in seen)


@pytest.mark.parametrize(("of", "size"), [("x", 900_000), ("€", 300_000), ("𝄞", 250_000)])
async def test_a_large_result_is_cut_and_the_run_goes_on(
    opened: OpenSuite, tmp_path: Path, of: str, size: int
) -> None:
    suite = await with_calls(opened, tmp_path, [call("big", {"of": of, "size": size})])
    events = await suite.story("b")
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    (text,) = told(suite)
    kept = len(text) - len(text.lstrip(of))
    assert text[kept:] == f"\n[cut: {size - kept} more characters]"
    assert 380_000 < len(text.encode()) < 400_000


async def test_a_structured_result_stands_beside_its_text(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_calls(opened, tmp_path, [call("sum", {"of": [1, 2**53]})])
    (end,) = completed(await suite.story("b"))
    assert json.loads(end.structured_json) == {"total": 2**53 + 1}
    assert end.text == str(2**53 + 1)
