"""Models that make no headway: told so once, and ended where that does not help."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.suite import Suite, check_story, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

SAME = {"tool_calls": [{"name": "tools__look", "arguments": {"at": 1}}]}
OTHER = {"tool_calls": [{"name": "tools__look", "arguments": {"at": 2}}]}
TOLD = {"user_contains": "times in a row"}


def looker(folder: Path, **more: Any) -> dict[str, Any]:
    """A project with an agent that may look."""
    return {
        "agents": {"b": {"mcp_servers": ["tools"], **more}},
        "mcp_servers": {"tools": stdio_server(folder)},
    }


def noticed(events: list[event_pb2.RunEvent]) -> list[event_pb2.StallNoticed]:
    return [e.stall_noticed for e in events if e.WhichOneof("event") == "stall_noticed"]


@pytest.mark.parametrize(("agent", "after"), [({}, 5), ({"stall_after": 2}, 2)])
async def test_the_same_calls_again_and_again_are_noticed_and_then_end_the_run(
    opened: OpenSuite, tmp_path: Path, agent: dict[str, int], after: int
) -> None:
    suite = await opened({"default": SAME}, **looker(tmp_path, **agent))
    events = await suite.story("b")
    check_story(events)
    (stall,) = noticed(events)
    assert stall.stall == event_pb2.STALL_REPEATED_CALLS
    assert f"{after} times in a row" in stall.message
    result = events[-1].run_finished.result
    assert (result.state, result.stop_reason) == (
        run_pb2.RUN_STATE_FAILED,
        run_pb2.STOP_REASON_STALLED,
    )
    assert result.error.reason == pb.ERROR_REASON_RUN_STALLED
    assert dict(result.error.metadata) == {"stall": "repeated_calls"}
    # It was asked once more after it was told, and what it asked for then was not done.
    assert (result.turns, result.tool_calls, len(suite.notes())) == (after + 1, after, after)
    assert suite.model.requests[-1]["messages"][-1] == {"role": "user", "content": stall.message}


async def test_a_model_that_listens_goes_on(opened: OpenSuite, tmp_path: Path) -> None:
    script = {"rules": [{"when": TOLD, "text": "I see"}], "default": SAME}
    suite = await opened(script, **looker(tmp_path, stall_after=3))
    events = await suite.story("b", session_id="s")
    check_story(events)
    assert len(noticed(events)) == 1
    result = events[-1].run_finished.result
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "I see")
    assert [each["role"] for each in await suite.messages("s")][-2:] == ["user", "assistant"]


async def test_other_arguments_or_another_order_are_not_the_same_calls(
    opened: OpenSuite, tmp_path: Path
) -> None:
    both = SAME["tool_calls"] + OTHER["tool_calls"]
    turns = [SAME, OTHER, SAME, {"tool_calls": both}, {"tool_calls": both[::-1]}, SAME, {"text": "done"}]
    suite = await opened({"turns": turns}, **looker(tmp_path, stall_after=2))
    events = await suite.story("b")
    check_story(events)
    assert noticed(events) == []
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_model_that_stalls_again_later_is_not_told_twice(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened({"turns": [SAME, SAME, OTHER, SAME, SAME]}, **looker(tmp_path, stall_after=2))
    events = await suite.story("b")
    check_story(events)
    assert len(noticed(events)) == 1
    result = events[-1].run_finished.result
    assert (result.error.reason, result.turns) == (pb.ERROR_REASON_RUN_STALLED, 5)


async def test_empty_answers_are_noticed_and_then_end_the_run(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": " \n"}})
    events = await suite.story()
    check_story(events)
    (stall,) = noticed(events)
    assert stall.stall == event_pb2.STALL_EMPTY_ANSWER
    result = events[-1].run_finished.result
    assert result.stop_reason == run_pb2.STOP_REASON_STALLED
    assert dict(result.error.metadata) == {"stall": "empty_answer"}
    assert result.turns == 2


async def test_an_empty_answer_may_be_followed_by_a_good_one(opened: OpenSuite) -> None:
    suite = await opened({"turns": [{"text": ""}, {"text": "here I am"}]})
    events = await suite.story()
    check_story(events)
    assert kinds(events).count("stall_noticed") == 1
    result = events[-1].run_finished.result
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "here I am")


async def test_an_answer_that_a_filter_emptied_is_the_last_word(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "", "finish_reason": "content_filter"}})
    events = await suite.story()
    assert noticed(events) == []
    result = events[-1].run_finished.result
    assert (result.state, result.finish_reason) == (run_pb2.RUN_STATE_SUCCEEDED, "content_filter")


async def test_a_kill_after_the_nudge_does_not_count_as_another_stall(tmp_path: Path) -> None:
    hang = {"when": TOLD, "times": 1, "hang": True}
    script = {"rules": [hang, {"when": TOLD, "text": "I see"}], "default": SAME}
    async with open_processes(tmp_path, script, **looker(tmp_path, stall_after=2)) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(lambda: len(suite.model.requests) == 3, "the model is asked after the nudge")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        check_story(events)
        assert len(noticed(events)) == 1
        result = events[-1].run_finished.result
        assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "I see")
