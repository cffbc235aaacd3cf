"""Pausing and resuming: a run stops at the next safe point, holds nothing, and goes on where it stood."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import InvalidArgumentError, RetinueError, RunNotFoundError, RunStateInvalidError
from tests.suite import Suite, check_story, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

TWO_TURNS: dict[str, Any] = {
    "turns": [
        {"tool_calls": [{"name": "tools__count"}], "delay_ms": 300},
        {"text": "it said {last_tool}", "chunk_size": 1000},
    ]
}


async def with_tools(opened: OpenSuite, folder: Path, script: dict[str, Any], **agent: Any) -> Suite:
    return await opened(
        script,
        agents={"b": {"mcp_servers": ["tools"], **agent}},
        mcp_servers={"tools": stdio_server(folder)},
    )


async def paused_while_asked(suite: Suite) -> run_pb2.Run:
    """A run that is paused while its model is asked for the first turn."""
    run = await suite.client.runs.start("b", "hi", session_id="s")
    await until(lambda: suite.model.requests, "the model is asked")
    asked = await suite.client.runs.pause(run.run_id, reason="let me see")
    assert asked.pause_requested
    return await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)


def working() -> set[str]:
    """The runs that have a task."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return {name for name in names if name.startswith("run-")}


def suspended(events: list[event_pb2.RunEvent]) -> list[event_pb2.RunSuspended]:
    return [event.run_suspended for event in events if event.HasField("run_suspended")]


