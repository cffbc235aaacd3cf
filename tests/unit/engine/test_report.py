"""A run's report: every call counts once, in each sum that it belongs to."""

from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinue.engine.v1 import event_pb2, report_pb2, run_pb2, service_pb2
from retinue_engine.reports.report import ReportFold, make_report, report_of
from retinue_engine.stores.rows import JournalRecord, RunRow

from .journals import ROOT, SECOND_US, Story, family, llm_error


def report(story: Story, run_id: str = ROOT) -> report_pb2.RunReport:
    return make_report(story.events, run_id, story.now_us)


def test_the_totals_hold_the_children_once() -> None:
    totals = report(family()).totals
    assert totals.usage.input_tokens == 10 + 20 + 30 + 1000 + 2000
    assert totals.usage.output_tokens == 5
    assert (totals.cost.nano_usd, totals.cost.unknown) == (612, True)
    assert (totals.turns, totals.tool_calls, totals.failed_tool_calls) == (5, 3, 0)
    assert (totals.child_runs, totals.retries) == (1, 0)
    assert totals.average_llm_latency.ToMilliseconds() == 2000
    assert totals.average_tool_latency.ToMilliseconds() == 4667 - 1  # of 4, 2 and 8 s, cut
    assert totals.duration.ToMilliseconds() == (len(family().events) - 1) * 1000
    assert totals.suspended.ToNanoseconds() == 0


def test_each_agent_has_what_its_own_runs_used_the_dearest_first() -> None:
    agents = report(family()).agents
    assert [(each.agent, each.runs, each.turns, each.tool_calls) for each in agents] == [
        ("boss", 1, 3, 2),
        ("helper", 1, 2, 1),
    ]
    assert [each.usage.input_tokens for each in agents] == [60, 3000]
    assert [(each.cost.nano_usd, each.cost.unknown) for each in agents] == [(600, False), (12, True)]


def test_each_model_has_its_answers_the_dearest_first() -> None:
    models = report(family()).models
    assert [(each.llm, each.model, each.calls, each.failures) for each in models] == [
        ("gpt", "gpt-x", 3, 0),
        ("small", "small-x", 2, 0),
    ]
    assert [each.usage.input_tokens for each in models] == [60, 3000]
    assert [each.average_latency.seconds for each in models] == [2, 2]


def test_each_tool_has_its_calls_the_most_used_first() -> None:
    tools = report(family()).tools
    assert [(each.server, each.tool, each.calls, each.failures) for each in tools] == [
        ("web", "look", 2, 0),
        ("", "helper", 1, 0),
    ]
    assert [each.average_latency.seconds for each in tools] == [3, 8]


def test_each_turn_of_each_agent_is_a_step_in_the_order_of_their_beginning() -> None:
    steps = report(family()).steps
    assert [(each.path, each.agent, each.tool_calls) for each in steps] == [
        ("turn:1", "boss", 1),
        ("turn:2", "boss", 1),
        ("turn:2/call:1/turn:1", "helper", 1),
        ("turn:2/call:1/turn:2", "helper", 0),
        ("turn:3", "boss", 0),
    ]
    assert [each.usage.input_tokens for each in steps] == [10, 20, 1000, 2000, 30]
    # To the end of the last tool call, which for the second is the child.
    assert [each.duration.seconds for each in steps] == [3, 11, 3, 1, 1]


def test_the_report_of_a_child_is_that_of_its_part_of_the_tree() -> None:
    made = report(family(), "run-child")
    assert made.run_id == "run-child"
    assert made.state == run_pb2.RUN_STATE_SUCCEEDED
    assert made.totals.usage.input_tokens == 3000
    assert (made.totals.turns, made.totals.tool_calls, made.totals.child_runs) == (2, 1, 0)
    assert made.totals.duration.seconds == 7
    assert [each.agent for each in made.agents] == ["helper"]
    assert [each.path for each in made.steps] == ["turn:2/call:1/turn:1", "turn:2/call:1/turn:2"]


def test_grandchildren_belong_to_the_child() -> None:
    story = Story()
    story.start()
    story.begin_child("run-a", "turn:1/call:1", "a")
    story.begin_child("run-b", "turn:1/call:2", "b", call_id="c2")
    story.begin_child("run-aa", "turn:1/call:1/turn:1/call:1", "aa", parent="run-a")
    for run_id, path in (("run-b", "turn:1/call:2/turn:1"), ("run-aa", "turn:1/call:1/turn:1/call:1/turn:1")):
        story.turn(path, run_id)
        story.answer(path, run_id)
    assert report(story).totals.child_runs == 3
    made = report(story, "run-a")
    assert made.totals.child_runs == 1
    assert [(each.agent, each.turns) for each in made.agents] == [("aa", 1), ("a", 0)]


@pytest.mark.parametrize("path", ["turn:1", "turn:1/call:1"])
def test_a_call_belongs_to_its_turn_wherever_its_events_stand(path: str) -> None:
    story = Story()
    story.start()
    story.turn("turn:1")
    story.answer("turn:1", calls=("c1",))
    story.call(path)
    story.result(path)
    assert [(each.path, each.tool_calls) for each in report(story).steps] == [("turn:1", 1)]


def test_failed_tries_count_for_the_model_that_failed() -> None:
    story = Story()
    story.start()
    story.turn("turn:1")
    story.discard("turn:1", next_llm="gpt", error="busy")
    story.turn("turn:1")
    story.discard("turn:1", next_llm="backup", error="busy")
    story.turn("turn:1", llm="backup", model="b")
    story.answer("turn:1", model="b-2026")
    story.turn("turn:2")
    story.answer("turn:2", model="gpt-x-2026")
    made = report(story)
    assert made.totals.retries == 2
    assert [(each.llm, each.model, each.calls, each.failures) for each in made.models] == [
        ("backup", "b-2026", 1, 0),
        # It gives itself another name than it was asked by, and is one model all the same.
        ("gpt", "gpt-x-2026", 1, 2),
    ]
    assert len(made.steps) == 2


