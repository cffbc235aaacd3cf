"""Watches that are not for every event: what they show, and where one can go on from."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import event_pb2, run_pb2, service_pb2
from retinue.errors import InvalidArgumentError, SequenceOutOfRangeError
from tests.suite import Suite, check_tree, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

AGENTS = {
    "boss": {"system_prompt": "the boss", "agents": ["worker"], "mcp_servers": ["tools"]},
    "worker": {"system_prompt": "the worker", "mcp_servers": ["tools"]},
}
ASKED = {"name": "worker", "arguments": {"message": "go"}}
LOOK = {"name": "tools__look"}
SCRIPT = {
    "rules": [
        {"when": {"system_contains": "boss", "turn": 1}, "text": "I ask", "tool_calls": [ASKED, LOOK, ASKED]},
        {"when": {"system_contains": "boss", "turn": 2}, "tool_calls": [LOOK]},
        {"when": {"turn": 1}, "text": "I look", "tool_calls": [LOOK, LOOK]},
    ],
    "default": {"text": "that is all there is to say", "chunk_size": 3, "chunk_delay_ms": 5},
}

TYPES = ["text_delta", "message_completed"]
FILTERS: list[tuple[list[str], str]] = [
    (["text_delta"], ""),
    (["tool_call_started", "tool_call_completed"], ""),
    (["run_finished"], ""),
    (["run_suspended"], ""),
    ([], "turn:1"),
    ([], "turn:1/call:1"),
    ([], "turn:2"),
    ([], "turn:1/call"),
    ([], "turn:9"),
    (TYPES, "turn:1/call:3"),
    (["child_run_started"], "turn:1"),
]


async def opened_with(opened: OpenSuite, folder: Path, **more: Any) -> Suite:
    return await opened(SCRIPT, agents=AGENTS, mcp_servers={"tools": stdio_server(folder)}, **more)


def fits(event: event_pb2.RunEvent, types: Sequence[str], path: str) -> bool:
    below = not path or event.path == path or event.path.startswith(path + "/")
    return below and (not types or event.WhichOneof("event") in types)


async def responses(
    suite: Suite, run_id: str, after: int = 0, types: Sequence[str] = (), path: str = ""
) -> list[service_pb2.WatchRunResponse]:
    """The raw answers of a watch, to its end."""
    request = service_pb2.WatchRunRequest(run_id=run_id, after_sequence=after, event_types=types, path=path)
    return [response async for response in suite.runs.WatchRun(request)]


def events_of(answers: Sequence[service_pb2.WatchRunResponse]) -> list[event_pb2.RunEvent]:
    return [event for response in answers for event in response.events]


async def test_a_filtered_watch_shows_the_same_live_and_later(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path)
    run = await suite.client.runs.start("boss", "hi")
    live = await asyncio.gather(
        suite.watched(run.run_id), *(responses(suite, run.run_id, 0, *which) for which in FILTERS)
    )
    whole, *parts = live
    check_tree(whole)
    for which, part in zip(FILTERS, parts, strict=True):
        wanted = [event for event in whole if fits(event, *which)]
        assert events_of(part) == wanted, which
        assert events_of(await responses(suite, run.run_id, 0, *which)) == wanted, which
    assert any(fits(event, *FILTERS[9]) for event in whole)


async def test_every_answer_says_where_to_go_on_from(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path)
    run = await suite.client.runs.start("boss", "hi")
    for which in FILTERS:
        answers = await responses(suite, run.run_id, 0, *which)
        wanted = events_of(answers)
        seen: list[event_pb2.RunEvent] = []
        through = 0
        for answer in answers:
            assert all(through < event.sequence <= answer.through_sequence for event in answer.events)
            assert answer.through_sequence >= through
            through = answer.through_sequence
            seen += answer.events
            rest = events_of(await responses(suite, run.run_id, through, *which))
            assert seen + rest == wanted, which
    (last,) = events_of(await responses(suite, run.run_id, 0, ["run_finished"]))
    # All of it was gone through, though hardly anything was shown.
    assert through == last.sequence


async def test_a_filtered_watch_of_a_child_may_name_the_path_from_either_end(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path)
    whole = await suite.story("boss")
    check_tree(whole)
    for child in [event for event in whole if event.WhichOneof("event") == "child_run_started"]:
        inside = [event for event in whole if event.path.startswith(child.path)]
        assert events_of(await responses(suite, child.run_id)) == inside
        for path in ("turn:1", f"{child.path}/turn:1"):
            found = events_of(await responses(suite, child.run_id, path=path))
            assert found == [event for event in inside if event.path.startswith(f"{child.path}/turn:1")]
        ends = events_of(await responses(suite, child.run_id, types=["child_run_finished"]))
        assert [event.run_id for event in ends] == [child.run_id]
        with pytest.raises(SequenceOutOfRangeError):
            async for _ in suite.client.runs.watch(child.run_id, after_sequence=len(whole) + 1):
                pass


async def test_a_type_that_no_event_has_is_refused(opened: OpenSuite) -> None:
    suite = await opened()
    run = (await suite.story())[0].run_id
    with pytest.raises(InvalidArgumentError) as refused:
        async for _ in suite.client.runs.watch(run, event_types=["text_delta", "text", "RunFinished"]):
            pass
    assert [each.field for each in refused.value.violations] == ["event_types"] * 2
    assert ["'text'" in each.description for each in refused.value.violations] == [True, False]


async def test_a_filtered_watch_is_alive_while_it_shows_nothing(opened: OpenSuite) -> None:
    suite = await opened({"default": {"hang": True}}, heartbeat_s=0.05)
    run = await suite.client.runs.start("a", "hi")
    await until(lambda: suite.model.requests, "the model is asked")
    request = service_pb2.WatchRunRequest(run_id=run.run_id, event_types=["run_finished"])
    silent, told = 0, []
    async for response in suite.runs.WatchRun(request):
        told += response.events
        silent += not response.events
        assert response.through_sequence <= 3
        if silent == 5 and not response.events:
            # So far nothing was shown, and yet one can go on from there.
            assert (told, response.through_sequence) == ([], 2)
            await suite.client.runs.cancel(run.run_id)
    assert [event.run_finished.result.state for event in told] == [run_pb2.RUN_STATE_CANCELLED]
