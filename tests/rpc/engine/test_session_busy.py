"""Sessions that are busy: a new run waits, is refused, or takes the place of those before it."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import (
    ComponentNotFoundError,
    InvalidArgumentError,
    RequestIdReusedError,
    SessionBusyError,
)
from tests.suite import Suite, check_story, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

ENQUEUE = service_pb2.SESSION_BUSY_POLICY_ENQUEUE
REJECT = service_pb2.SESSION_BUSY_POLICY_REJECT
INTERRUPT = service_pb2.SESSION_BUSY_POLICY_INTERRUPT
HELD = {"rules": [{"when": {"user_contains": "hold"}, "hang": True}], "default": {"text": "ok"}}


async def held(opened: OpenSuite) -> tuple[Suite, str]:
    """A suite in whose session `s` a run hangs, and which."""
    suite = await opened(HELD)
    run = await suite.client.runs.start("a", "hold", session_id="s")
    await until(lambda: suite.model.requests, "the model is asked")
    return suite, run.run_id


async def known(suite: Suite) -> list[str]:
    """All runs, the oldest first."""
    return [run.run_id async for run in suite.client.runs.list()][::-1]


@pytest.mark.parametrize("policy", [service_pb2.SESSION_BUSY_POLICY_UNSPECIFIED, ENQUEUE])
async def test_a_run_that_may_wait_begins_when_the_one_before_it_has_ended(
    opened: OpenSuite, policy: service_pb2.SessionBusyPolicy.ValueType
) -> None:
    suite, first = await held(opened)
    run = await suite.client.runs.start("a", "hi", session_id="s", session_busy=policy)
    assert run.state == run_pb2.RUN_STATE_QUEUED
    assert (await suite.client.sessions.get("s")).active_run_id == first
    await suite.client.runs.cancel(first)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert (await suite.client.sessions.get("s")).active_run_id == ""


async def test_a_run_that_may_not_wait_is_refused_and_leaves_nothing_behind(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    before = await suite.client.sessions.get("s")
    with pytest.raises(SessionBusyError) as refused:
        await suite.client.runs.start("a", "hi", session_id="s", session_busy=REJECT, request_id="r")
    assert refused.value.facts["session_id"] == "s"
    assert await known(suite) == [first]
    assert await suite.client.sessions.get("s") == before
    # The same request may be sent again, and is accepted once the session is free.
    await suite.client.runs.cancel(first)
    await suite.ended(first)
    run = await suite.client.runs.start("a", "hi", session_id="s", session_busy=REJECT, request_id="r")
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    # And again finds the run, whether or not the session is busy by then.
    await suite.client.runs.start("a", "hold", session_id="s")
    again = await suite.client.runs.start("a", "hi", session_id="s", session_busy=REJECT, request_id="r")
    assert again.run_id == run.run_id


async def test_other_sessions_and_new_ones_are_not_busy(opened: OpenSuite) -> None:
    suite, _ = await held(opened)
    for session_id in ("t", ""):
        result = await suite.result(session_id=session_id, session_busy=REJECT)
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_session_whose_run_waits_for_a_person_is_busy(opened: OpenSuite, tmp_path: Path) -> None:
    script = {"turns": [{"tool_calls": [{"name": "tools__count"}]}, {"text": "ok"}]}
    policy = {"approval": "always"}
    suite = await opened(
        script,
        agents={"b": {"mcp_servers": ["tools"], "tool_policies": [policy]}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    run = await suite.client.runs.start("b", "hi", session_id="s")

    async def waits() -> bool:
        return (await suite.client.runs.get(run.run_id)).state == run_pb2.RUN_STATE_WAITING

    await until(waits, "the run waits")
    with pytest.raises(SessionBusyError):
        await suite.client.runs.start("a", "hi", session_id="s", session_busy=REJECT)
    newer = await suite.client.runs.start("a", "newer", session_id="s", session_busy=INTERRUPT)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
    assert (await suite.ended(newer.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert [each async for each in suite.client.inputs.list()] == []
    assert suite.notes() == []


async def test_a_run_that_interrupts_ends_those_before_it_and_begins_then(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    queued = [
        (await suite.client.runs.start("a", f"queued {number}", session_id="s")).run_id for number in range(3)
    ]
    elsewhere = await suite.client.runs.start("a", "hold", session_id="t")
    run = await suite.client.runs.start("a", "hi", session_id="s", session_busy=INTERRUPT)
    events = await suite.watched(run.run_id)
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
    began = next(event for event in events if event.WhichOneof("event") == "turn_started")
    for run_id in (first, *queued):
        ended = await suite.ended(run_id)
        assert (ended.state, ended.result.cancel_reason) == (
            run_pb2.RUN_STATE_CANCELLED,
            "interrupted by a newer run of the session",
        )
        story = await suite.watched(run_id)
        check_story(story)
        assert kinds(story).count("turn_started") == (run_id == first)
        assert story[-1].time.ToMicroseconds() <= began.time.ToMicroseconds()
    assert (await suite.client.runs.get(elsewhere.run_id)).state == run_pb2.RUN_STATE_RUNNING
    assert [each["content"] for each in await suite.messages("s")] == ["hi", "ok"]


async def test_an_interrupt_that_is_sent_again_ends_nothing_more(opened: OpenSuite) -> None:
    suite, first = await held(opened)

    async def interrupt(message: str) -> str:
        run = await suite.client.runs.start(
            "a", message, session_id="s", session_busy=INTERRUPT, request_id="once"
        )
        return run.run_id

    run_id = await interrupt("hold again")
    assert (await suite.ended(first)).state == run_pb2.RUN_STATE_CANCELLED
    await until(lambda: len(suite.model.requests) == 2, "the new run has begun")
    behind = await suite.client.runs.start("a", "behind", session_id="s")
    assert await interrupt("hold again") == run_id
    with pytest.raises(RequestIdReusedError):
        await interrupt("something else")
    assert (await suite.client.runs.get(run_id)).state == run_pb2.RUN_STATE_RUNNING
    assert (await suite.client.runs.get(behind.run_id)).state == run_pb2.RUN_STATE_QUEUED
    assert await known(suite) == [first, run_id, behind.run_id]


async def test_an_interrupt_of_an_idle_session_is_a_run_like_any_other(opened: OpenSuite) -> None:
    suite = await opened()
    for session_id in ("s", "s", ""):
        result = await suite.result(session_id=session_id, session_busy=INTERRUPT)
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert len(await suite.messages("s")) == 4


async def test_a_request_that_is_refused_interrupts_nothing(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    with pytest.raises(ComponentNotFoundError):
        await suite.client.runs.start("nobody", "hi", session_id="s", session_busy=INTERRUPT)
    options = run_pb2.RunOptions(output_schema_json="{")
    with pytest.raises(InvalidArgumentError):
        await suite.client.runs.start("a", "hi", session_id="s", session_busy=INTERRUPT, options=options)
    assert (await suite.client.runs.get(first)).state == run_pb2.RUN_STATE_RUNNING
