"""Tool calls that an engine's stop cut off: repeated, asked about or given up, as their policy says."""

from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import input_pb2, run_pb2
from retinue.engine.v1.event_pb2 import TOOL_CALL_OUTCOME_DENIED
from tests.rpc.engine.test_waiting import ALWAYS, one_call, restarted, whole_story
from tests.suite import Processes, open_processes, until


async def interrupted(suite: Processes) -> tuple[run_pb2.Run, input_pb2.InputRequest]:
    """A run whose call was under way when the engine was killed, and what it asks then."""
    run = await suite.client.runs.start("b", "hi")
    await until(suite.notes, "the tool is called")
    await restarted(suite)
    (request,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    return run, request


async def test_an_interrupted_call_that_is_approved_is_made_again_with_its_key(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, "hold")) as suite:
        run, request = await interrupted(suite)
        assert (request.approval.interrupted, request.approval.tool) == (True, "hold")
        assert request.call_id == "c1"
        assert len(suite.notes()) == 1
        (tmp_path / "release").touch()
        await suite.client.inputs.approve(request)
        events = await whole_story(suite, run.run_id)
        assert events[-1].run_finished.result.output == "it said released"
        starts = [event.tool_call_started for event in events if event.HasField("tool_call_started")]
        assert len(starts) == 2
        assert {each.idempotency_key for each in starts} == {each["key"] for each in suite.notes()}
        assert len({each["key"] for each in suite.notes()}) == 1
        assert len(suite.notes()) == 2
        assert len(suite.model.requests) == 2


async def test_an_interrupted_call_that_is_denied_is_not_made_again(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **one_call(tmp_path, "hold")) as suite:
        run, request = await interrupted(suite)
        await suite.client.inputs.deny(request, "seen it")
        events = await whole_story(suite, run.run_id)
        (end,) = [event.tool_call_completed for event in events if event.HasField("tool_call_completed")]
        assert (end.outcome, end.text) == (
            TOOL_CALL_OUTCOME_DENIED,
            "the call was cut off and may have happened; it was not made again: a person denied it: seen it",
        )
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert len(suite.notes()) == 1


async def test_a_call_that_is_interrupted_again_is_asked_about_again(tmp_path: Path) -> None:
    project = one_call(tmp_path, "hold", tool_policies=ALWAYS)
    async with open_processes(tmp_path, **project) as suite:
        run = await suite.client.runs.start("b", "hi")
        (first,) = await suite.asked(run.run_id)
        assert not first.approval.interrupted
        await suite.client.inputs.approve(first, '{"n": 2}')
        seen = {first.input_id}
        for made in (1, 2):
            await until(lambda made=made: len(suite.notes()) == made, "the tool is called")
            await restarted(suite)
            (request,) = await suite.asked(run.run_id)
            assert request.approval.interrupted
            # What a person has made of the arguments stays.
            assert request.approval.arguments_json == '{"n": 2}'
            assert request.input_id not in seen
            seen.add(request.input_id)
            await suite.client.inputs.approve(request)
        (tmp_path / "release").touch()
        events = await whole_story(suite, run.run_id)
        assert [each["arguments"] for each in suite.notes()] == [{"n": 2}] * 3
        assert events[-1].run_finished.result.output.endswith("released")


async def test_an_interrupted_call_fails_the_run_where_its_policy_says_so(tmp_path: Path) -> None:
    project = one_call(tmp_path, "hold_again", tool_policies=[{"tool": "hold*", "interrupted": "fail"}])
    async with open_processes(tmp_path, **project) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(suite.notes, "the tool is called")
        await restarted(suite)
        events = await whole_story(suite, run.run_id)
        error = events[-1].run_finished.result.error
        assert error.reason == pb.ERROR_REASON_TOOL_CALL_INTERRUPTED
        assert error.metadata == {"server": "tools", "tool": "hold_again"}
        assert len(suite.notes()) == 1


@pytest.mark.parametrize(
    ("tool", "policies", "calls"),
    [
        ("hold", [{"interrupted": "repeat"}], 2),
        ("hold_again", [], 2),
        ("hold_again", [{"interrupted": "ask"}], 1),
    ],
)
async def test_an_interrupted_call_is_repeated_where_that_is_allowed(
    tmp_path: Path, tool: str, policies: list[dict[str, Any]], calls: int
) -> None:
    more = {"tool_policies": policies} if policies else {}
    async with open_processes(tmp_path, **one_call(tmp_path, tool, **more)) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(suite.notes, "the tool is called")
        await suite.engine_process.kill()
        (tmp_path / "release").touch()
        await suite.engine_process.start()
        if calls == 1:
            (request,) = await suite.asked(run.run_id)
            await suite.client.inputs.deny(request)
        events = await whole_story(suite, run.run_id)
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert len(suite.notes()) == calls
        assert len({each["key"] for each in suite.notes()}) == 1
