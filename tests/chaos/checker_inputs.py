"""Holds the requests for input of stories against their rows, and against what people were told."""

from collections.abc import Iterator, Mapping

from retinue.engine.v1 import input_pb2, run_pb2
from tests.chaos.facts import Facts, Story, View
from tests.chaos.reading import Asking, Telling, tellings


def wrong_with_inputs(facts: Facts, view: View, stories: Mapping[str, Story]) -> Iterator[str]:
    """Each has one answer at most, the one that was accepted, and its row says so."""
    known = set()
    for run_id, story in stories.items():
        cut_short = view.runs[run_id].state != run_pb2.RUN_STATE_SUCCEEDED
        for run in tellings(story).values():
            for input_id, asking in run.askings.items():
                known.add(input_id)
                for what in _wrong_with_input(facts, view, asking, cut_short=cut_short):
                    yield f"{run.run_id}: {input_id} {what}"
            yield from (f"{run.run_id}: {what}" for what in _wrong_with_calls(run))
    others = {each for each, request in view.inputs.items() if request.root_run_id in stories} - known
    if others:
        yield f"requests for input that no story tells of: {others}"


def _wrong_with_calls(run: Telling) -> Iterator[str]:
    for call in run.calls.values():
        for before, after in zip(call.askings, call.askings[1:], strict=False):
            if not before.received or before.received[0].sequence > after.event.sequence:
                yield f"{call.asked.name} was asked about again before there was an answer"


def _wrong_with_input(facts: Facts, view: View, asking: Asking, *, cut_short: bool) -> Iterator[str]:
    request = asking.request
    if len(asking.received) > 1:
        yield f"has {len(asking.received)} answers in its story"
    answer = asking.answer
    if answer is None and not cut_short:
        yield "has no answer, and its run succeeded"
    if answer is not None and answer.HasField("expired"):
        at_us = asking.received[0].time.ToMicroseconds()
        if at_us < request.expire_time.ToMicroseconds() and not request.question.server:
            yield "was given up before its time"
    told = facts.answered.get(request.input_id, ())
    if any(each != told[0] for each in told):
        yield "took two answers"
    # Of a run that was cut short an answer may have come too late.
    if told and answer != told[0] and not (answer is None and cut_short):
        yield "was answered, and its story has another answer"
    yield from _wrong_with_row(view.inputs.get(request.input_id), request, answer)


def _wrong_with_row(
    row: input_pb2.InputRequest | None, request: input_pb2.InputRequest, answer: input_pb2.InputAnswer | None
) -> Iterator[str]:
    if row is None:
        yield "has no row"
        return
    asked = input_pb2.InputRequest()
    asked.CopyFrom(row)
    asked.ClearField("answer")
    asked.state = request.state
    if asked != request:
        yield "has a row that asks something else"
    if row.state == input_pb2.INPUT_STATE_PENDING:
        yield "is pending, and its run has ended"
    if answer is not None and row.answer != answer:
        yield "has a row with another answer than its story"
    answered = row.HasField("answer") and not row.answer.HasField("expired")
    if (row.state == input_pb2.INPUT_STATE_ANSWERED) != answered:
        yield "has a row whose state does not fit its answer"
