"""Holds what the model was asked and what the tools did against the stories."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retinue.engine.v1 import event_pb2
from tests.chaos.facts import Facts, Story, View
from tests.chaos.reading import CLOCK_S, Asking, Call, Message, Telling, later, seconds
from tests.chaos.report import Report
from tests.chaos.world import ONCE, needs_approval, prompt

STALE_S = 0.25
"""How long after it goes on an engine that was stopped may make a request for a run that others have.

Before each request an engine makes sure that the run is still its own: by an append, and where the answer to
that took long, as it does where the engine stood still, by a look into the journal. What is left is the
instant between the answer and the request: stopped there, the engine makes the request when it goes on.
"""

Runs = Mapping[str, Mapping[str, Telling]]
"""The runs of each tree."""

Requests = list[tuple[list[Message], float]]
"""The messages that a model was sent, without the system's, and when."""


def _is_stale(facts: Facts, at: float) -> bool:
    return any(0 <= at - resumed <= STALE_S for resumed in facts.resumed)


def judge_model(facts: Facts, view: View, runs: Runs, report: Report) -> None:
    """No finished LLM call is made again; the model is told what the story tells."""
    asked: dict[tuple[str, str], Requests] = defaultdict(list)
    for body, at in facts.asked:
        messages = body["messages"]
        last = max(place for place, each in enumerate(messages) if each["role"] == "user")
        asked[messages[0]["content"], messages[last]["content"]].append((messages[1:], at))
    for root_run_id, tree in runs.items():
        for run in tree.values():
            requests = asked.pop((prompt(run.agent, facts.accepted[root_run_id].tag), run.question), [])
            history, what = _history(view, run), f"{run.run_id}: "
            report.hold(what, _wrong_with_asking(facts, history, run, requests, report))
            whole, story = [*history, *run.messages], view.stories[root_run_id]
            report.hold(what, _wrong_with_questions(whole, story, requests, report))
    if asked:
        report.violations.append(f"the model was asked for runs that are on no record: {list(asked)}")


def _wrong_with_asking(
    facts: Facts, history: Sequence[Message], run: Telling, requests: Requests, report: Report
) -> Iterator[str]:
    answers = Counter(turn.number for turn in run.turns)
    if any(count > 1 for count in answers.values()):
        yield f"a turn has two answers: {answers}"
    for turn in run.turns:
        known = [*history, *run.messages[: turn.known]]
        times = [at for messages, at in requests if messages == known]
        if not times:
            yield f"turn {turn.number} was answered, and the model was never asked what the story tells"
        late = later(times, turn.event)
        stale = [at for at in late if _is_stale(facts, at)]
        report.stale += len(stale)
        if len(late) > len(stale):
            yield f"turn {turn.number} was asked again after its answer was stored"


def _wrong_with_questions(
    whole: Sequence[Message], story: Story, requests: Requests, report: Report
) -> Iterator[str]:
    for messages, at in requests:
        if messages == whole[: len(messages)]:
            continue
        if _is_lost(messages, at, whole, story):
            report.lost += 1
        else:
            yield f"the model was asked something else than the story tells: {messages} instead of {whole}"


def _is_lost(messages: Sequence[Message], at: float, whole: Sequence[Message], story: Story) -> bool:
    """Whether the request tells results of tools that were not stored yet when its engine died.

    A tool is called when the call is on record; a model is asked while the results are being stored. Who
    takes over does not know them, and goes by the policy of the calls.
    """
    known = max(place for place, message in enumerate(messages, 1) if message["role"] != "tool")
    calls = [call["id"] for call in messages[known - 1].get("tool_calls", ())]
    told = [message["tool_call_id"] for message in messages[known:]]
    following = next((event for event in story if seconds(event) > at + CLOCK_S), None)
    return (
        messages[:known] == whole[:known]
        and told == calls
        and following is not None
        and following.HasField("run_claimed")
    )


def _history(view: View, run: Telling) -> list[Message]:
    """The session's messages before the run; a retry brings its own along, a child has none."""
    if run.child or run.is_retry:
        return []
    session = view.sessions[run.first.run_started.session_id]
    mine = next((place for place, owner in enumerate(session.runs) if owner == run.run_id), None)
    if mine is None:
        # It added nothing: its place among the others is told by when they ended.
        ended = {run_id: seconds(story[-1]) for run_id, story in view.stories.items() if story}
        mine = sum(ended[owner] < ended[run.run_id] for owner in session.runs)
    return session.messages[:mine]


