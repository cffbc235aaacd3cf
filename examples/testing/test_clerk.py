"""Tests of the agents in retinue.yaml; model.yaml has what their models say."""

import json

import pytest

from retinue.client import open_client
from retinue.common.v1 import error_pb2
from retinue.engine.v1 import event_pb2, run_pb2

pytestmark = pytest.mark.asyncio


async def story_of(agent: str, message: str) -> list[event_pb2.RunEvent]:
    """All that happens in a run that asks nobody."""
    async with open_client() as client:
        return [event async for event in client.runs.stream(agent, message)]


async def test_the_clerk_writes_nothing_that_a_person_denies() -> None:
    async with open_client() as client:
        async for event in client.runs.stream("clerk", "Write down: buy milk"):
            if event.HasField("input_requested"):
                asked = event.input_requested.request
                assert asked.approval.tool == "add_note"
                assert "buy milk" in asked.approval.arguments_json
                await client.inputs.deny(asked, "not today")
            if event.HasField("tool_call_completed"):
                assert event.tool_call_completed.outcome == event_pb2.TOOL_CALL_OUTCOME_DENIED
    assert event.run_finished.result.output == "Then I leave it."


async def test_a_clerk_that_goes_on_and_on_is_stopped_by_its_budget() -> None:
    *_, last = await story_of("clerk", "Look again and again.")
    result = last.run_finished.result
    assert result.stop_reason == run_pb2.STOP_REASON_BUDGET
    assert result.turns == 5


async def test_a_plan_that_is_no_json_is_asked_for_again() -> None:
    story = await story_of("planner", "How long does the roof take?")
    assert [event for event in story if event.HasField("output_rejected")]
    result = story[-1].run_finished.result
    assert json.loads(result.structured_json) == {"days": 3}
    assert result.repairs == 1


async def test_a_provider_that_is_busy_is_asked_again() -> None:
    story = await story_of("clerk", "Are you busy?")
    [failure] = [event.message_discarded for event in story if event.HasField("message_discarded")]
    assert failure.error.reason == error_pb2.ERROR_REASON_LLM_RATE_LIMITED
    result = story[-1].run_finished.result
    assert (result.output, result.retries) == ("Here I am.", 1)
