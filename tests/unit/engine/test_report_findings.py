"""What went otherwise than it should have: told once, at its place, and nothing else is told."""

import pytest

from retinue.engine.v1 import event_pb2, report_pb2, run_pb2
from retinue_engine.reports import findings as report_findings
from retinue_engine.reports.report import make_report

from .journals import ROOT, Story, family

KINDS = {
    "retry": report_pb2.REPORT_FINDING_KIND_RETRY,
    "partial": report_pb2.REPORT_FINDING_KIND_PARTIAL_SUCCESS,
    "degraded": report_pb2.REPORT_FINDING_KIND_DEGRADATION,
    "recovery": report_pb2.REPORT_FINDING_KIND_RECOVERY,
}


def told(story: Story, run_id: str = ROOT) -> list[tuple[str, int, str]]:
    """Kind, sequence and message of each finding."""
    names = {number: name for name, number in KINDS.items()}
    made = make_report(story.events, run_id, story.now_us)
    for each in made.findings:
        assert each.path == story.events[each.sequence - 1].path
    return [(names[each.kind], each.sequence, each.message) for each in made.findings]


def asked() -> Story:
    """A story whose first turn has begun."""
    story = Story()
    story.start()
    story.claim()
    story.turn("turn:1")
    return story


def called(*call_ids: str) -> Story:
    """A story in which the model has asked for calls."""
    story = asked()
    story.answer("turn:1", calls=call_ids or ("c1",))
    return story


def test_a_run_that_went_well_tells_nothing() -> None:
    story = called()
    story.call("turn:1")
    story.result("turn:1")
    story.turn("turn:2")
    story.answer("turn:2")
    story.finish()
    assert told(story) == []


def test_a_failed_try_is_a_retry_and_another_llms_answer_a_degradation() -> None:
    story = asked()
    story.discard("turn:1", next_llm="gpt", error="busy\nvery")
    story.turn("turn:1")
    story.discard("turn:1", next_llm="backup", error="down")
    story.turn("turn:1", llm="backup")
    story.answer("turn:1")
    story.turn("turn:2")
    story.answer("turn:2")
    assert told(story) == [
        ("retry", 4, "gpt failed, gpt was asked next: busy very"),
        ("retry", 6, "gpt failed, backup was asked next: down"),
        ("degraded", 8, "backup answered in place of gpt"),
    ]


def test_an_answer_that_an_engines_stop_cut_off_is_a_recovery() -> None:
    story = asked()
    story.claim()
    story.discard("turn:1", next_llm="gpt")
    story.turn("turn:1")
    story.answer("turn:1")
    assert told(story) == [
        ("recovery", 4, "an engine took over the run, whose engine before was lost"),
        ("recovery", 5, "an answer of gpt was cut off and asked for again: the engine stopped"),
    ]


def test_a_claim_of_what_nobody_held_is_no_recovery() -> None:
    story = Story()
    story.start()
    story.add(conversation_restored=event_pb2.ConversationRestored(messages_json=["{}"]))
    story.claim()
    story.turn("turn:1")
    story.suspend()
    story.claim()
    story.answer("turn:1")
    assert told(story) == []
    story.claim()
    assert [kind for kind, _, _ in told(story)] == ["recovery"]


def test_a_claim_after_a_claim_is_a_recovery() -> None:
    story = Story()
    story.start()
    story.claim()
    story.claim()
    assert [(kind, sequence) for kind, sequence, _ in told(story)] == [("recovery", 3)]


@pytest.mark.parametrize(
    ("finish_reason", "words"), [("length", "most output tokens"), ("content_filter", "content filter")]
)
def test_an_answer_that_was_cut_off_is_a_degradation(finish_reason: str, words: str) -> None:
    story = asked()
    story.answer("turn:1", finish_reason=finish_reason)
    ((kind, sequence, message),) = told(story)
    assert (kind, sequence) == ("degraded", 4)
    assert words in message


def test_a_price_that_is_not_known_is_told_once_for_each_model() -> None:
    story = asked()
    story.answer("turn:1", unknown=True)
    story.turn("turn:2")
    story.answer("turn:2", unknown=True)
    story.turn("turn:3", llm="other", model="o")
    story.answer("turn:3", unknown=True).message_completed.ClearField("usage")
    assert told(story) == [
        ("degraded", 4, "the cost of gpt (gpt-x) is not known: nobody says its price"),
        ("degraded", 8, "the cost of other (o) is not known: nobody says how many tokens it used"),
    ]


def test_messages_that_were_left_out_are_a_degradation() -> None:
    story = asked()
    trimmed = event_pb2.ContextTrimmed(omitted_messages=7, tokens_before=900, tokens_after=300)
    story.add(path="turn:2", context_trimmed=trimmed)
    assert told(story) == [
        (
            "degraded",
            4,
            "7 messages of the conversation were left out: about 300 tokens in place of 900",
        )
    ]


