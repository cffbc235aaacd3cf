"""Reads all stories after the chaos and says what does not hold."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.chaos.facts import Conversation, Facts, Story, View
from tests.suite import FINAL, check_story

CLOCK_S = 0.002
"""How far two processes' readings of one clock may seem to lie apart."""

UNAWARE_S = 3.0
"""How long an engine that was stopped may take to hear that others have its runs."""

ONCE = frozenset({"count", "hold"})
"""Tools that are not declared repeatable."""

EXPECTED = frozenset({pb.ERROR_REASON_TOOL_CALL_INTERRUPTED})
"""Why a run may fail when processes die."""


@dataclass
class Report:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    states: Counter[run_pb2.RunState.ValueType] = field(default_factory=Counter)
    takeovers: int = 0
    discarded: int = 0
    repeated: int = 0
    stale: int = 0
    """Requests that an engine made before it heard that it had lost the run."""

    def __str__(self) -> str:
        names = {value: name.removeprefix("RUN_STATE_").lower() for name, value in run_pb2.RunState.items()}
        states = ", ".join(f"{count} {names[state]}" for state, count in sorted(self.states.items()))
        return (
            f"{states}, {self.takeovers} takeovers, {self.discarded} answers asked again, "
            f"{self.repeated} calls repeated, {self.stale} stale requests"
        )


def judge(facts: Facts) -> Report:
    """Hold the facts against one another."""
    report = Report()
    for view in facts.views:
        _judge_runs(facts, view, report)
        for session_id, session in view.sessions.items():
            for what in _wrong_with_session(session_id, session, facts, view):
                report.violations.append(f"session {session_id}: {what}")
    first = facts.views[0]
    for view in facts.views[1:]:
        for what in ("runs", "listed", "stories", "sessions"):
            if getattr(view, what) != getattr(first, what):
                report.violations.append(f"two engines do not tell the same {what}")
    report.states.update(run.state for run in first.runs.values())
    _judge_model(facts, first.stories, report)
    _judge_tools(facts, first.stories, report)
    return report


def _judge_runs(facts: Facts, view: View, report: Report) -> None:
    """Every run has ended, with one whole story, which is what its watcher saw."""
    for run_id in facts.accepted:
        run = view.runs.get(run_id)
        if run is None or run.state not in FINAL:
            report.violations.append(f"{run_id} has not ended: {run and run.state}")
            continue
        for what in _wrong_with_story(run, view.stories[run_id]):
            report.violations.append(f"{run_id}: {what}")
        if facts.seen.get(run_id) != view.stories[run_id]:
            report.violations.append(f"{run_id}: a watcher saw another story than the store holds")
    if sorted(view.listed) != sorted(facts.accepted):
        report.violations.append(f"other runs than were accepted: {set(view.listed) ^ set(facts.accepted)}")


def _wrong_with_story(run: run_pb2.Run, story: Story) -> Iterator[str]:
    try:
        check_story(story)
    except (AssertionError, IndexError) as error:
        yield f"is no whole story: {error!r}"
        return
    if story[-1].run_finished.result != run.result:
        yield "the run's result is not its story's"
    if run.state != run.result.state:
        yield "the run's state is not its result's"
    if run.state == run_pb2.RUN_STATE_FAILED and run.result.error.reason not in EXPECTED:
        yield f"failed: {run.result.error}"


def _seconds(event: event_pb2.RunEvent) -> float:
    return event.time.seconds + event.time.nanos / 1e9


def _is_stale(facts: Facts, at: float) -> bool:
    return any(0 <= at - resumed <= UNAWARE_S for resumed in facts.resumed)


