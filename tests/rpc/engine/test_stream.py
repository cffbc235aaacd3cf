"""A run's story on the wire: whole, in order, from any place, for any number of watchers."""

import asyncio
from collections.abc import Awaitable, Callable

import grpc
import pytest

from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.errors import InvalidArgumentError, RunNotFoundError, SequenceOutOfRangeError
from retinue.registry.v1 import component_pb2
from tests.suite import Suite, check_story, kinds, until

OpenSuite = Callable[..., Awaitable[Suite]]
LONG = {"default": {"chunks": [f"word{n} " for n in range(200)], "chunk_delay_ms": 2}}


async def bytes_of(suite: Suite, run_id: str, after: int = 0) -> list[bytes]:
    """The responses of a watch, as they are on the wire."""
    raw = suite.client.runs._channel.channel.unary_stream("/retinue.engine.v1.RunService/WatchRun")
    request = service_pb2.WatchRunRequest(run_id=run_id, after_sequence=after)
    return [response async for response in raw(request.SerializeToString())]


async def test_a_story_is_whole_and_says_where_it_happened(opened: OpenSuite) -> None:
    suite = await opened()
    events = await suite.story(message="how are you?", session_id="s")
    check_story(events)
    assert kinds(events) == [
        "run_started",
        "turn_started",
        "text_delta",
        "message_completed",
        "run_finished",
    ]
    assert [event.path for event in events] == ["", *["turn:1"] * (len(events) - 2), ""]
    started = events[0].run_started
    assert (started.message, started.session_id, started.base_session_id) == ("how are you?", "s", "s")
    assert (started.target.kind, started.target.name) == (component_pb2.COMPONENT_KIND_AGENT, "a")
    assert started.target.version >= 1
    assert [each.name for each in started.dependencies] == ["m"]
    assert (events[1].turn_started.turn, events[1].turn_started.llm) == (1, "m")
    assert events[1].turn_started.model == "scripted"
    completed = events[-2].message_completed
    assert (completed.text, completed.finish_reason) == ("hello world", "stop")
    assert completed.duration.ToMicroseconds() >= completed.time_to_first_text.ToMicroseconds() > 0
    result = events[-1].run_finished.result
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "hello world")
    assert (result.turns, result.tool_calls, result.finish_reason) == (1, 0, "stop")
    times = [event.time.ToNanoseconds() for event in events]
    assert times == sorted(times)


async def test_a_finished_run_can_be_watched_from_every_number(opened: OpenSuite) -> None:
    suite = await opened(LONG)
    events = await suite.story()
    check_story(events)
    run_id = events[0].run_id
    for after in range(len(events) + 1):
        assert await suite.watched(run_id, after) == events[after:]
    assert await bytes_of(suite, run_id, len(events)) == []