def test_what_a_model_was_told_to_get_on_is_a_recovery() -> None:
    story = asked()
    stall = event_pb2.StallNoticed(stall=event_pb2.STALL_EMPTY_ANSWER, message="say something")
    story.add(path="turn:1", stall_noticed=stall)
    story.add(path="turn:1", output_rejected=event_pb2.OutputRejected(message="age: not a number"))
    assert told(story) == [
        ("recovery", 4, "the model was told that it answers nothing"),
        ("recovery", 5, "an answer did not fit the output schema, asked again: age: not a number"),
    ]


def test_calls_that_did_not_succeed_are_a_partial_success() -> None:
    story = called("c1", "c2", "c3")
    story.call("turn:1", "c1")
    story.result("turn:1", "c1", outcome=event_pb2.TOOL_CALL_OUTCOME_TOOL_ERROR, text="no such page")
    story.call("turn:1", "c2")
    failed = story.result("turn:1", "c2", outcome=event_pb2.TOOL_CALL_OUTCOME_CALL_FAILED, text="it failed")
    failed.tool_call_completed.error.message = "the server is gone"
    story.ask_approval("turn:1", "c3")
    story.result("turn:1", "c3", outcome=event_pb2.TOOL_CALL_OUTCOME_DENIED, text="not today")
    assert told(story) == [
        ("partial", 6, "web/look failed: no such page"),
        ("partial", 8, "web/look failed: the server is gone"),
        ("partial", 10, "web/look was denied: not today"),
    ]


def test_a_child_that_failed_is_told_once() -> None:
    story = called()
    story.call("turn:1", server="", tool="helper")
    story.begin_child("run-child", "turn:1/call:1", "helper")
    story.end_child("run-child", "turn:1/call:1", run_pb2.RUN_STATE_FAILED, "no key")
    story.result("turn:1", outcome=event_pb2.TOOL_CALL_OUTCOME_TOOL_ERROR, text="no key")
    assert told(story) == [("partial", 7, "the run of helper failed: no key")]
    # In its own report it is the run itself that failed.
    assert told(story, "run-child") == []


def test_a_child_that_was_cancelled_with_its_parent_is_no_finding() -> None:
    story = called()
    story.call("turn:1", server="", tool="helper")
    story.begin_child("run-child", "turn:1/call:1", "helper")
    story.end_child("run-child", "turn:1/call:1", run_pb2.RUN_STATE_CANCELLED)
    story.finish(run_pb2.RUN_STATE_CANCELLED)
    assert told(story) == []


def test_a_call_that_was_under_way_at_a_takeover_is_told_as_repeated_once() -> None:
    for again in (False, True):
        story = called("c1", "c2")
        story.call("turn:1", "c1")
        story.result("turn:1", "c1")
        story.call("turn:1", "c2")
        story.claim()
        if again:
            story.call("turn:1", "c2")
        story.result("turn:1", "c2")
        story.turn("turn:2")
        story.answer("turn:2", calls=("c2",))
        story.call("turn:2", "c2")
        story.result("turn:2", "c2")
        assert told(story) == [
            ("recovery", 8, "an engine took over the run, whose engine before was lost"),
            ("recovery", 9, "web/look was called again: an engine stopped while it was under way"),
        ]


def test_an_interrupted_call_that_a_person_denied_was_not_repeated() -> None:
    story = called()
    story.call("turn:1")
    story.claim()
    story.ask_approval("turn:1")
    story.suspend()
    story.claim()
    story.result("turn:1", outcome=event_pb2.TOOL_CALL_OUTCOME_DENIED, text="too late")
    assert [(kind, sequence) for kind, sequence, _ in told(story)] == [("recovery", 6), ("partial", 10)]


def test_a_call_that_waited_for_a_person_or_a_child_was_not_repeated() -> None:
    story = called("c1", "c2")
    story.call("turn:1", "c1")
    story.suspend()
    story.claim()
    story.result("turn:1", "c1")
    story.call("turn:1", "c2", server="", tool="helper")
    story.begin_child("run-child", "turn:1/call:2", "helper", call_id="c2")
    story.claim()
    story.end_child("run-child", "turn:1/call:2")
    story.result("turn:1", "c2")
    assert [(kind, sequence) for kind, sequence, _ in told(story)] == [("recovery", 11)]
    assert told(story, "run-child") == []


def test_a_child_tells_what_went_wrong_in_it_alone() -> None:
    story = family()
    assert [(kind, sequence) for kind, sequence, _ in told(story)] == [("degraded", 16)]
    assert told(story, "run-child") == told(story)
    other = family()
    other.events[3].message_completed.finish_reason = "length"
    assert [sequence for _, sequence, _ in told(other)] == [4, 16]
    assert [sequence for _, sequence, _ in told(other, "run-child")] == [16]


def test_too_many_findings_and_too_long_words_are_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_findings, "MAX_FINDINGS", 2)
    story = asked()
    for _ in range(5):
        story.discard("turn:1", next_llm="gpt", error="x" * 10_000)
        story.turn("turn:1")
    made = make_report(story.events, ROOT, story.now_us)
    assert len(made.findings) == 3
    assert made.findings[-1].message == "3 more are left out"
    assert len(made.findings[0].message) < 500
    assert made.totals.retries == 5
