"""RetryRun: a new run goes on from the last good point of one that failed or was cancelled."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.errors import (
    InvalidArgumentError,
    RequestIdReusedError,
    RunNotFoundError,
    RunStateInvalidError,
)
from tests.suite import Suite, check_story, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

FAILURE = {"error": {"status": 400, "message": "out of order"}}
COUNT = {"tool_calls": [{"name": "tools__count", "arguments": {"n": 1}, "id": "c1"}]}
LAST = {"text": "it said {last_tool}", "chunk_size": 1000}


def project(folder: Path, *rules: dict[str, Any], **agent: Any) -> dict[str, Any]:
    """A model that counts in its first turn and then tells the result, unless a rule holds."""
    return {
        "script": {"rules": list(rules), "turns": [COUNT], "default": LAST},
        "agents": {"b": {"mcp_servers": ["tools"], **agent}},
        "mcp_servers": {"tools": stdio_server(folder)},
    }


def fails(times: int = 1, **when: Any) -> dict[str, Any]:
    return {"when": when, "times": times, **FAILURE}


def restored(events: list[event_pb2.RunEvent]) -> list[dict[str, Any]]:
    found = [event.conversation_restored for event in events if event.HasField("conversation_restored")]
    assert [each.complete for each in found] == [False] * (len(found) - 1) + [True]
    return [json.loads(each) for one in found for each in one.messages_json]


async def session_roles(suite: Suite, session_id: str) -> list[str]:
    return [each["role"] for each in await suite.messages(session_id)]


async def failed(suite: Suite, **more: Any) -> run_pb2.Run:
    run = await suite.client.runs.start("b", "hi", **more)
    ended = await suite.ended(run.run_id)
    assert ended.state == run_pb2.RUN_STATE_FAILED
    return ended


async def test_a_run_that_failed_goes_on_without_repeating_what_was_done(
    opened: OpenSuite, tmp_path: Path
) -> None:
    down = {"when": {"last_role": "tool"}, "times": 2, "error": {"status": 500}}
    suite = await opened(**project(tmp_path, down), llms={"m": {"max_retries": 1}})
    first = await failed(suite, session_id="s", labels={"team": "blue"})
    assert first.result.error.reason == pb.ERROR_REASON_LLM_UNAVAILABLE
    assert first.result.retries == 1
    told = len(suite.model.requests)
    again = await suite.client.runs.retry(first.run_id)
    assert again.run_id != first.run_id
    head = (await suite.watched(first.run_id))[-1].sequence
    assert (again.origin.run_id, again.origin.sequence) == (first.run_id, head)
    assert (again.session_id, again.message, dict(again.labels)) == ("s", "hi", {"team": "blue"})
    events = await suite.watched(again.run_id)
    check_story(events)
    assert events[0].run_started.origin == again.origin
    result = events[-1].run_finished.result
    assert result.output == "it said ok"
    assert kinds(events)[:3] == ["run_started", "conversation_restored", "turn_started"]
    assert [each["role"] for each in restored(events)] == ["user", "assistant", "tool"]
    # The call that was finished is not made again, and its turn is not paid again.
    assert len(suite.notes()) == 1
    assert (result.turns, result.tool_calls) == (1, 0)
    assert suite.model.requests[-1]["messages"] == suite.model.requests[told - 1]["messages"]
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]
    # The first run stays as it was.
    assert (await suite.client.runs.get(first.run_id)).result == first.result


async def test_a_run_that_failed_before_any_answer_begins_with_its_question(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(**project(tmp_path, fails(turn=1)))
    first = await failed(suite, session_id="s")
    assert await suite.messages("s") == []
    again = await suite.client.runs.retry(first.run_id)
    events = await suite.watched(again.run_id)
    check_story(events)
    assert restored(events) == [{"role": "user", "content": "hi"}]
    assert events[-1].run_finished.result.output == "it said ok"
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]


async def test_a_retry_brings_the_session_s_earlier_messages_and_saves_each_once(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(**project(tmp_path, fails(user_contains="two"), fails(user_contains="two")))
    assert (await suite.result("a", "one", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED
    before = await suite.messages("s")
    run = await suite.client.runs.start("b", "two", session_id="s")
    first = await suite.ended(run.run_id)
    # What the session hears later is not the past of the run that failed.
    await suite.result("a", "three", session_id="s")
    between = await suite.messages("s")
    second = await suite.client.runs.retry(first.run_id)
    assert (await suite.ended(second.run_id)).state == run_pb2.RUN_STATE_FAILED
    assert await suite.messages("s") == between
    third = await suite.client.runs.retry(second.run_id)
    events = await suite.watched(third.run_id)
    check_story(events)
    assert restored(events) == [*before, {"role": "user", "content": "two"}]
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    asked = [each["content"] for each in await suite.messages("s") if each["role"] == "user"]
    assert asked == ["one", "three", "two"]


async def test_a_retry_of_a_retry_goes_on_from_what_both_have_done(opened: OpenSuite, tmp_path: Path) -> None:
    look = {"when": {"turn": 2}, "tool_calls": [{"name": "tools__look", "id": "c2"}]}
    suite = await opened(**project(tmp_path, fails(turn=2), look, fails(turn=3)))
    first = await failed(suite, session_id="s")
    second = await suite.client.runs.retry(first.run_id)
    assert (await suite.ended(second.run_id)).state == run_pb2.RUN_STATE_FAILED
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant", "tool"]
    third = await suite.client.runs.retry(second.run_id)
    assert third.origin.run_id == second.run_id
    ended = await suite.ended(third.run_id)
    assert ended.result.output == "it said ok"
    assert [each["tool"] for each in suite.notes()] == ["count", "look"]
    assert await session_roles(suite, "s") == [
        "user",
        *("assistant", "tool") * 2,
        "assistant",
    ]


async def test_a_cancelled_run_goes_on_and_so_does_a_retry_that_never_began(
    opened: OpenSuite, tmp_path: Path
) -> None:
    hang = {"when": {"last_role": "tool"}, "times": 1, "hang": True}
    suite = await opened(**project(tmp_path, {"when": {"user_contains": "busy"}, "hang": True}, hang))
    run = await suite.client.runs.start("b", "hi", session_id="s")
    await until(lambda: len(suite.model.requests) == 2, "the second turn hangs")
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    busy = await suite.client.runs.start("a", "busy", session_id="s")
    # It is cancelled before it has its messages.
    queued = await suite.client.runs.retry(run.run_id)
    assert queued.state == run_pb2.RUN_STATE_QUEUED
    await suite.client.runs.cancel(queued.run_id)
    assert (await suite.ended(queued.run_id)).state == run_pb2.RUN_STATE_CANCELLED
    await suite.client.runs.cancel(busy.run_id)
    again = await suite.client.runs.retry(queued.run_id)
    events = await suite.watched(again.run_id)
    check_story(events)
    assert [each["role"] for each in restored(events)] == ["user", "assistant", "tool"]
    assert events[-1].run_finished.result.output == "it said ok"
    assert len(suite.notes()) == 1
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]


async def test_a_call_without_its_result_is_asked_for_again(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(**project(tmp_path, tool_policies=[{"approval": "always"}]))
    run = await suite.client.runs.start("b", "hi", session_id="s")
    await suite.asked(run.run_id)
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    again = await suite.client.runs.retry(run.run_id)
    (request,) = await suite.asked(again.run_id)
    assert request.run_id == again.run_id
    await suite.client.inputs.approve(request)
    events = await suite.watched(again.run_id)
    check_story(events)
    assert restored(events) == [{"role": "user", "content": "hi"}]
    assert [each["key"] for each in suite.notes()] == [f"{again.run_id}:1:c1"]
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]


async def test_only_a_run_that_failed_or_was_cancelled_can_be_retried(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(**project(tmp_path, tool_policies=[{"approval": "always"}]))
    succeeded = (await suite.story("a"))[0].run_id
    waiting = await suite.client.runs.start("b", "hi")
    await suite.reaches(waiting.run_id, run_pb2.RUN_STATE_WAITING)
    for run_id, state in ((succeeded, "SUCCEEDED"), (waiting.run_id, "WAITING")):
        with pytest.raises(RunStateInvalidError) as invalid:
            await suite.client.runs.retry(run_id)
        assert invalid.value.facts == {"run_id": run_id, "state": state}
    with pytest.raises(RunNotFoundError):
        await suite.client.runs.retry("run-none")
    with pytest.raises(InvalidArgumentError):
        await suite.client.runs.retry(succeeded, options=run_pb2.RunOptions(max_iterations=-1))


async def test_the_same_request_to_retry_finds_the_same_run(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(**project(tmp_path, fails(turn=2)))
    first = await failed(suite, request_id="the first")
    runs = await asyncio.gather(
        *(suite.client.runs.retry(first.run_id, request_id="again") for _ in range(10))
    )
    assert {run.run_id for run in runs} != {first.run_id}
    assert len({run.run_id for run in runs}) == 1
    ended = await suite.ended(runs[0].run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    assert (await suite.client.runs.retry(first.run_id, request_id="again")).run_id == ended.run_id
    more = run_pb2.RunOptions(max_iterations=3)
    with pytest.raises(RequestIdReusedError):
        await suite.client.runs.retry(first.run_id, request_id="again", options=more)
    with pytest.raises(RequestIdReusedError):
        await suite.client.runs.retry(first.run_id, request_id="the first")


async def test_options_of_a_retry_count_over_those_of_the_run(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(**project(tmp_path))
    options = run_pb2.RunOptions(max_iterations=1, tool_concurrency=3)
    options.budget.max_tool_calls = 7
    options.budget.max_duration.FromMilliseconds(60_500)
    options.timeout.FromMilliseconds(90_500)
    options.generation.stop.extend(["one", "two"])
    options.generation.temperature = 0.5
    first = await failed(suite, options=options)
    assert first.result.stop_reason == run_pb2.STOP_REASON_MAX_ITERATIONS
    over = run_pb2.RunOptions(max_iterations=2)
    over.budget.max_duration.FromSeconds(70)
    over.timeout.FromSeconds(100)
    over.generation.stop.append("three")
    again = await suite.client.runs.retry(first.run_id, options=over)
    assert (await suite.ended(again.run_id)).result.output == "it said ok"
    settings = (await suite.client.runs.get(again.run_id)).settings
    assert (settings.max_iterations, settings.tool_concurrency) == (2, 3)
    assert settings.budget.max_tool_calls == 7
    assert settings.budget.max_duration.ToMilliseconds() == 70_000
    assert settings.timeout.ToMilliseconds() == 100_000
    assert list(settings.llms[0].generation.stop) == ["three"]
    assert settings.llms[0].generation.temperature == 0.5
    # Without options of its own a retry fails as the first one did.
    poor = await suite.client.runs.start("b", "hi", options=options)
    await suite.ended(poor.run_id)
    still = await suite.client.runs.retry(poor.run_id)
    assert (await suite.client.runs.get(still.run_id)).settings.max_iterations == 1


async def test_a_run_that_used_up_its_budget_goes_on_with_a_bigger_one(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(**project(tmp_path, budget={"max_turns": 1}))
    first = await failed(suite)
    assert first.result.stop_reason == run_pb2.STOP_REASON_BUDGET
    options = run_pb2.RunOptions()
    options.budget.max_turns = 2
    again = await suite.client.runs.retry(first.run_id, options=options)
    assert (await suite.ended(again.run_id)).result.output == "it said ok"
    assert len(suite.notes()) == 1


async def test_a_retry_waits_for_its_session(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(
        **project(tmp_path, {"when": {"user_contains": "busy"}, "hang": True}, fails(turn=2))
    )
    first = await failed(suite, session_id="s")
    busy = await suite.client.runs.start("a", "busy", session_id="s")
    again = await suite.client.runs.retry(first.run_id)
    assert again.state == run_pb2.RUN_STATE_QUEUED
    await suite.client.runs.cancel(busy.run_id)
    assert (await suite.ended(again.run_id)).result.output == "it said ok"
    assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]


async def test_attachments_are_there_for_a_retry(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(**project(tmp_path, fails(turn=2)))
    image = service_pb2.InlineFile(mime_type="image/png", name="a.png", data=b"\x89PNG")
    first = await failed(suite, session_id="s", files=[image])
    again = await suite.client.runs.retry(first.run_id)
    assert (await suite.ended(again.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    sent = suite.model.requests[-1]["messages"][0]["content"]
    assert sent == suite.model.requests[0]["messages"][0]["content"]
    assert "base64" in json.dumps(sent)


async def test_a_long_conversation_is_restored_in_pieces(opened: OpenSuite, tmp_path: Path) -> None:
    big = {"tool_calls": [{"name": "tools__big", "arguments": {"of": "ä", "size": 75_000}}] * 4}
    suite = await opened(**project(tmp_path, {"when": {"turn": 1}, **big}, fails(turn=2)))
    first = await failed(suite, session_id="s")
    before = await suite.messages("s")
    again = await suite.client.runs.retry(first.run_id)
    events = await suite.watched(again.run_id)
    check_story(events)
    assert kinds(events).count("conversation_restored") > 1
    assert restored(events) == before
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert (await suite.messages("s"))[:-1] == before


async def test_a_retry_survives_a_kill_at_any_stage(tmp_path: Path) -> None:
    slow = {"when": {"last_role": "tool"}, **LAST, "delay_ms": 500}
    async with open_processes(tmp_path, **project(tmp_path, fails(turn=2), slow)) as suite:
        run = await suite.client.runs.start("b", "hi", session_id="s")
        assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_FAILED
        again = await suite.client.runs.retry(run.run_id)
        # Accepted, and hardly begun.
        await suite.engine_process.kill()
        await suite.engine_process.start()
        await until(lambda: len(suite.model.requests) >= 3, "the model is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(again.run_id)
        check_story(events)
        assert await suite.watched(again.run_id) == events
        assert events[-1].run_finished.result.output == "it said ok"
        assert kinds(events).count("conversation_restored") == 1
        assert len(suite.notes()) == 1
        assert await session_roles(suite, "s") == ["user", "assistant", "tool", "assistant"]