def test_the_failure_that_ended_a_run_counts_for_its_model() -> None:
    story = Story()
    story.start()
    story.turn("turn:1")
    story.finish(run_pb2.RUN_STATE_FAILED, error=llm_error("gone"))
    made = report(story)
    assert [(each.llm, each.calls, each.failures) for each in made.models] == [("gpt", 0, 1)]
    assert made.totals.retries == 0


def test_a_call_without_success_is_a_failure_of_its_tool() -> None:
    story = Story()
    story.start()
    story.turn("turn:1")
    story.answer("turn:1", calls=("c1", "c2", "c3"))
    for call_id in ("c1", "c2"):
        story.call("turn:1", call_id)
    story.ask_approval("turn:1", "c3")
    story.result("turn:1", "c1", outcome=event_pb2.TOOL_CALL_OUTCOME_TOOL_ERROR, seconds=2)
    story.result("turn:1", "c2", outcome=event_pb2.TOOL_CALL_OUTCOME_CALL_FAILED, seconds=4)
    story.result("turn:1", "c3", outcome=event_pb2.TOOL_CALL_OUTCOME_DENIED, seconds=600)
    made = report(story)
    assert (made.totals.tool_calls, made.totals.failed_tool_calls) == (3, 3)
    # How long a person thought does not make a tool slow.
    assert [
        (each.server, each.tool, each.calls, each.failures, each.average_latency.seconds)
        for each in made.tools
    ] == [("web", "look", 3, 3, 3)]


def test_suspended_time_lasts_to_the_next_claim_or_to_now() -> None:
    story = Story()
    story.start()
    story.claim()
    story.turn("turn:1")
    story.suspend(run_pb2.RUN_STATE_PAUSED)
    story.wait(99)
    assert report(story).totals.suspended.seconds == 99
    assert report(story).state == run_pb2.RUN_STATE_PAUSED
    story.claim()
    assert report(story).totals.suspended.seconds == 100
    assert report(story).state == run_pb2.RUN_STATE_RUNNING
    story.suspend()
    story.wait(9)
    story.claim()
    story.finish(run_pb2.RUN_STATE_CANCELLED)
    story.wait(1000)
    made = report(story)
    assert made.totals.suspended.seconds == 110
    assert made.state == run_pb2.RUN_STATE_CANCELLED
    assert made.totals.duration.ToMicroseconds() == (7 + 99 + 9) * SECOND_US


def test_a_child_was_suspended_only_while_it_ran() -> None:
    story = Story()
    story.start()
    story.suspend()
    story.claim()
    story.begin_child("run-a", "turn:1/call:1", "a")
    story.suspend()
    story.wait(9)
    story.claim()
    story.end_child("run-a", "turn:1/call:1")
    story.suspend()
    story.wait(50)
    made = report(story, "run-a")
    assert made.totals.suspended.seconds == 10
    assert made.totals.duration.seconds == 12


def test_a_run_that_nobody_has_begun_has_an_empty_report() -> None:
    story = Story()
    story.start()
    story.wait(5)
    made = report(story)
    assert made.state == run_pb2.RUN_STATE_QUEUED
    assert made.totals.duration.seconds == 5
    assert [(each.agent, each.runs) for each in made.agents] == [("boss", 1)]
    assert not made.steps
    assert not made.findings


@given(st.integers(0, len(family().events)))
def test_a_report_may_be_asked_for_at_any_point_and_the_fold_goes_on(cut: int) -> None:
    story = family()
    fold = ReportFold(ROOT)
    for event in story.events[:cut]:
        fold.add(event)
    fold.report(story.now_us)
    for event in story.events[cut:]:
        fold.add(event)
    assert fold.report(story.now_us) == report(story)


class _Pages:
    """A journal that is read a record at a time."""

    def __init__(self, events: list[event_pb2.RunEvent]) -> None:
        self._events = events

    async def read_journal(self, root_run_id: str, after: int, _max_bytes: int) -> list[JournalRecord]:
        assert root_run_id == ROOT
        page = [event for event in self._events if after < event.sequence <= after + 4]
        if not page:
            return []
        data = service_pb2.StreamRunResponse(events=page).SerializeToString()
        return [JournalRecord(ROOT, page[0].sequence, page[-1].sequence, "w", data)]


def _row(run_id: str, state: int) -> RunRow:
    fields: dict[str, Any] = dict.fromkeys(("request", "definition", "request_digest"), b"")
    return RunRow(
        run_id=run_id,
        namespace="default",
        root_run_id=ROOT,
        request_id="",
        target_kind=1,
        target_name="boss",
        target_version=1,
        session_id="s",
        create_us=0,
        writer="w",
        state=state,
        **fields,
    )


@pytest.mark.parametrize("run_id", [ROOT, "run-child"])
async def test_a_journal_is_read_from_the_store_page_by_page(run_id: str) -> None:
    story = family()
    store = cast("Any", _Pages(story.events))
    row = _row(run_id, run_pb2.RUN_STATE_SUCCEEDED)
    assert await report_of(store, row, story.now_us) == report(story, run_id)


async def test_what_only_its_row_tells_of_a_run_is_in_its_report() -> None:
    story = Story()
    story.start()
    store = cast("Any", _Pages(story.events))
    made = await report_of(store, _row(ROOT, run_pb2.RUN_STATE_RUNNING), story.now_us)
    assert made.state == run_pb2.RUN_STATE_RUNNING
