"""Waiting runs hold nothing: they outlive the engine, and go on for an answer, a cancel, or by the clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from retinue.errors import InputClosedError, ServiceUnavailableError
from tests.suite import Processes, Suite, check_story, kinds, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

ALWAYS = [{"approval": "always"}]


def one_call(folder: Path, tool: str = "count", **agent: Any) -> dict[str, Any]:
    """A script that calls a tool and then tells its result, and the project that goes with it."""
    return {
        "script": {
            "turns": [
                {"tool_calls": [{"name": f"tools__{tool}", "arguments": {"n": 1}, "id": "c1"}]},
                {"text": "it said {last_tool}", "chunk_size": 1000},
            ]
        },
        "agents": {"b": {"mcp_servers": ["tools"], **agent}},
        "mcp_servers": {"tools": stdio_server(folder)},
    }


def working() -> set[str]:
    """The runs that have a task in this process."""
    names = (task.get_name() for task in asyncio.all_tasks())
    return {name for name in names if name.startswith("run-")}


async def whole_story(suite: Suite, run_id: str) -> list[event_pb2.RunEvent]:
    """The story of a run, the same from any place on."""
    events = await suite.watched(run_id)
    check_story(events)
    for after in (1, len(events) // 2, len(events)):
        assert await suite.watched(run_id, after) == events[after:]
    return events


async def restarted(suite: Processes) -> None:
    await suite.engine_process.kill()
    await suite.engine_process.start()
    await until(partial(reachable, suite), "the client has found the engine again")


async def reachable(suite: Suite) -> bool:
    try:
        _ = [run async for run in suite.client.runs.list()]
    except ServiceUnavailableError:
        return False
    return True


async def test_waiting_runs_have_no_task_and_take_no_place(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(**one_call(tmp_path, tool_policies=ALWAYS), max_active_runs=3)
    runs = [await suite.client.runs.start("b", "hi") for _ in range(10)]
    for run in runs:
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await until(lambda: not working(), "all tasks have ended")
    for run in runs:
        (request,) = await suite.asked(run.run_id)
        await suite.client.inputs.approve(request)
    for run in runs:
        assert (await suite.ended(run.run_id)).result.output == "it said ok"
        check_story(await suite.watched(run.run_id))
    await until(lambda: not working(), "all tasks have ended")


async def test_a_run_waits_over_a_kill_and_its_watchers_see_one_story(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, tool_policies=ALWAYS)) as suite:
        run = await suite.client.runs.start("b", "hi", session_id="s")
        (request,) = await suite.asked(run.run_id)
        watching = [asyncio.create_task(suite.watched(run.run_id)) for _ in range(3)]
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
        await restarted(suite)
        assert (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_WAITING
        assert await suite.asked(run.run_id) == [request]
        await restarted(suite)
        await suite.client.inputs.approve(request, '{"n": 2}')
        events = await whole_story(suite, run.run_id)
        assert [await each for each in watching] == [events] * 3
        # The restarts left no trace: nobody worked on it.
        assert kinds(events).count("run_claimed") == 1
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert [each["arguments"] for each in suite.notes()] == [{"n": 2}]
        assert len(suite.model.requests) == 2
        assert len(await suite.messages("s")) == 4


async def test_an_answer_that_was_accepted_survives_a_kill(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, "count_again", tool_policies=ALWAYS)) as suite:
        for _ in range(3):
            before = len(suite.notes())
            run = await suite.client.runs.start("b", "hi")
            (request,) = await suite.asked(run.run_id)
            await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
            await suite.client.inputs.approve(request, '{"n": 2}')
            await restarted(suite)
            events = await whole_story(suite, run.run_id)
            assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
            assert kinds(events).count("input_received") == 1
            made = suite.notes()[before:]
            # It may have been made before the kill, and may be made again: with the same key.
            assert {(each["key"], each["arguments"]["n"]) for each in made} == {(f"{run.run_id}:1:c1", 2)}


async def test_a_waiting_run_is_cancelled_after_a_kill(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, tool_policies=ALWAYS)) as suite:
        run = await suite.client.runs.start("b", "hi", session_id="s")
        (request,) = await suite.asked(run.run_id)
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
        await restarted(suite)
        behind = await suite.client.runs.start("a", "hi", session_id="s")
        assert behind.state == run_pb2.RUN_STATE_QUEUED
        await suite.client.runs.cancel(run.run_id, reason="enough")
        ended = await suite.ended(run.run_id)
        assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "enough")
        await whole_story(suite, run.run_id)
        with pytest.raises(InputClosedError):
            await suite.client.inputs.approve(request)
        assert await suite.asked(run.run_id, 0) == []
        assert suite.notes() == []
        await suite.ended(behind.run_id)


async def test_what_expired_while_no_engine_ran_is_given_up(tmp_path: Path) -> None:
    project = one_call(tmp_path, tool_policies=ALWAYS, input_timeout="700ms")
    async with open_processes(tmp_path, **project) as suite:
        run = await suite.client.runs.start("b", "hi")
        (request,) = await suite.asked(run.run_id)
        await suite.engine_process.kill()
        await until(lambda: request.expire_time.ToNanoseconds() < time.time_ns(), "its time is over")
        await suite.engine_process.start()
        ended = await suite.ended(run.run_id)
        assert ended.result.output == "it said the call was not made: nobody approved it in time"
        await whole_story(suite, run.run_id)


async def test_a_paused_run_stays_paused_over_a_kill(tmp_path: Path) -> None:
    project = one_call(tmp_path)
    project["script"]["turns"][0]["delay_ms"] = 300
    async with open_processes(tmp_path, **project) as suite:
        run = await suite.client.runs.start("b", "hi")
        await suite.client.runs.pause(run.run_id, reason="look first")
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
        await restarted(suite)
        # The engine has looked for work when it is ready; a run that begins now shows that it does.
        assert (await suite.result("a", "hi")).state == run_pb2.RUN_STATE_SUCCEEDED
        stored = await suite.client.runs.get(run.run_id)
        assert (stored.state, stored.pause_requested) == (run_pb2.RUN_STATE_PAUSED, True)
        assert suite.notes() == []
        await suite.client.runs.resume(run.run_id)
        events = await whole_story(suite, run.run_id)
        assert kinds(events).count("run_claimed") == 1
        assert events[-1].run_finished.result.output == "it said ok"
        # Two turns of each.
        assert len(suite.model.requests) == 4


async def test_a_pause_survives_a_kill_before_the_run_has_stopped(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, "hold_again")) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(suite.notes, "the tool is called")
        await suite.client.runs.pause(run.run_id)
        await restarted(suite)
        await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
        (tmp_path / "release").touch()
        assert len(suite.notes()) == 1
        await suite.client.runs.resume(run.run_id)
        events = await whole_story(suite, run.run_id)
        assert events[-1].run_finished.result.output == "it said released"
        assert len(suite.notes()) == 2


async def test_a_run_whose_time_is_over_while_it_waits_fails_though_nobody_answers(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(**one_call(tmp_path, tool_policies=ALWAYS, timeout="700ms"))
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    ended = await suite.ended(run.run_id)
    assert (ended.state, ended.result.error.reason) == (
        run_pb2.RUN_STATE_FAILED,
        pb.ERROR_REASON_RUN_TIMEOUT,
    )
    assert ended.result.stop_reason == run_pb2.STOP_REASON_TIMEOUT
    events = await suite.watched(run.run_id)
    check_story(events)
    assert kinds(events)[-3:] == ["run_suspended", "run_claimed", "run_finished"]
    with pytest.raises(InputClosedError, match="its run has ended"):
        await suite.client.inputs.approve(request)
    assert suite.notes() == []


async def test_an_agent_that_is_called_as_a_tool_keeps_its_own_time_while_it_waits(
    opened: OpenSuite, tmp_path: Path
) -> None:
    inner = {"when": {"system_contains": "inner"}, "tool_calls": [{"name": "tools__count"}]}
    call = {"name": "c", "arguments": {"message": "go"}}
    suite = await opened(
        {"rules": [inner], "turns": [{"tool_calls": [call]}, {"text": "{last_tool}", "chunk_size": 1000}]},
        agents={
            "b": {"agents": ["c"]},
            "c": {
                "mcp_servers": ["tools"],
                "tool_policies": ALWAYS,
                "timeout": "700ms",
                "system_prompt": "inner",
            },
        },
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    (request,) = await suite.asked(run.run_id)
    assert request.run_id != run.run_id
    ended = await suite.ended(run.run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    assert "longer than its timeout of 0.7 s" in ended.result.output
    assert await suite.asked(run.run_id, 0) == []
    with pytest.raises(InputClosedError):
        await suite.client.inputs.approve(request)


async def test_what_a_child_asked_is_closed_when_the_tree_is_cancelled(
    opened: OpenSuite, tmp_path: Path
) -> None:
    inner = {"when": {"system_contains": "inner"}, "tool_calls": [{"name": "tools__count"}]}
    call = {"name": "c", "arguments": {"message": "go"}}
    suite = await opened(
        {"rules": [inner], "turns": [{"tool_calls": [call, call]}]},
        agents={
            "b": {"agents": ["c"]},
            "c": {"mcp_servers": ["tools"], "tool_policies": ALWAYS, "system_prompt": "inner"},
        },
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi")
    requests = await suite.asked(run.run_id, 2)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    for request in requests:
        assert (await suite.client.runs.get(request.run_id)).state == run_pb2.RUN_STATE_WAITING
    await suite.client.runs.cancel(run.run_id)
    await suite.ended(run.run_id)
    listed = [each async for each in suite.client.inputs.list(include_closed=True)]
    assert [each.state for each in listed] == [input_pb2.INPUT_STATE_CLOSED] * 2
    for request in requests:
        assert (await suite.client.runs.get(request.run_id)).state == run_pb2.RUN_STATE_CANCELLED
        with pytest.raises(InputClosedError):
            await suite.client.inputs.approve(request)