def judge_tools(facts: Facts, runs: Runs, report: Report) -> None:
    """No finished tool call is made again, none that may not be repeated twice, none that was denied."""
    effects: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for effect in facts.effects:
        effects[effect["key"]].append(effect)
    for tree in runs.values():
        for run in tree.values():
            for call in run.calls.values():
                made = effects.pop(call.key, [])
                report.repeated += max(len(made) - 1, 0)
                what = f"{run.run_id}: {call.asked.name} "
                report.hold(what, _wrong_with_call(run, call, made, facts, report))
                report.hold(what, _wrong_with_approval(run, call, made))
    if effects:
        report.violations.append(f"effects of calls that are on no record: {list(effects)}")


def _wrong_with_call(
    run: Telling, call: Call, made: list[dict[str, Any]], facts: Facts, report: Report
) -> Iterator[str]:
    again = [each for each in call.askings if each.request.approval.interrupted]
    approved = [each for each in again if each.answer is not None and each.answer.HasField("approve")]
    report.approved += len(approved)
    if len(call.starts) > 1 + len(approved):
        yield f"began {len(call.starts)} times"
    if any(start.tool_call_started.idempotency_key != call.key for start in call.starts):
        yield "has another key than its place says"
    tool = call.asked.name.removeprefix("tools__")
    times = [each["time"] for each in made]
    if tool in ONCE and len(made) > len(call.starts):
        yield f"was called {len(made)} times and began {len(call.starts)} times"
    if made and not (call.starts and min(times) >= seconds(call.starts[0]) - CLOCK_S):
        yield "was called before it was on record"
    if len(call.ends) > 1:
        yield f"ended {len(call.ends)} times"
    for end in call.ends:
        outcome = end.tool_call_completed.outcome
        if outcome == event_pb2.TOOL_CALL_OUTCOME_CALL_FAILED:
            continue  # nobody knows what became of it: it may still be on its way to its server
        late = later(times, end)
        stale = [at for at in late if _is_stale(facts, at)]
        report.stale += len(stale)
        if len(late) > len(stale):
            yield "was called again after it had ended"
        if outcome == event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED and not made and tool != call.asked.name:
            yield "succeeded without having been called"


def _wrong_with_approval(run: Telling, call: Call, made: list[dict[str, Any]]) -> Iterator[str]:
    """It was called where, and as, people said."""
    tool = call.asked.name.removeprefix("tools__")
    approvals = [each for each in call.askings if each.request.HasField("approval")]
    if call.starts and needs_approval(run.agent, tool):
        first = approvals[0] if approvals else None
        if first is None or first.answer is None or not first.answer.HasField("approve"):
            yield "began without approval"
        elif first.received[0].sequence > call.starts[0].sequence:
            yield "began before it was approved"
    yield from _wrong_with_arguments(call, approvals)
    given = [start.tool_call_started.arguments_json for start in call.starts]
    if any(not _fits(each["arguments"], given) for each in made):
        yield "was called with other arguments than are on record"
    last = approvals[-1].answer if approvals else None
    denied = last is not None and not last.HasField("approve")
    for end in call.ends:
        outcome = end.tool_call_completed.outcome
        if (outcome == event_pb2.TOOL_CALL_OUTCOME_DENIED) != denied:
            yield f"ended as {outcome} and was {'denied' if denied else 'not denied'}"


def _wrong_with_arguments(call: Call, approvals: Sequence[Asking]) -> Iterator[str]:
    arguments = call.asked.arguments_json
    for start in call.starts:
        for each in approvals:
            if each.answer is not None and each.received[0].sequence < start.sequence:
                arguments = each.answer.approve.arguments_json or arguments
        if start.tool_call_started.arguments_json != arguments:
            yield "began with other arguments than were approved"


def _fits(arguments: dict[str, Any], given: Sequence[str]) -> bool:
    return any(json.loads(each or "{}") == arguments for each in given)
