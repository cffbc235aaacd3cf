"""Holds sessions against the stories of their runs: messages, sums, turns."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retinue.engine.v1 import session_pb2
from tests.chaos.facts import Conversation, Facts, Story, View
from tests.chaos.reading import CLOCK_S, seconds, suspended_us, tellings

MICROSECOND_NS = 1000


def wrong_with_session(
    session_id: str, session: Conversation, view: View, stories: Mapping[str, Story]
) -> Iterator[str]:
    """Every message is there once; a run's stand together; the runs are in the order in which they ended."""
    if session.positions != [*range(1, len(session.positions) + 1)]:
        yield f"positions are {session.positions}"
    if session.message_count != len(session.messages):
        yield f"counts {session.message_count} of {len(session.messages)}"
    blocks = [run for place, run in enumerate(session.runs) if not place or session.runs[place - 1] != run]
    if len(blocks) != len(set(blocks)):
        yield "runs are mixed"
    mine = sorted(
        (run_id for run_id in stories if view.runs[run_id].session_id == session_id),
        key=lambda run_id: seconds(stories[run_id][-1]),
    )
    saved = {run_id: tellings(stories[run_id])[run_id].saved for run_id in mine}
    if [run_id for run_id in mine if saved[run_id]] != blocks:
        yield "its runs are not all there in the order in which they ended"
    for run_id in mine:
        said = [each for each, owner in zip(session.messages, session.runs, strict=True) if owner == run_id]
        if said != saved[run_id]:
            yield f"the messages of {run_id} are not those of its story"
    yield from _open_calls(session.messages)
    if session.active_run_id:
        yield f"belongs to {session.active_run_id}, which has ended"
    yield from _wrong_with_totals(session.totals, _totals(mine, view, stories))


def _wrong_with_totals(told: session_pb2.SessionTotals, due: session_pb2.SessionTotals) -> Iterator[str]:
    # Spans are kept in microseconds and told in nanoseconds.
    if abs(told.duration.ToNanoseconds() - due.duration.ToNanoseconds()) > MICROSECOND_NS:
        yield f"its time is not that of its runs: {told.duration}, not {due.duration}"
    told.duration.CopyFrom(due.duration)
    if told != due:
        yield f"sums are not those of its runs: {told}, not {due}"


def _totals(run_ids: Sequence[str], view: View, stories: Mapping[str, Story]) -> session_pb2.SessionTotals:
    totals = session_pb2.SessionTotals(runs=len(run_ids))
    duration_us = 0
    # Present where there is nothing to add as well.
    totals.usage.SetInParent()
    totals.cost.SetInParent()
    for run_id in run_ids:
        result = view.runs[run_id].result
        totals.usage.input_tokens += result.usage.input_tokens
        totals.usage.output_tokens += result.usage.output_tokens
        totals.usage.cached_input_tokens += result.usage.cached_input_tokens
        totals.usage.reasoning_tokens += result.usage.reasoning_tokens
        totals.cost.nano_usd += result.cost.nano_usd
        totals.cost.unknown |= result.cost.unknown
        totals.turns += result.turns
        totals.tool_calls += result.tool_calls
        duration_us += result.duration.ToMicroseconds() - suspended_us(stories[run_id])
    totals.duration.FromMicroseconds(duration_us)
    return totals


def wrong_with_order(facts: Facts, view: View, stories: Mapping[str, Story]) -> Iterator[str]:
    """In a session one run is at work at a time, and who came first goes first."""
    at_work: dict[str, list[tuple[float, float, str]]] = {}
    for run_id, story in stories.items():
        began = next((event for event in story if event.HasField("turn_started")), None)
        if began is not None:
            times = seconds(began), seconds(story[-1]), run_id
            at_work.setdefault(view.runs[run_id].session_id, []).append(times)
    for runs in at_work.values():
        runs.sort()
        for (_, ended, first), (began_at, _, second) in itertools.pairwise(runs):
            if began_at < ended - CLOCK_S:
                yield f"{second} began before {first}, of its session, had ended"
        for place, (_, _, first) in enumerate(runs):
            for _, _, second in runs[place + 1 :]:
                if facts.accepted[second].answered < facts.accepted[first].sent:
                    yield f"{second} came before {first}, of its session, and began after it"


def _open_calls(messages: Sequence[dict[str, Any]]) -> Iterator[str]:
    left: set[str] = set()
    for message in messages:
        if message["role"] == "tool":
            left.discard(message["tool_call_id"])
        elif left:
            yield "a call has no result"
            return
        else:
            left = {call["id"] for call in message.get("tool_calls", ())}
