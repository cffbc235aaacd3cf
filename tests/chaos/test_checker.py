"""The checker complains: whatever is wrong with a story, a row or a session, it is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2
from tests.chaos.checker import judge
from tests.chaos.example import (
    ANSWERED,
    APPROVED,
    ASKED,
    CALLED,
    CHILD,
    INPUT,
    MESSAGES,
    RESULT,
    RUN,
    SAID,
    USER,
    asked_at,
    asking,
    event,
    good_facts,
    good_story,
    numbered,
)
from tests.chaos.facts import Accepted, Facts, Story, View

Spoil = Callable[[Facts], object]


def told(change: Callable[[Story], object]) -> Spoil:
    """Both engines and the watcher tell another story: what is wrong is in the store."""

    def spoil(facts: Facts) -> None:
        for holder in (facts.seen, *(view.stories for view in facts.views)):
            change(holder[RUN])

    return spoil


def in_each_view(change: Callable[[View], object]) -> Spoil:
    """Both engines tell the same, and it is wrong."""

    def spoil(facts: Facts) -> None:
        for view in facts.views:
            change(view)

    return spoil


def place_of(story: Story, kind: str) -> int:
    """Where the last event of a kind stands."""
    return max(place for place, each in enumerate(story) if each.WhichOneof("event") == kind)


def twice(kind: str) -> Spoil:
    """The last event of a kind comes again, with a number of its own."""

    def change(story: Story) -> None:
        place = place_of(story, kind)
        story.insert(place, copy.deepcopy(story[place]))
        numbered(story)

    return told(change)


def without(kind: str) -> Spoil:
    def change(story: Story) -> None:
        del story[place_of(story, kind)]
        numbered(story)

    return told(change)


def moved(kind: str, to: int) -> Spoil:
    """The last event of a kind comes at another place."""

    def change(story: Story) -> None:
        story.insert(to, story.pop(place_of(story, kind)))
        numbered(story)

    return told(change)


def changed(kind: str, change: Callable[[Any], object]) -> Spoil:
    """The last event of a kind says something else."""
    return told(lambda story: change(getattr(story[place_of(story, kind)], kind)))


def swap(story: Story) -> None:
    story[3], story[4] = story[4], story[3]


def failing(reason: pb.ErrorReason.ValueType) -> Spoil:
    """The run fails, and all tell so."""
    result = run_pb2.RunResult(state=run_pb2.RUN_STATE_FAILED, error=run_pb2.RunError(reason=reason))

    def spoil(facts: Facts) -> None:
        for view in facts.views:
            view.runs[RUN].state = result.state
            view.runs[RUN].result.CopyFrom(result)
        changed("run_finished", lambda finished: finished.result.CopyFrom(result))(facts)

    return spoil


def cancel(facts: Facts) -> None:
    result = run_pb2.RunResult(state=run_pb2.RUN_STATE_CANCELLED, cancel_reason="a whim")
    for view in facts.views:
        view.runs[RUN].state = result.state
        view.runs[RUN].result.CopyFrom(result)
    changed("run_finished", lambda finished: finished.result.CopyFrom(result))(facts)


def effect(**change: Any) -> Spoil:
    """What the tool did once more."""
    return lambda facts: setattr(facts, "effects", [*facts.effects, {**facts.effects[0], **change}])


def other_effect(**change: Any) -> Spoil:
    """What the tool did, otherwise."""
    return lambda facts: setattr(facts, "effects", [{**facts.effects[0], **change}])


def asked_too(*messages: Any, at: float = 2.0, **more: Any) -> Spoil:
    return lambda facts: setattr(facts, "asked", [*facts.asked, asked_at(at, *messages, **more)])


def session(**change: Any) -> Spoil:
    def spoil(view: View) -> None:
        for name, value in change.items():
            setattr(view.sessions["s"], name, value)

    return in_each_view(spoil)


def row(change: Callable[[input_pb2.InputRequest], object]) -> Spoil:
    return in_each_view(lambda view: change(view.inputs[INPUT]))


def expire(facts: Facts) -> None:
    answer = input_pb2.InputAnswer(expired=input_pb2.Expiry())
    changed("input_received", lambda received: received.answer.CopyFrom(answer))(facts)


def deny(facts: Facts) -> None:
    """A person denied it, and it was called all the same."""
    answer = input_pb2.InputAnswer(deny=input_pb2.Denial(reason="no"))
    changed("input_received", lambda received: received.answer.CopyFrom(answer))(facts)
    row(lambda request: request.answer.CopyFrom(answer))(facts)
    facts.answered = {INPUT: [answer]}


BROKEN: dict[str, tuple[Spoil, str]] = {
    "a hole": (told(lambda story: story.pop(6)), "no whole story"),
    "events in another order": (told(swap), "no whole story"),
    "two ends": (twice("run_finished"), "no whole story"),
    "no end": (without("run_finished"), "no whole story"),
    "no beginning": (without("run_started"), "no whole story"),
    "no events": (told(lambda story: story.clear()), "no whole story"),
    "a text twice": (twice("text_delta"), "no whole story"),
    "a child that begins twice": (twice("child_run_started"), "no whole story"),
    "a child without a beginning": (without("child_run_started"), "no whole story"),
    "a child without an end": (without("child_run_finished"), "no whole story"),
    "a child that outlives the run": (moved("child_run_finished", 19), "no whole story"),
    "a child that ends later than its row says": (
        moved("child_run_finished", 12),
        "its row is not what its tree tells",
    ),
    "two answers of one turn": (twice("message_completed"), "two answers"),
    "a call that begins twice": (twice("tool_call_started"), "began 2 times"),
    "a call that ends twice": (twice("tool_call_completed"), "ended 2 times"),
    "a call with another key": (
        changed("tool_call_started", lambda call: setattr(call, "idempotency_key", "x")),
        "another key",
    ),
    "a run that has not ended": (
        in_each_view(lambda view: setattr(view.runs[RUN], "state", run_pb2.RUN_STATE_WAITING)),
        "has not ended: RUN_STATE_WAITING",
    ),
    "a run that is gone": (in_each_view(lambda view: view.runs.clear()), "has not ended"),
    "a run that nobody started": (in_each_view(lambda view: view.listed.append("run-9")), "other runs"),
    "a run that is listed twice": (in_each_view(lambda view: view.listed.append(RUN)), "other runs"),
    "another result than the story's": (
        in_each_view(lambda view: setattr(view.runs[RUN].result, "output", "x")),
        "result is not its story's",
    ),
    "another end than the story's": (
        in_each_view(lambda view: setattr(view.runs[RUN].end_time, "seconds", 21)),
        "end is not its story's",
    ),
    "a failure that nobody caused": (failing(pb.ERROR_REASON_INTERNAL), "failed"),
    "a call that may be asked about, and fails": (
        failing(pb.ERROR_REASON_TOOL_CALL_INTERRUPTED),
        "failed",
    ),
    "a cancel that nobody asked for": (cancel, "cancelled by nobody"),
    "a child that has no row": (in_each_view(lambda view: view.children.clear()), "its row is not"),
    "a child whose row says something else": (
        in_each_view(lambda view: setattr(view.children[CHILD].result, "output", "x")),
        "its row is not",
    ),
    "a child that still runs": (
        in_each_view(lambda view: setattr(view.children[CHILD], "state", run_pb2.RUN_STATE_RUNNING)),
        "its row is not",
    ),
    "a child that no tree tells of": (
        in_each_view(lambda view: view.children.update(x=run_pb2.Run(run_id="x", root_run_id=RUN))),
        "no tree tells of",
    ),
    "a watcher that missed the end": (lambda facts: facts.seen[RUN].pop(), "saw another story"),
    "a watcher that saw an event twice": (
        lambda facts: facts.seen[RUN].insert(1, facts.seen[RUN][0]),
        "saw another story",
    ),
    "a watcher of a child that missed its end": (lambda facts: facts.watched[0].seen.pop(), "who watched"),
    "a watcher of some events that missed one": (lambda facts: facts.watched[1].seen.clear(), "who watched"),
    "another story after an event": (
        in_each_view(lambda view: view.tails[RUN, 7].pop()),
        "its story after 7 is another",
    ),
    "engines that tell different stories": (
        lambda facts: facts.views[1].stories[RUN].pop(6),
        "do not tell the same stories",
    ),
    "engines that tell different sessions": (
        lambda facts: facts.views[1].sessions.clear(),
        "do not tell the same sessions",
    ),
    "engines that tell different inputs": (
        lambda facts: facts.views[1].inputs.clear(),
        "do not tell the same inputs",
    ),
    "a model that is asked again": (asked_too(USER, at=5.0), "asked again after its answer was stored"),
    "a model that is asked something else": (asked_too(USER, ANSWERED), "something else than the story"),
    "a model that was never asked": (lambda facts: setattr(facts, "asked", ()), "was never asked"),
    "a model that is asked for nobody": (
        asked_too(USER, system={"role": "system", "content": "x"}),
        "asked for runs that are on no record",
    ),
    "a call that is made twice": (effect(time=15.7), "was called 2 times and began 1 times"),
    "a call that is made after its end": (effect(time=18.0), "called again after it had ended"),
    "a call that is made before it is on record": (other_effect(time=14.0), "before it was on record"),
    "a call that was never made": (lambda facts: setattr(facts, "effects", ()), "without having been called"),
    "a call that is on no record": (effect(key="other"), "on no record"),
    "a call with arguments of its own": (
        other_effect(arguments={"ms": 2}),
        "called with other arguments than are on record",
    ),
    "a call with arguments that nobody approved": (
        changed("tool_call_started", lambda call: setattr(call, "arguments_json", '{"ms": 2}')),
        "other arguments than were approved",
    ),
    "a call without approval": (without("input_requested"), "no whole story"),
    "a call before its approval": (moved("input_received", 15), "began before it was approved"),
    "a call that was denied": (deny, "began without approval"),
    "a call that ended as if it was approved": (deny, "and was denied"),
    "an answer twice": (twice("input_received"), "has 2 answers in its story"),
    "no answer, and success": (without("input_received"), "has no answer, and its run succeeded"),
    "a question twice": (twice("input_requested"), "asked about again before there was an answer"),
    "another answer than was accepted": (
        lambda facts: setattr(facts, "answered", {INPUT: [input_pb2.InputAnswer()]}),
        "its story has another answer",
    ),
    "two accepted answers": (
        lambda facts: setattr(facts, "answered", {INPUT: [APPROVED, input_pb2.InputAnswer()]}),
        "took two answers",
    ),
    "a question that is given up too early": (expire, "before its time"),
    "a question without a row": (in_each_view(lambda view: view.inputs.clear()), "has no row"),
    "a row without a question": (
        in_each_view(lambda view: view.inputs.update(x=input_pb2.InputRequest(root_run_id=RUN))),
        "no story tells of",
    ),
    "a row with another question": (row(lambda request: setattr(request, "call_id", "x")), "something else"),
    "a row with another answer": (row(lambda request: request.answer.deny.SetInParent()), "another answer"),
    "a row that still waits": (
        row(lambda request: setattr(request, "state", input_pb2.INPUT_STATE_PENDING)),
        "is pending, and its run has ended",
    ),
    "a row that was closed and answered": (
        row(lambda request: setattr(request, "state", input_pb2.INPUT_STATE_CLOSED)),
        "does not fit its answer",
    ),
    "a session with a hole": (session(positions=[1, 2, 4, 5, 6]), "positions are"),
    "a session that counts wrongly": (session(message_count=6), "counts 6 of 5"),
    "a session without its run": (
        session(message_count=0, positions=[], runs=[], messages=[]),
        "not all there",
    ),
    "a run in the middle of another": (session(runs=[RUN, "x", RUN, RUN, RUN]), "runs are mixed"),
    "a call without its result": (
        session(messages=[USER, CALLED, SAID[0], ANSWERED, ANSWERED]),
        "a call has no result",
    ),
    "messages without the answer": (session(messages=[*MESSAGES[:-1], SAID[0]]), "not those of its story"),
    "a session that is not let go": (session(active_run_id=RUN), "which has ended"),
    "sums of something else": (
        in_each_view(lambda view: setattr(view.sessions["s"].totals, "runs", 2)),
        "sums are not those of its runs",
    ),
    "a time of something else": (
        in_each_view(lambda view: setattr(view.sessions["s"].totals.duration, "seconds", 19)),
        "time is not that of its runs",
    ),
}


def test_a_good_story_is_left_alone() -> None:
    report = judge(good_facts())
    assert report.violations == []
    assert report.states == {run_pb2.RUN_STATE_SUCCEEDED: 1}
    assert (report.children, report.inputs, report.suspended, report.takeovers) == (1, 1, 1, 1)


@pytest.mark.parametrize("what", BROKEN)
def test_the_checker_complains_of(what: str) -> None:
    spoil, complaint = BROKEN[what]
    facts = good_facts()
    spoil(facts)
    violations = judge(facts).violations
    assert any(complaint in each for each in violations), violations


def with_another(facts: Facts, *, began: int, ended: int, **accepted: float) -> None:
    """Another run of the session, which did its work at these seconds."""
    facts.accepted = {**facts.accepted, "run-3": Accepted("careful", ASKED, "r3 try 0", **accepted)}
    for view in facts.views:
        view.runs["run-3"] = run_pb2.Run(run_id="run-3", state=RESULT.state, session_id="s", result=RESULT)
        story = good_story()
        for each in story:
            each.run_id = "run-3" if each.run_id == RUN else each.run_id
        story[0].time.seconds = story[1].time.seconds = began
        story[-1].time.seconds = view.runs["run-3"].end_time.seconds = ended
        view.stories["run-3"] = story
        view.listed.append("run-3")
        session = view.sessions["s"]
        session.runs += ["run-3"] * 5
        session.messages += MESSAGES
        facts.seen["run-3"] = story


@pytest.mark.parametrize(
    ("began", "ended", "times", "complaint"),
    [
        (21, 40, {"sent": 1.0, "answered": 2.0}, None),
        (1, 1, {"sent": 1.0, "answered": 2.0}, "in the order in which they ended"),
        (19, 40, {"sent": 1.0, "answered": 2.0}, "had ended"),
        (21, 40, {"sent": -2.0, "answered": -1.0}, "and began after it"),
    ],
)
def test_runs_of_a_session_go_one_after_another_in_the_order_in_which_they_came(
    began: int, ended: int, times: dict[str, float], complaint: str | None
) -> None:
    facts = good_facts()
    with_another(facts, began=began, ended=ended, **times)
    told_of_order = [
        each
        for each in judge(facts).violations
        if "had ended" in each or "began after" in each or "in the order" in each
    ]
    assert bool(told_of_order) == bool(complaint), told_of_order
    assert any(complaint in each for each in told_of_order) if complaint else True


def test_an_engine_that_was_stopped_has_an_instant_to_hear_that_it_lost_its_runs() -> None:
    facts = good_facts()
    asked_too(USER, at=30.0)(facts)
    facts.resumed = [29.9]
    report = judge(facts)
    assert (report.violations, report.stale) == ([], 1)
    facts.resumed = [29.0]
    assert len(judge(facts).violations) == 1


def test_a_call_may_be_made_again_where_a_person_says_so() -> None:
    facts = good_facts()

    def ask_again(story: Story) -> None:
        request = asking()
        request.input_id, request.approval.interrupted = "input-2", True
        start = place_of(story, "tool_call_started")
        received = event_pb2.InputReceived(input_id="input-2", answer=APPROVED)
        story[start + 1 : start + 1] = [
            event("turn:1", input_requested=event_pb2.InputRequested(request=request)),
            event("turn:1", input_received=received),
            copy.deepcopy(story[start]),
        ]
        numbered(story)

    told(ask_again)(facts)
    facts.effects = [*facts.effects, {**facts.effects[0], "time": 18.5}]
    report = judge(facts)
    assert not any("began" in each or "was called" in each for each in report.violations), report.violations
    assert (report.approved, report.repeated) == (1, 1)


def test_a_model_may_be_told_results_that_die_with_the_engine() -> None:
    facts = good_facts()
    other = [{**each, "content": "not stored"} for each in SAID]
    asked_too(USER, CALLED, *other, at=12.5)(facts)  # before the run is taken over
    report = judge(facts)
    assert (report.violations, report.lost) == ([], 1)
    asked_too(USER, CALLED, other[0], at=12.5)(facts)
    asked_too(USER, CALLED, *other, at=13.5)(facts)
    assert len([each for each in judge(facts).violations if "something else" in each]) == 2
