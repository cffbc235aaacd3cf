"""Reads all stories after the chaos and says what does not hold."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.suite import FINAL, Suite, check_story

CLOCK_S = 0.002
"""How far two processes' readings of one clock may seem to lie apart."""

ONCE = frozenset({"count", "hold"})
"""Tools that are not declared repeatable."""

EXPECTED = frozenset({pb.ERROR_REASON_TOOL_CALL_INTERRUPTED})
"""Why a run may fail when processes die."""


@dataclass
class Report:
    """What was found."""

    violations: list[str] = field(default_factory=list)
    states: Counter[int] = field(default_factory=Counter)
    takeovers: int = 0
    discarded: int = 0
    repeated: int = 0

    def __str__(self) -> str:
        names = {value: name.removeprefix("RUN_STATE_").lower() for name, value in run_pb2.RunState.items()}
        states = ", ".join(f"{count} {names[state]}" for state, count in sorted(self.states.items()))
        return (
            f"{states}, {self.takeovers} takeovers, {self.discarded} answers asked again, "
            f"{self.repeated} calls repeated"
        )


async def check_all(
    suite: Suite, accepted: Mapping[str, str], seen: Mapping[str, list[event_pb2.RunEvent]]
) -> Report:
    """Check every accepted run against store, model and tool server."""
    report = Report()
    stories: dict[str, list[event_pb2.RunEvent]] = {}
    for run_id in accepted:
        run = await suite.client.runs.get(run_id)
        report.states[run.state] += 1
        if run.state not in FINAL:
            report.violations.append(f"{run_id} has not ended: {run.state}")
            continue
        story = stories[run_id] = await suite.watched(run_id)
        try:
            check_story(story)
        except AssertionError as error:
            report.violations.append(f"{run_id} is no whole story: {error}")
        if story[-1].run_finished.result != run.result:
            report.violations.append(f"{run_id}: the run's result is not its story's")
        if seen.get(run_id) != story:
            report.violations.append(f"{run_id}: a watcher saw another story than the store holds")
        if run.state == run_pb2.RUN_STATE_FAILED and run.result.error.reason not in EXPECTED:
            report.violations.append(f"{run_id} failed: {run.result.error}")
    known = {run.run_id async for run in suite.client.runs.list()}
    if known != set(accepted):
        report.violations.append(f"runs that nobody was told of: {known - set(accepted)}")
    _check_model(suite, accepted, stories, report)
    _check_tools(suite, stories, report)
    await _check_sessions(suite, report)
    return report


def _seconds(event: event_pb2.RunEvent) -> float:
    return event.time.seconds + event.time.nanos / 1e9


def _check_model(
    suite: Suite,
    accepted: Mapping[str, str],
    stories: Mapping[str, list[event_pb2.RunEvent]],
    report: Report,
) -> None:
    """No finished LLM call is made again."""
    asked: dict[tuple[str, int], list[float]] = defaultdict(list)
    for body, at in zip(suite.model.requests, suite.model.times, strict=True):
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
            late = [at for at in asked[accepted[run_id], turn] if at > _seconds(event) + CLOCK_S]
            if late:
                report.violations.append(f"{run_id}: turn {turn} was asked again after its answer was stored")
        if any(count > 1 for count in answers.values()):
            report.violations.append(f"{run_id}: a turn has two answers: {answers}")


def _check_tools(suite: Suite, stories: Mapping[str, list[event_pb2.RunEvent]], report: Report) -> None:
    """No finished tool call is made again, and none that may not be repeated twice."""
    effects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for effect in suite.notes():
        effects[effect["key"]].append(effect)
    for run_id, story in stories.items():
        for event in story:
            if event.HasField("tool_call_started"):
                made = effects.pop(event.tool_call_started.idempotency_key, [])
                report.repeated += max(len(made) - 1, 0)
                for what in _wrong_with_call(event, made, story):
                    report.violations.append(f"{run_id}: {event.tool_call_started.tool} {what}")
    if effects:
        report.violations.append(f"effects of calls that are on no record: {list(effects)}")


def _wrong_with_call(
    event: event_pb2.RunEvent, made: list[dict[str, Any]], story: list[event_pb2.RunEvent]
) -> Iterator[str]:
    call = event.tool_call_started
    if call.tool in ONCE and len(made) > 1:
        yield f"was called {len(made)} times"
    if any(each["time"] < _seconds(event) - CLOCK_S for each in made):
        yield "was called before it was on record"
    for other in story[event.sequence :]:
        done = other.tool_call_completed
        if done.call_id != call.call_id or other.path != event.path:
            continue
        if any(each["time"] > _seconds(other) + CLOCK_S for each in made):
            yield "was called again after it had ended"
        if done.outcome == event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED and not made:
            yield "succeeded without having been called"


async def _check_sessions(suite: Suite, report: Report) -> None:
    """Every call has its result, and the messages of a run stand together."""
    async for session in suite.client.sessions.list():
        open_calls: set[str] = set()
        runs = [each.run_id async for each in suite.client.sessions.messages(session.session_id)]
        blocks = [run for place, run in enumerate(runs) if not place or runs[place - 1] != run]
        if len(blocks) != len(set(blocks)):
            report.violations.append(f"session {session.session_id}: runs are mixed")
        for message in await suite.messages(session.session_id):
            if message["role"] == "tool":
                open_calls.discard(message["tool_call_id"])
            elif open_calls:
                report.violations.append(f"session {session.session_id}: a call has no result")
                break
            else:
                open_calls = {call["id"] for call in message.get("tool_calls", ())}
        if session.message_count != len(runs):
            report.violations.append(f"session {session.session_id}: counts {session.message_count}")