async def test_a_running_run_can_be_watched_from_every_number(opened: OpenSuite) -> None:
    suite = await opened(LONG)
    run = await suite.client.runs.start("a", "hi")
    tails: dict[int, asyncio.Task[list[event_pb2.RunEvent]]] = {}
    events = []
    async for event in suite.client.runs.watch(run.run_id):
        events.append(event)
        for after in {0, event.sequence // 2, event.sequence}:
            if after not in tails:
                tails[after] = asyncio.create_task(suite.watched(run.run_id, after))
    check_story(events)
    assert len(tails) > 20
    for after, tail in tails.items():
        assert await tail == events[after:], after


async def test_a_watch_that_begins_inside_a_record_gets_the_rest_of_it(opened: OpenSuite) -> None:
    suite = await opened({"default": {"text": "x" * 20}})
    events = await suite.story()
    responses = [
        service_pb2.WatchRunResponse.FromString(data) for data in await bytes_of(suite, events[0].run_id)
    ]
    assert [event for each in responses for event in each.events] == events
    assert responses[-1].through_sequence == len(events)
    for after in range(1, len(events)):
        tail = [
            service_pb2.WatchRunResponse.FromString(data)
            for data in await bytes_of(suite, events[0].run_id, after)
        ]
        assert [event for each in tail for event in each.events] == events[after:]
        assert tail[-1].through_sequence == len(events)


async def test_a_watch_past_the_end_is_out_of_range_and_says_where_the_end_is(opened: OpenSuite) -> None:
    suite = await opened()
    events = await suite.story()
    with pytest.raises(SequenceOutOfRangeError) as refused:
        await suite.watched(events[0].run_id, len(events) + 1)
    assert refused.value.facts == {
        "after_sequence": str(len(events) + 1),
        "last_sequence": str(len(events)),
    }
    with pytest.raises(InvalidArgumentError):
        await suite.watched(events[0].run_id, -1)
    with pytest.raises(RunNotFoundError) as unknown:
        await suite.watched("run-none")
    assert unknown.value.facts == {"run_id": "run-none"}


async def test_a_watch_past_the_end_of_a_running_run_is_out_of_range(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    run = await suite.client.runs.start("a", "hi")
    with pytest.raises(SequenceOutOfRangeError):
        await suite.watched(run.run_id, 50)


async def test_fifty_watchers_see_the_same_story(opened: OpenSuite) -> None:
    suite = await opened(LONG)
    run = await suite.client.runs.start("a", "hi")
    stories = await asyncio.gather(*(bytes_of(suite, run.run_id) for _ in range(50)))
    stored = b"".join(await bytes_of(suite, run.run_id))
    whole = service_pb2.WatchRunResponse.FromString(stored)
    check_story(list(whole.events))
    for story in stories:
        assert b"".join(story) == stored


async def test_a_watcher_that_does_not_read_slows_nobody_and_gets_all_in_the_end(opened: OpenSuite) -> None:
    suite = await opened({"default": {"chunks": ["x" * 10_000 for _ in range(90)]}})
    run = await suite.client.runs.start("a", "hi")
    request = service_pb2.WatchRunRequest(run_id=run.run_id)
    slow = suite.runs.WatchRun(request)
    first = await slow.read()
    assert isinstance(first, service_pb2.WatchRunResponse)
    ended = await suite.ended(run.run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    events = list(first.events)
    while (response := await slow.read()) is not grpc.aio.EOF:
        events.extend(response.events)
    check_story(events)
    assert events == await suite.watched(run.run_id)


async def test_a_run_goes_on_when_its_caller_goes_away(opened: OpenSuite) -> None:
    suite = await opened(LONG)
    stream = suite.client.runs.stream("a", "hi", labels={"who": "me"})
    seen = []
    async for event in stream:
        seen.append(event)
        if event.WhichOneof("event") == "text_delta":
            break
    await stream.aclose()
    ended = await suite.ended(seen[0].run_id)
    assert ended.state == run_pb2.RUN_STATE_SUCCEEDED
    assert ended.labels == {"who": "me"}
    story = await suite.watched(seen[0].run_id)
    check_story(story)
    assert story[: len(seen)] == seen


async def test_a_silent_stream_says_that_it_lives_and_how_far_it_is(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}}, heartbeat_s=0.05)
    call = suite.runs.StreamRun(
        service_pb2.StreamRunRequest(
            run=service_pb2.RunRequest(
                target=component_pb2.ComponentRef(name="a"), message="hi", session_id="s"
            )
        )
    )
    seen, beats = 0, []
    while len(beats) < 3:
        response = await call.read()
        assert isinstance(response, service_pb2.StreamRunResponse)
        if response.events:
            seen = response.events[-1].sequence
            assert not beats
        else:
            beats.append(response.through_sequence)
    # Who goes on from a heartbeat's number must not begin again.
    assert beats == [seen] * 3
    call.cancel()


async def test_a_stream_of_a_queued_run_says_that_it_lives(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}}, heartbeat_s=0.2)
    await suite.client.runs.start("a", "hi", session_id="s")
    queued = await suite.client.runs.start("a", "hi", session_id="s")
    assert queued.state == run_pb2.RUN_STATE_QUEUED
    call = suite.runs.WatchRun(service_pb2.WatchRunRequest(run_id=queued.run_id))
    first = await call.read()
    assert isinstance(first, service_pb2.WatchRunResponse)
    assert [each.sequence for each in first.events] == [1]
    beat = await call.read()
    assert isinstance(beat, service_pb2.WatchRunResponse)
    assert (list(beat.events), beat.through_sequence) == ([], 1)
    call.cancel()


async def test_the_first_event_is_stored_before_start_is_answered(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}})
    run = await suite.client.runs.start("a", "hi")
    assert run.state == run_pb2.RUN_STATE_RUNNING
    assert run.run_id.startswith("run-")
    assert len(run.run_id) == 28
    responses = suite.runs.WatchRun(service_pb2.WatchRunRequest(run_id=run.run_id))
    first = await responses.read()
    assert isinstance(first, service_pb2.WatchRunResponse)
    assert first.events[0].WhichOneof("event") == "run_started"
    responses.cancel()
    await until(lambda: suite.model.requests, "the model is asked")


async def test_a_stream_of_a_known_request_shows_the_same_run(opened: OpenSuite) -> None:
    suite = await opened()
    first = await suite.story(request_id="once")
    again = await suite.story(request_id="once")
    assert again == first
    assert len(suite.model.requests) == 1


async def test_the_status_of_an_unknown_run_carries_error_info(opened: OpenSuite) -> None:
    suite = await opened()
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await suite.runs.GetRun(service_pb2.GetRunRequest(run_id="run-x"))
    assert refused.value.code() == grpc.StatusCode.NOT_FOUND
    assert "grpc-status-details-bin" in dict(refused.value.trailing_metadata() or ())