async def test_a_pause_lets_the_model_finish_and_stops_before_the_tool(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await with_tools(opened, tmp_path, TWO_TURNS)
    run = await paused_while_asked(suite)
    assert run.pause_requested
    assert suite.notes() == []
    assert len(suite.model.requests) == len(suite.model.answered) == 1
    resumed = await suite.client.runs.resume(run.run_id)
    assert not resumed.pause_requested
    events = await suite.watched(run.run_id)
    check_story(events)
    assert kinds(events) == [
        "run_started",
        "turn_started",
        "message_completed",
        "run_suspended",
        "run_claimed",
        "tool_call_started",
        "tool_call_completed",
        "turn_started",
        "text_delta",
        "message_completed",
        "run_finished",
    ]
    assert suspended(events) == [event_pb2.RunSuspended(state=run_pb2.RUN_STATE_PAUSED, reason="let me see")]
    assert events[-1].run_finished.result.output == "it said ok"
    assert len(suite.model.requests) == 2
    assert not (await suite.client.runs.get(run.run_id)).pause_requested


async def test_a_pause_lets_the_calls_that_run_finish_and_begins_no_other(
    opened: OpenSuite, tmp_path: Path
) -> None:
    calls = [{"name": f"tools__{name}", "id": name} for name in ("hold", "count")]
    script = {"turns": [{"tool_calls": calls}, {"text": "done"}]}
    suite = await with_tools(opened, tmp_path, script, tool_concurrency=1)
    run = await suite.client.runs.start("b", "hi")
    await until(suite.notes, "the first is called")
    await suite.client.runs.pause(run.run_id)
    (tmp_path / "release").touch()
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    assert [each["tool"] for each in suite.notes()] == ["hold"]
    await suite.client.runs.resume(run.run_id)
    assert (await suite.ended(run.run_id)).result.output == "done"
    assert [each["tool"] for each in suite.notes()] == ["hold", "count"]
    check_story(await suite.watched(run.run_id))


async def test_a_run_that_is_resumed_before_it_stopped_goes_on_at_once(
    opened: OpenSuite, tmp_path: Path
) -> None:
    calls = [{"name": f"tools__{name}", "id": name} for name in ("hold", "hold_again", "look")]
    script = {"turns": [{"tool_calls": calls}, {"text": "done"}]}
    suite = await with_tools(opened, tmp_path, script, tool_policies=[{"tool": "look", "approval": "always"}])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await until(lambda: len(suite.notes()) == 2, "both that may are called")
    await suite.client.runs.pause(run.run_id)
    await suite.client.inputs.approve(request)
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_RUNNING
    await suite.client.runs.resume(run.run_id)
    await until(lambda: len(suite.notes()) == 3, "the approved call is made while the others run")
    (tmp_path / "release").touch()
    events = await suite.watched(run.run_id)
    check_story(events)
    assert suspended(events) == []
    assert events[-1].run_finished.result.output == "done"


async def test_a_queued_run_that_is_paused_takes_its_turn_and_stops_there(opened: OpenSuite) -> None:
    suite = await opened(
        {"rules": [{"when": {"user_contains": "hang"}, "hang": True}], "default": {"text": "ok"}}
    )
    first = await suite.client.runs.start("a", "hang", session_id="s")
    queued = await suite.client.runs.start("a", "hi", session_id="s")
    behind = await suite.client.runs.start("a", "behind", session_id="s")
    asked = await suite.client.runs.pause(queued.run_id, reason="not yet")
    assert (asked.state, asked.pause_requested) == (run_pb2.RUN_STATE_QUEUED, True)
    await suite.client.runs.cancel(first.run_id)
    await suite.reaches(queued.run_id, run_pb2.RUN_STATE_PAUSED)
    assert (await suite.client.runs.get(behind.run_id)).state == run_pb2.RUN_STATE_QUEUED
    assert len(suite.model.requests) == 1
    await suite.client.runs.resume(queued.run_id)
    events = await suite.watched(queued.run_id)
    check_story(events)
    # Once for its turn, once for the resume.
    assert kinds(events)[:4] == ["run_started", "run_claimed", "run_suspended", "run_claimed"]
    assert kinds(events).count("run_claimed") == 2
    assert suspended(events)[0].reason == "not yet"
    assert (await suite.ended(behind.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert [each["content"] for each in await suite.messages("s")] == ["hi", "ok", "behind", "ok"]


async def test_a_queued_run_that_is_resumed_in_time_never_stops(opened: OpenSuite) -> None:
    suite = await opened(
        {"rules": [{"when": {"user_contains": "hang"}, "hang": True}], "default": {"text": "ok"}}
    )
    first = await suite.client.runs.start("a", "hang", session_id="s")
    queued = await suite.client.runs.start("a", "hi", session_id="s")
    await suite.client.runs.pause(queued.run_id)
    resumed = await suite.client.runs.resume(queued.run_id)
    assert (resumed.state, resumed.pause_requested) == (run_pb2.RUN_STATE_QUEUED, False)
    await suite.client.runs.cancel(first.run_id)
    events = await suite.watched(queued.run_id)
    check_story(events)
    assert suspended(events) == []
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_waiting_run_is_paused_and_its_answers_do_not_start_it(
    opened: OpenSuite, tmp_path: Path
) -> None:
    calls = [{"name": f"tools__{name}", "id": name} for name in ("count", "look")]
    script = {"turns": [{"tool_calls": calls}, {"text": "done"}]}
    suite = await with_tools(opened, tmp_path, script, tool_policies=[{"approval": "always"}])
    run = await suite.client.runs.start("b", "hi")
    requests = await suite.asked(run.run_id, 2)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.runs.pause(run.run_id, reason="not now")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    await suite.client.inputs.approve(requests[0])
    await suite.client.inputs.deny(requests[1])

    async def stories() -> list[event_pb2.RunEvent] | None:
        events = [event async for event in suite.client.runs.events(run.run_id)]
        settled = events[-1].HasField("run_suspended")
        return events if settled and kinds(events).count("input_received") == 2 else None

    told = await until(stories, "both answers are in the journal")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    assert suite.notes() == []
    states = [each.state for each in suspended(told)]
    assert states[0] == run_pb2.RUN_STATE_WAITING
    assert set(states[1:]) == {run_pb2.RUN_STATE_PAUSED}
    await suite.client.runs.resume(run.run_id)
    assert (await suite.ended(run.run_id)).result.output == "done"
    assert [each["tool"] for each in suite.notes()] == ["count"]
    check_story(await suite.watched(run.run_id))


async def test_a_waiting_run_that_was_paused_waits_on_after_its_resume(
    opened: OpenSuite, tmp_path: Path
) -> None:
    script = {"turns": [{"tool_calls": [{"name": "tools__count"}]}, {"text": "done"}]}
    suite = await with_tools(opened, tmp_path, script, tool_policies=[{"approval": "always"}])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.client.runs.pause(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    await suite.client.runs.resume(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert await suite.asked(run.run_id) == [request]
    await suite.client.inputs.approve(request)
    assert (await suite.ended(run.run_id)).result.output == "done"
    check_story(await suite.watched(run.run_id))


async def test_what_expires_while_a_run_is_paused_does_not_start_it(
    opened: OpenSuite, tmp_path: Path
) -> None:
    script = {"turns": [{"tool_calls": [{"name": "tools__count"}]}, {"text": "{last_tool}"}]}
    suite = await with_tools(
        opened, tmp_path, script, tool_policies=[{"approval": "always"}], input_timeout="1s"
    )
    run = await suite.client.runs.start("b", "hi")
    other = await suite.client.runs.start("b", "hi")
    await suite.asked(run.run_id)
    await suite.client.runs.pause(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    # One that is not paused has expired by now, and goes on.
    assert (await suite.ended(other.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_PAUSED
    await suite.client.runs.resume(run.run_id)
    ended = await suite.ended(run.run_id)
    assert ended.result.output == "the call was not made: nobody approved it in time"
    events = await suite.watched(run.run_id)
    check_story(events)
    # For the pause and for the resume.
    assert kinds(events).count("run_claimed") == 2


async def test_a_resume_of_a_run_that_is_not_paused_does_no_harm(opened: OpenSuite, tmp_path: Path) -> None:
    script = {"turns": [{"tool_calls": [{"name": "tools__hold"}]}, {"text": "done"}]}
    suite = await with_tools(opened, tmp_path, script, tool_policies=[{"approval": "always"}])
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    for _ in range(3):
        await suite.client.runs.resume(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert await suite.asked(run.run_id) == [request]
    await suite.client.inputs.approve(request)
    await until(suite.notes, "the tool is called")
    await suite.client.runs.resume(run.run_id)
    (tmp_path / "release").touch()
    assert (await suite.ended(run.run_id)).result.output == "done"
    assert len(suite.notes()) == 1
    check_story(await suite.watched(run.run_id))


async def test_a_paused_run_is_cancelled_without_going_on(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_tools(opened, tmp_path, TWO_TURNS)
    run = await paused_while_asked(suite)
    await suite.client.runs.cancel(run.run_id, reason="no more")
    ended = await suite.ended(run.run_id)
    assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "no more")
    assert suite.notes() == []
    check_story(await suite.watched(run.run_id))
    assert await suite.messages("s") == []


async def test_a_run_that_is_paused_twice_is_resumed_once(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await with_tools(opened, tmp_path, TWO_TURNS)
    run = await paused_while_asked(suite)
    again = await suite.client.runs.pause(run.run_id, reason="still")
    assert again.pause_requested
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    await suite.client.runs.resume(run.run_id)
    assert (await suite.ended(run.run_id)).result.output == "it said ok"
    check_story(await suite.watched(run.run_id))


async def test_what_cannot_be_paused_or_resumed_says_why(opened: OpenSuite) -> None:
    suite = await opened()
    ended = (await suite.story())[0].run_id
    for steer in (suite.client.runs.pause, suite.client.runs.resume):
        with pytest.raises(RunStateInvalidError, match="has ended: it is SUCCEEDED") as invalid:
            await steer(ended)
        assert invalid.value.facts == {"run_id": ended, "state": "SUCCEEDED"}
        with pytest.raises(RunNotFoundError):
            await steer("run-none")
    run = await suite.client.runs.start("a", "hi")
    with pytest.raises(InvalidArgumentError):
        await suite.client.runs.pause(run.run_id, reason="x" * 1025)
    assert not (await suite.client.runs.get(ended)).pause_requested


async def test_paused_runs_leave_no_task_and_take_no_place(opened: OpenSuite) -> None:
    turns = [{"tool_calls": [{"name": "none"}], "delay_ms": 300}, {"text": "done"}]
    suite = await opened({"turns": turns}, max_active_runs=5)
    runs = [await suite.client.runs.start("a", "hi") for _ in range(5)]
    behind = await suite.client.runs.start("a", "hi")
    assert behind.state == run_pb2.RUN_STATE_QUEUED
    assert working() == {run.run_id for run in runs}
    await asyncio.gather(*(suite.client.runs.pause(run.run_id) for run in runs))
    for run in runs:
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    assert (await suite.ended(behind.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    await until(lambda: not working(), "all tasks have ended")
    for run in runs:
        await suite.client.runs.resume(run.run_id)
        assert (await suite.ended(run.run_id)).result.output == "done"


async def test_a_storm_of_pauses_and_resumes_ends_as_the_last_of_them_says(
    opened: OpenSuite, tmp_path: Path
) -> None:
    """The moments when a run lets go of itself and is taken up are those that are hard to hit."""
    calls = [{"tool_calls": [{"name": "tools__look"}]}] * 8
    suite = await with_tools(opened, tmp_path, {"turns": [*calls, {"text": "done"}]}, stall_after=100)

    async def stands(run_id: str) -> bool:
        return (await suite.client.runs.get(run_id)).state != run_pb2.RUN_STATE_RUNNING

    async def storm(number: int) -> None:
        run = await suite.client.runs.start("b", "hi")
        try:
            for each in range(number):
                await suite.client.runs.pause(run.run_id)
                for _ in range(each * number):
                    await asyncio.sleep(0)
                await suite.client.runs.resume(run.run_id)
            if number % 2:
                await suite.client.runs.pause(run.run_id)
                await until(partial(stands, run.run_id), "it has stopped")
                await suite.client.runs.resume(run.run_id)
        except RetinueError as error:
            assert isinstance(error, RunStateInvalidError)  # noqa: PT017 - it was over before
        ended = await suite.ended(run.run_id)
        assert ended.result.output == "done"
        events = await suite.watched(run.run_id)
        check_story(events)
        assert sum(event.HasField("tool_call_started") for event in events) == 8

    for at in range(0, 20, 5):
        await asyncio.gather(*map(storm, range(at, at + 5)))
