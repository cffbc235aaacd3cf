"""Cancelling: it reaches what runs, is told with its reason, and changes nothing that has ended."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from retinue.errors import InvalidArgumentError, RunNotFoundError
from tests.suite import Suite, check_story, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


async def test_a_cancel_reaches_the_model_call(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    run = await suite.client.runs.start("a", "hi")
    await until(lambda: suite.model.requests, "the model is asked")
    answer = await suite.client.runs.cancel(run.run_id, reason="changed my mind")
    assert answer.run_id == run.run_id
    await until(lambda: suite.model.broken, "the model's server sees that nobody listens")
    events = await suite.watched(run.run_id)
    check_story(events)
    result = events[-1].run_finished.result
    assert (result.state, result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "changed my mind")
    assert not result.HasField("error")


async def test_a_cancel_in_the_middle_of_text_keeps_what_was_said_in_the_story(opened: OpenSuite) -> None:
    suite = await opened({"default": {"chunks": ["one "] * 1000, "chunk_delay_ms": 5}})
    events = []
    async for event in suite.client.runs.stream("a", "hi", session_id="s"):
        events.append(event)
        if len(events) == 4:
            await suite.client.runs.cancel(event.run_id)
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_CANCELLED
    assert await suite.messages("s") == []


async def test_a_cancel_reaches_the_tool(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(
        {"default": {"tool_calls": [{"name": "tools__hang"}, {"name": "tools__hang"}]}},
        agents={"b": {"mcp_servers": ["tools"]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    await until(lambda: len(suite.notes("hanging")) == 2, "both tools hang")
    await suite.client.runs.cancel(run.run_id, reason="enough")
    await until(lambda: len(suite.notes("cancelled")) == 2, "the server hears of both cancels")
    result = (await suite.ended(run.run_id)).result
    assert (result.state, result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "enough")


async def test_a_queued_run_is_cancelled_without_having_begun(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    first = await suite.client.runs.start("a", "hi", session_id="s")
    queued = await suite.client.runs.start("a", "hi", session_id="s")
    third = await suite.client.runs.start("a", "third", session_id="s")
    await suite.client.runs.cancel(queued.run_id, reason="no need")
    ended = await suite.ended(queued.run_id)
    assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "no need")
    events = await suite.watched(queued.run_id)
    check_story(events)
    assert not [event for event in events if event.WhichOneof("event") == "turn_started"]
    assert (await suite.client.runs.get(first.run_id)).state == run_pb2.RUN_STATE_RUNNING
    assert (await suite.client.runs.get(third.run_id)).state == run_pb2.RUN_STATE_QUEUED
    await suite.client.runs.cancel(first.run_id)
    await until(lambda: suite.model.requests[-1]["messages"][-1]["content"] == "third", "the third begins")


async def test_a_run_that_has_ended_stays_as_it_is(opened: OpenSuite) -> None:
    suite = await opened()
    events = await suite.story()
    run = await suite.client.runs.cancel(events[0].run_id, reason="too late")
    assert (run.state, run.result) == (run_pb2.RUN_STATE_SUCCEEDED, events[-1].run_finished.result)
    assert await suite.watched(run.run_id) == events
    stored = await suite.client.runs.get(run.run_id)
    stored.ClearField("settings")
    assert run == stored


async def test_the_first_of_two_cancels_counts(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    run = await suite.client.runs.start("a", "hi")
    await asyncio.gather(
        suite.client.runs.cancel(run.run_id, reason="first"),
        *(suite.client.runs.cancel(run.run_id, reason="later") for _ in range(10)),
    )
    assert (await suite.ended(run.run_id)).result.cancel_reason in ("first", "later")
    await suite.client.runs.cancel(run.run_id, reason="last")
    check_story(await suite.watched(run.run_id))
    assert (await suite.client.runs.get(run.run_id)).result.cancel_reason != "last"


async def test_what_cannot_be_cancelled_says_why(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    with pytest.raises(RunNotFoundError):
        await suite.client.runs.cancel("run-none")
    run = await suite.client.runs.start("a", "hi")
    with pytest.raises(InvalidArgumentError):
        await suite.client.runs.cancel(run.run_id, reason="x" * 1025)
    await suite.client.runs.cancel(run.run_id, reason="ä" * 1024)
    assert (await suite.ended(run.run_id)).result.cancel_reason == "ä" * 1024


async def test_a_cancel_at_any_moment_of_a_queued_run_ends_it(opened: OpenSuite) -> None:
    """The moment at which it begins is the one that is hard to hit: many runs, a little later each time."""
    suite = await opened({"default": {"delay_ms": 10, "text": "ok"}})

    async def race(number: int) -> run_pb2.Run:
        session = f"s{number}"
        first = await suite.client.runs.start("a", "hi", session_id=session)
        second = await suite.client.runs.start("a", "hi", session_id=session)
        async for event in suite.client.runs.watch(first.run_id):
            if event.WhichOneof("event") == "message_completed":
                break
        for _ in range(number):
            await asyncio.sleep(0)
        await suite.client.runs.cancel(second.run_id, reason="raced")
        return await suite.ended(second.run_id)

    for at in range(0, 60, 10):
        for run in await asyncio.gather(*(race(number) for number in range(at, at + 10))):
            cancelled = run.state == run_pb2.RUN_STATE_CANCELLED
            assert cancelled or run.state == run_pb2.RUN_STATE_SUCCEEDED
            assert run.result.cancel_reason == ("raced" if cancelled else "")
            check_story(await suite.watched(run.run_id))


async def test_cancelled_runs_leave_no_task_and_no_open_request(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    await suite.client.runs.get((await suite.client.runs.start("a", "hi")).run_id)
    before = len(asyncio.all_tasks())
    runs = [await suite.client.runs.start("a", "hi") for _ in range(30)]
    await until(lambda: len(suite.model.requests) == 31, "all are asked")
    assert len(asyncio.all_tasks()) > before + 30
    await asyncio.gather(*(suite.client.runs.cancel(run.run_id) for run in runs))
    await until(lambda: len(suite.model.broken) == 30, "all requests are closed")
    await until(lambda: len(asyncio.all_tasks()) <= before, "all tasks have ended")