def _judge_model(facts: Facts, stories: dict[str, Story], report: Report) -> None:
    """No finished LLM call is made again."""
    asked: dict[tuple[str, int], list[float]] = defaultdict(list)
    for body, at in facts.asked:
        messages = body["messages"]
        last = max(place for place, each in enumerate(messages) if each["role"] == "user")
        turn = 1 + sum(each["role"] == "assistant" for each in messages[last:])
        asked[messages[last]["content"], turn].append(at)
    for run_id, story in stories.items():
        answers: Counter[int] = Counter()
        turn = 0
        for event in story:
            kind = event.WhichOneof("event")
            report.takeovers += kind == "run_claimed"
            report.discarded += kind == "message_discarded"
            if kind == "turn_started":
                turn = event.turn_started.turn
            if kind != "message_completed":
                continue
            answers[turn] += 1
            late = [at for at in asked[facts.accepted[run_id], turn] if at > _seconds(event) + CLOCK_S]
            stale = [at for at in late if _is_stale(facts, at)]
            report.stale += len(stale)
            if len(late) > len(stale):
                report.violations.append(f"{run_id}: turn {turn} was asked again after its answer was stored")
        if any(count > 1 for count in answers.values()):
            report.violations.append(f"{run_id}: a turn has two answers: {answers}")


def _judge_tools(facts: Facts, stories: dict[str, Story], report: Report) -> None:
    """No finished tool call is made again, and none that may not be repeated twice."""
    effects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for effect in facts.effects:
        effects[effect["key"]].append(effect)
    for run_id, story in stories.items():
        keys = [
            each.tool_call_started.idempotency_key for each in story if each.HasField("tool_call_started")
        ]
        if len(keys) != len(set(keys)):
            report.violations.append(f"{run_id}: a call began twice")
        for event in story:
            if event.HasField("tool_call_started"):
                made = effects.pop(event.tool_call_started.idempotency_key, [])
                report.repeated += max(len(made) - 1, 0)
                for what in _wrong_with_call(event, made, story, facts, report):
                    report.violations.append(f"{run_id}: {event.tool_call_started.tool} {what}")
    if effects:
        report.violations.append(f"effects of calls that are on no record: {list(effects)}")


def _wrong_with_call(
    event: event_pb2.RunEvent, made: list[dict[str, Any]], story: Story, facts: Facts, report: Report
) -> Iterator[str]:
    call = event.tool_call_started
    if call.tool in ONCE and len(made) > 1:
        yield f"was called {len(made)} times"
    if any(each["time"] < _seconds(event) - CLOCK_S for each in made):
        yield "was called before it was on record"
    ends = 0
    for other in story[event.sequence :]:
        done = other.tool_call_completed
        if done.call_id != call.call_id or other.path != event.path:
            continue
        ends += 1
        late = [each["time"] for each in made if each["time"] > _seconds(other) + CLOCK_S]
        stale = [at for at in late if call.tool not in ONCE and _is_stale(facts, at)]
        report.stale += len(stale)
        if len(late) > len(stale):
            yield "was called again after it had ended"
        if done.outcome == event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED and not made:
            yield "succeeded without having been called"
    if ends > 1:
        yield f"ended {ends} times"


def _wrong_with_session(session_id: str, session: Conversation, facts: Facts, view: View) -> Iterator[str]:
    """Every message is there once; a run's stand together; the runs are in the order in which they ended."""
    if session.positions != [*range(1, len(session.positions) + 1)]:
        yield f"positions are {session.positions}"
    if session.message_count != len(session.messages):
        yield f"counts {session.message_count} of {len(session.messages)}"
    blocks = [run for place, run in enumerate(session.runs) if not place or session.runs[place - 1] != run]
    if len(blocks) != len(set(blocks)):
        yield "runs are mixed"
    ended = [view.runs[run_id] for run_id in view.stories if view.stories[run_id] and run_id in view.runs]
    mine = sorted(
        (run for run in ended if run.session_id == session_id and run.state == run_pb2.RUN_STATE_SUCCEEDED),
        key=lambda run: _seconds(view.stories[run.run_id][-1]),
    )
    if [run.run_id for run in mine] != [run for run in blocks if run in {each.run_id for each in mine}]:
        yield "its runs are not all there in the order in which they ended"
    for run in mine:
        said = [
            each for each, owner in zip(session.messages, session.runs, strict=True) if owner == run.run_id
        ]
        if said and (said[0]["content"], said[-1]["content"]) != (
            facts.accepted[run.run_id],
            run.result.output,
        ):
            yield f"the messages of {run.run_id} are not whole"
    yield from _open_calls(session.messages)


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
