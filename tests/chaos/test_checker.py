"""The checker complains: whatever is wrong with a story, it is found."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.chaos.checker import judge
from tests.chaos.facts import Conversation, Facts, Story, View

RUN = "run-1"
DONE = event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
OUTPUT = "the tools said ok"
RESULT = run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED, output=OUTPUT)


def numbered(events: Story) -> Story:
    """The events with their numbers, one a second."""
    for number, event in enumerate(events, 1):
        event.run_id = RUN
        event.sequence = event.time.seconds = number
    return events


def event(path: str = "", **what: Any) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(path=path, **what)


def good_story() -> Story:
    started = event_pb2.ToolCallStarted(call_id="c", tool="count", idempotency_key="key")
    return numbered(
        [
            event(run_started=event_pb2.RunStarted(message="count #1#", session_id="s")),
            event("turn:1", turn_started=event_pb2.TurnStarted(turn=1)),
            event("turn:1", message_completed=event_pb2.MessageCompleted()),
            event("turn:1", tool_call_started=started),
            event("turn:1", tool_call_completed=event_pb2.ToolCallCompleted(call_id="c", outcome=DONE)),
            event("turn:2", turn_started=event_pb2.TurnStarted(turn=2)),
            event("turn:2", text_delta=event_pb2.TextDelta(text=OUTPUT)),
            event("turn:2", message_completed=event_pb2.MessageCompleted(text=OUTPUT)),
            event(run_finished=event_pb2.RunFinished(result=RESULT)),
        ]
    )


ASKED: dict[str, Any] = {"role": "user", "content": "count #1#"}
CALLED: dict[str, Any] = {"role": "assistant", "tool_calls": [{"id": "c"}]}
SAID: dict[str, Any] = {"role": "tool", "tool_call_id": "c", "content": "ok"}
ANSWERED: dict[str, Any] = {"role": "assistant", "content": OUTPUT}


def good_facts() -> Facts:
    """One run, told by two engines."""
    view = View(
        {RUN: run_pb2.Run(run_id=RUN, state=RESULT.state, session_id="s", result=RESULT)},
        [RUN],
        {RUN: good_story()},
        {"s": Conversation(4, [1, 2, 3, 4], [RUN] * 4, [ASKED, CALLED, SAID, ANSWERED])},
    )
    return Facts(
        {RUN: "count #1#"},
        {RUN: good_story()},
        [view, copy.deepcopy(view)],
        [({"messages": [ASKED]}, 2.0), ({"messages": [ASKED, CALLED, SAID]}, 6.0)],
        [{"tool": "count", "key": "key", "time": 4.5}],
    )


def told(change: Callable[[Story], Story | None]) -> Callable[[Facts], None]:
    """Both engines and the watcher tell another story: what is wrong is in the store."""

    def spoil(facts: Facts) -> None:
        for holder in (facts.seen, *(view.stories for view in facts.views)):
            story: Story = holder[RUN]
            story[:] = change(story) or story

    return spoil


def in_each_view(change: Callable[[View], object]) -> Callable[[Facts], None]:
    """Both engines tell the same, and it is wrong."""

    def spoil(facts: Facts) -> None:
        for view in facts.views:
            change(view)

    return spoil


def twice(kind: str) -> Callable[[Story], Story]:
    """One event comes again, with a number of its own."""

    def change(story: Story) -> Story:
        place = next(place for place, each in enumerate(story) if each.HasField(kind))  # type: ignore[arg-type]
        return numbered([*story[: place + 1], copy.deepcopy(story[place]), *story[place + 1 :]])

    return change


def without(kind: str) -> Callable[[Story], Story]:
    return lambda story: numbered([each for each in story if each.WhichOneof("event") != kind])


def hole(story: Story) -> None:
    del story[6]


def swapped(story: Story) -> None:
    story[3], story[4] = story[4], story[3]


def unexpected_failure(facts: Facts) -> None:
    error = run_pb2.RunError(reason=pb.ERROR_REASON_INTERNAL)
    result = run_pb2.RunResult(state=run_pb2.RUN_STATE_FAILED, error=error)
    for view in facts.views:
        view.runs[RUN].state = result.state
        view.runs[RUN].result.CopyFrom(result)
    told(lambda story: story[-1].run_finished.result.CopyFrom(result))(facts)


def effect_again(at: float) -> Callable[[Facts], None]:
    return lambda facts: setattr(
        facts, "effects", [*facts.effects, {"tool": "count", "key": "key", "time": at}]
    )


def session_change(**change: Any) -> Callable[[Facts], None]:
    def spoil(view: View) -> None:
        for name, value in change.items():
            setattr(view.sessions["s"], name, value)

    return in_each_view(spoil)


BROKEN: dict[str, tuple[Callable[[Facts], object], str]] = {
    "a hole": (told(hole), "no whole story"),
    "events in another order": (told(swapped), "no whole story"),
    "two ends": (told(twice("run_finished")), "no whole story"),
    "no end": (told(without("run_finished")), "no whole story"),
    "no beginning": (told(without("run_started")), "no whole story"),
    "no events": (told(lambda story: story.clear()), "no whole story"),
    "a text twice": (told(twice("text_delta")), "no whole story"),
    "two answers of one turn": (told(twice("message_completed")), "two answers"),
    "a call that begins twice": (told(twice("tool_call_started")), "a call began twice"),
    "a call that ends twice": (told(twice("tool_call_completed")), "ended 2 times"),
    "a run that has not ended": (
        in_each_view(lambda view: setattr(view.runs[RUN], "state", run_pb2.RUN_STATE_RUNNING)),
        "has not ended",
    ),
    "a run that is gone": (in_each_view(lambda view: view.runs.clear()), "has not ended"),
    "a run that nobody started": (in_each_view(lambda view: view.listed.append("run-2")), "other runs"),
    "a run that is listed twice": (in_each_view(lambda view: view.listed.append(RUN)), "other runs"),
    "another result than the story's": (
        in_each_view(lambda view: setattr(view.runs[RUN].result, "output", "x")),
        "not its story's",
    ),
    "a failure that nobody caused": (unexpected_failure, "failed"),
    "a watcher that missed the end": (lambda facts: facts.seen[RUN].pop(), "saw another story"),
    "a watcher that saw an event twice": (
        lambda facts: facts.seen[RUN].insert(1, facts.seen[RUN][0]),
        "saw another story",
    ),
    "engines that tell different stories": (
        lambda facts: facts.views[1].stories[RUN].pop(6),
        "do not tell the same stories",
    ),
    "engines that tell different sessions": (
        lambda facts: facts.views[1].sessions.clear(),
        "do not tell the same sessions",
    ),
    "a model that is asked again": (
        lambda facts: setattr(facts, "asked", [*facts.asked, ({"messages": [ASKED]}, 5.0)]),
        "asked again after its answer was stored",
    ),
    "a call that is made twice": (effect_again(4.7), "was called 2 times"),
    "a call that is made after its end": (effect_again(8.0), "called again after it had ended"),
    "a call that is made before it is on record": (effect_again(3.0), "before it was on record"),
    "a call that was never made": (lambda facts: setattr(facts, "effects", []), "without having been called"),
    "a call that is on no record": (
        lambda facts: setattr(facts, "effects", [*facts.effects, {"key": "other", "time": 4.5}]),
        "on no record",
    ),
    "a session with a hole": (session_change(positions=[1, 2, 4, 5]), "positions are"),
    "a session that counts wrongly": (session_change(message_count=5), "counts 5 of 4"),
    "a session without its run": (
        session_change(message_count=0, positions=[], runs=[], messages=[]),
        "not all there",
    ),
    "a run in the middle of another": (session_change(runs=[RUN, "x", RUN, RUN]), "runs are mixed"),
    "a call without its result": (
        session_change(messages=[ASKED, CALLED, ANSWERED, ANSWERED]),
        "a call has no result",
    ),
    "messages without the answer": (session_change(messages=[ASKED, CALLED, SAID, SAID]), "are not whole"),
}


def test_a_good_story_is_left_alone() -> None:
    report = judge(good_facts())
    assert report.violations == []
    assert report.states == {run_pb2.RUN_STATE_SUCCEEDED: 1}


@pytest.mark.parametrize("what", BROKEN)
def test_the_checker_complains_of(what: str) -> None:
    spoil, complaint = BROKEN[what]
    facts = good_facts()
    spoil(facts)
    violations = judge(facts).violations
    assert any(complaint in each for each in violations), violations


def test_sessions_are_held_to_the_order_in_which_their_runs_ended() -> None:
    facts = good_facts()
    facts.accepted = {**facts.accepted, "run-2": "count #1#"}
    for view in facts.views:
        view.runs["run-2"] = run_pb2.Run(run_id="run-2", state=RESULT.state, session_id="s", result=RESULT)
        view.stories["run-2"] = good_story()
        view.stories["run-2"][-1].time.seconds = 1
        session = view.sessions["s"]
        session.runs += ["run-2"] * 4
        session.messages += session.messages
    violations = judge(facts).violations
    assert any("in the order in which they ended" in each for each in violations), violations


def test_an_engine_that_was_stopped_has_a_moment_to_hear_that_it_lost_its_runs() -> None:
    facts = good_facts()
    facts.asked = [*facts.asked, ({"messages": [ASKED]}, 20.0)]
    facts.resumed = [19.5]
    report = judge(facts)
    assert (report.violations, report.stale) == ([], 1)
    facts.resumed = [10.0]
    assert len(judge(facts).violations) == 1
