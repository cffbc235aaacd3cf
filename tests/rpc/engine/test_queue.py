"""Runs that wait for a free place: who begins first, who waits too long, who finds the queue full."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.rpc import error_details_pb2, status_pb2

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2, service_pb2
from retinue.errors import InvalidArgumentError, TooManyRunsError
from retinue.registry.v1 import agent_pb2, component_pb2, llm_pb2
from tests.suite import Suite, check_story, kinds, open_processes, until

OpenSuite = Callable[..., Awaitable[Suite]]

HELD = {"rules": [{"when": {"user_contains": "hold"}, "hang": True}], "default": {"text": "ok"}}


async def held(opened: OpenSuite, **settings: Any) -> tuple[Suite, str]:
    """A suite whose one place is taken, and by which run."""
    suite = await opened(HELD, max_active_runs=1, **settings)
    run = await suite.client.runs.start("a", "hold")
    assert run.state == run_pb2.RUN_STATE_RUNNING
    await until(lambda: suite.model.requests, "the model is asked")
    return suite, run.run_id


def asked(suite: Suite) -> list[str]:
    """The messages of the runs that have begun, in the order in which they did."""
    return [each["messages"][-1]["content"] for each in suite.model.requests]


async def queue(suite: Suite, message: str, **more: Any) -> str:
    """Start a run that finds no place."""
    run = await suite.client.runs.start("a", message, **more)
    assert run.state == run_pb2.RUN_STATE_QUEUED
    return run.run_id


async def test_higher_priority_begins_first_and_then_who_came_first(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    priorities = [0, -100, 5, 0, 100, 5]
    runs = [await queue(suite, f"m{number}", priority=priority) for number, priority in enumerate(priorities)]
    assert (await suite.client.runs.get(runs[2])).priority == 5
    await suite.client.runs.cancel(first)
    for run_id in runs:
        assert (await suite.ended(run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        check_story(await suite.watched(run_id))
    assert asked(suite) == ["hold", "m4", "m2", "m5", "m0", "m3", "m1"]


async def test_in_a_session_the_older_one_begins_first_whatever_its_priority(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    runs = [
        await queue(suite, "older", session_id="s", priority=-5),
        await queue(suite, "newer", session_id="s", priority=90),
        await queue(suite, "other", priority=0),
    ]
    await suite.client.runs.cancel(first)
    for run_id in runs:
        await suite.ended(run_id)
    assert asked(suite) == ["hold", "other", "older", "newer"]


async def test_namespaces_take_turns(opened: OpenSuite) -> None:
    suite, first = await held(opened, api_hosts="127.0.0.1")
    for namespace in ("x", "y"):
        # What comes by API is in any namespace.
        llm = llm_pb2.LlmSpec(
            model="scripted", protocol=llm_pb2.LLM_PROTOCOL_OPENAI_CHAT, base_url=suite.model.base_url
        )
        await suite.client.components.apply(
            [
                component_pb2.Component(
                    namespace=namespace, kind=component_pb2.COMPONENT_KIND_LLM, name="m", llm=llm
                ),
                component_pb2.Component(
                    namespace=namespace,
                    kind=component_pb2.COMPONENT_KIND_AGENT,
                    name="a",
                    agent=agent_pb2.AgentSpec(llm="m"),
                ),
            ]
        )

    async def start(namespace: str, message: str, priority: int = 0) -> service_pb2.GetRunRequest:
        run = service_pb2.RunRequest(
            namespace=namespace,
            target=component_pb2.ComponentRef(name="a"),
            message=message,
            priority=priority,
        )
        response = await suite.runs.StartRun(service_pb2.StartRunRequest(run=run))
        assert response.run.state == run_pb2.RUN_STATE_QUEUED
        return service_pb2.GetRunRequest(namespace=namespace, run_id=response.run.run_id)

    waiting = [await start("x", f"x{number}", priority=100) for number in range(4)]
    waiting += [await start("y", f"y{number}") for number in range(2)]
    waiting += [await start("default", f"d{number}") for number in range(2)]
    await suite.client.runs.cancel(first)
    for request in waiting:

        async def ended(which: service_pb2.GetRunRequest = request) -> bool:
            return (await suite.runs.GetRun(which)).run.state == run_pb2.RUN_STATE_SUCCEEDED

        await until(ended, "the run ends")
    order = asked(suite)[1:]
    # Whoever begins, each has its turn before any has its next.
    assert {each[0] for each in order[:3]} == {"x", "y", "d"}
    assert {each[0] for each in order[3:6]} == {"x", "y", "d"}
    assert order[6:] == ["x2", "x3"]
    for name in "xyd":
        own = [each for each in order if each[0] == name]
        assert own == sorted(own)


async def test_a_run_that_waits_too_long_fails_without_having_begun(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    run_id = await queue(suite, "late", queue_timeout=timedelta(milliseconds=200), session_id="s")
    ended = await suite.ended(run_id)
    assert (ended.state, ended.result.stop_reason) == (
        run_pb2.RUN_STATE_FAILED,
        run_pb2.STOP_REASON_TIMEOUT,
    )
    assert ended.result.error.reason == pb.ERROR_REASON_RUN_EXPIRED
    assert dict(ended.result.error.metadata) == {"queue_timeout_s": "0.2"}
    events = await suite.watched(run_id)
    check_story(events)
    assert kinds(events) == ["run_started", "run_claimed", "run_finished"]
    assert asked(suite) == ["hold"]
    assert (await suite.client.runs.get(first)).state == run_pb2.RUN_STATE_RUNNING
    # Nothing of it is left in its session.
    assert await suite.messages("s") == []
    again = await queue(suite, "again", session_id="s")
    await suite.client.runs.cancel(first)
    assert (await suite.ended(again)).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_run_behind_its_session_may_wait_too_long_as_well(opened: OpenSuite) -> None:
    suite = await opened(HELD)
    first = await suite.client.runs.start("a", "hold", session_id="s")
    late = await queue(suite, "late", session_id="s", queue_timeout=timedelta(milliseconds=200))
    patient = await queue(suite, "patient", session_id="s", queue_timeout=timedelta(hours=1))
    assert (await suite.ended(late)).result.error.reason == pb.ERROR_REASON_RUN_EXPIRED
    assert (await suite.client.runs.get(first.run_id)).state == run_pb2.RUN_STATE_RUNNING
    assert (await suite.client.runs.get(patient)).state == run_pb2.RUN_STATE_QUEUED
    await suite.client.runs.cancel(first.run_id)
    assert (await suite.ended(patient)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert asked(suite) == ["hold", "patient"]


async def test_time_that_was_enough_is_not_counted_later(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "ok", "delay_ms": 400}}, max_active_runs=1)
    result = await suite.result(queue_timeout=timedelta(milliseconds=100))
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_queued_run_is_cancelled_without_having_begun(opened: OpenSuite) -> None:
    suite, first = await held(opened)
    gone, stays = await queue(suite, "gone"), await queue(suite, "stays")
    await suite.client.runs.cancel(gone, reason="no need")
    ended = await suite.ended(gone)
    assert (ended.state, ended.result.cancel_reason) == (run_pb2.RUN_STATE_CANCELLED, "no need")
    assert (await suite.client.runs.get(stays)).state == run_pb2.RUN_STATE_QUEUED
    await suite.client.runs.cancel(first)
    assert (await suite.ended(stays)).state == run_pb2.RUN_STATE_SUCCEEDED
    assert asked(suite) == ["hold", "stays"]


async def test_a_stream_of_a_queued_run_shows_it_and_goes_on_when_it_begins(opened: OpenSuite) -> None:
    suite, first = await held(opened, heartbeat_s=0.05)
    request = service_pb2.RunRequest(target=component_pb2.ComponentRef(name="a"), message="hi")
    stream = suite.runs.StreamRun(service_pb2.StreamRunRequest(run=request))
    events = []
    async for response in stream:
        events += response.events
        if not response.events:
            assert kinds(events) == ["run_started"]
            await suite.client.runs.cancel(first)
    check_story(events)
    assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED


async def test_places_are_used_and_no_more_than_there_are(opened: OpenSuite) -> None:
    script = {"default": {"text": "ok", "delay_ms": 20}}
    suite = await opened(script, max_active_runs=3)
    most = 0

    async def count() -> None:
        nonlocal most
        while True:
            states = [run_pb2.RUN_STATE_RUNNING]
            most = max(most, len([run async for run in suite.client.runs.list(states=states)]))

    counting = asyncio.create_task(count())
    try:
        results = await asyncio.gather(*(suite.result(message=f"m{number}") for number in range(30)))
    finally:
        counting.cancel()
    assert {each.state for each in results} == {run_pb2.RUN_STATE_SUCCEEDED}
    assert most == 3


async def test_a_full_queue_refuses_and_says_when_to_try_again(opened: OpenSuite) -> None:
    suite, first = await held(opened, max_queued_runs=1)
    queued = await queue(suite, "hi", request_id="q")
    with pytest.raises(TooManyRunsError) as refused:
        await suite.client.runs.start("a", "hi")
    assert refused.value.facts == {"limit": "1", "retry_after_s": "5"}
    run = service_pb2.RunRequest(target=component_pb2.ComponentRef(name="a"), message="hi")
    with pytest.raises(grpc.aio.AioRpcError) as raw:
        await suite.runs.StartRun(service_pb2.StartRunRequest(run=run))
    assert raw.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    data = dict(raw.value.trailing_metadata() or ())["grpc-status-details-bin"]
    assert isinstance(data, bytes)
    retry = error_details_pb2.RetryInfo()
    details = status_pb2.Status.FromString(data).details
    assert [each.Unpack(retry) for each in details] == [False, True]
    assert retry.retry_delay == Duration(seconds=5)
    # One that is accepted already is found all the same.
    assert (await suite.client.runs.start("a", "hi", request_id="q")).run_id == queued
    assert [run.run_id async for run in suite.client.runs.list()] == [queued, first]
    await suite.client.runs.cancel(first)
    await suite.ended(queued)

    async def accepted() -> bool:
        try:
            return bool(await suite.client.runs.start("a", "hi"))
        except TooManyRunsError:
            return False

    await until(accepted, "there is room again")


async def test_a_full_queue_is_nothing_to_a_run_that_need_not_wait(opened: OpenSuite) -> None:
    suite = await opened(HELD, max_queued_runs=1)
    await suite.client.runs.start("a", "hold", session_id="s")
    await queue(suite, "hi", session_id="s")
    for session_id in ("", "new", "new"):
        assert (await suite.result(session_id=session_id)).state == run_pb2.RUN_STATE_SUCCEEDED
    with pytest.raises(TooManyRunsError):
        await suite.client.runs.start("a", "hi", session_id="s")


@pytest.mark.parametrize(
    ("field", "run"),
    [
        ("priority", service_pb2.RunRequest(priority=101)),
        ("priority", service_pb2.RunRequest(priority=-101)),
        ("queue_timeout", service_pb2.RunRequest(queue_timeout=Duration())),
        ("queue_timeout", service_pb2.RunRequest(queue_timeout=Duration(seconds=-1))),
        ("session_busy", service_pb2.RunRequest(session_busy=9)),  # type: ignore[arg-type]
    ],
)
async def test_what_makes_no_sense_is_refused(
    opened: OpenSuite, field: str, run: service_pb2.RunRequest
) -> None:
    suite = await opened()
    run.message = "hi"
    run.target.name = "a"
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs._channel.unary(suite.runs.StartRun, service_pb2.StartRunRequest(run=run))
    assert [each.field for each in refused.value.violations] == [f"run.{field}"]


async def test_a_restart_keeps_the_queue_and_its_order(tmp_path: Path) -> None:
    env = {"RETINUE_MAX_ACTIVE_RUNS": "1"}
    script = {
        "rules": [{"when": {"user_contains": "hold"}, "times": 1, "hang": True}],
        "default": {"text": "ok"},
    }
    async with open_processes(tmp_path, script, env=env) as suite:
        first = await suite.client.runs.start("a", "hold")
        await until(lambda: suite.model.requests, "the model is asked")
        runs = [
            await queue(suite, "low", priority=-1),
            await queue(suite, "high", priority=1),
            await queue(suite, "same", priority=-1),
        ]
        late = await queue(suite, "late", priority=-2, queue_timeout=timedelta(milliseconds=100))
        await suite.engine_process.kill()
        await suite.engine_process.start()
        for run_id in (first.run_id, *runs):
            check_story(await suite.watched(run_id))
            assert (await suite.client.runs.get(run_id)).state == run_pb2.RUN_STATE_SUCCEEDED
        assert (await suite.ended(late)).result.error.reason == pb.ERROR_REASON_RUN_EXPIRED
        assert asked(suite) == ["hold", "hold", "high", "low", "same"]
