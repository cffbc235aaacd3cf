"""A tree that went well, as all tell it: what the checker leaves alone."""

import copy
import json
from typing import Any

from google.protobuf.duration_pb2 import Duration

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2, input_pb2, run_pb2, session_pb2
from retinue.registry.v1.component_pb2 import ComponentRef
from tests.chaos.facts import Accepted, Conversation, Facts, Story, View, Watched
from tests.chaos.world import prompt

RUN, CHILD, INPUT, TAG = "run-1", "run-2", "input-1", "r1 try 0"
ASKED, ARGUMENTS, PART = "approve #1#", '{"ms": 1}', "talk within approve #1#"
DONE = event_pb2.TOOL_CALL_OUTCOME_SUCCEEDED
OUTPUT = "the tools said ok"
RESULT = run_pb2.RunResult(
    state=run_pb2.RUN_STATE_SUCCEEDED,
    output=OUTPUT,
    turns=3,
    tool_calls=2,
    usage=Usage(input_tokens=7),
    cost=Cost(nano_usd=5),
    duration=Duration(seconds=19),
)
PART_RESULT = run_pb2.RunResult(state=run_pb2.RUN_STATE_SUCCEEDED, output="words")
APPROVED = input_pb2.InputAnswer(approve=input_pb2.Approval())
CALLS = [
    event_pb2.RequestedToolCall(call_id="c", name="tools__count", arguments_json=ARGUMENTS),
    event_pb2.RequestedToolCall(call_id="d", name="plain", arguments_json=json.dumps({"message": PART})),
]


def numbered(events: Story) -> Story:
    """The events with their numbers, one a second."""
    for number, event in enumerate(events, 1):
        event.run_id = event.run_id or RUN
        event.sequence = event.time.seconds = number
    return events


def event(path: str = "", run_id: str = "", **what: Any) -> event_pb2.RunEvent:
    return event_pb2.RunEvent(path=path, run_id=run_id, **what)


def asking() -> input_pb2.InputRequest:
    request = input_pb2.InputRequest(
        input_id=INPUT,
        run_id=RUN,
        root_run_id=RUN,
        path="turn:1",
        call_id="c",
        approval=input_pb2.ToolCallApproval(server="tools", tool="count", arguments_json=ARGUMENTS),
        state=input_pb2.INPUT_STATE_PENDING,
    )
    request.expire_time.seconds = 100
    return request


def call_started(call: int, **more: Any) -> event_pb2.ToolCallStarted:
    asked = CALLS[call]
    key = f"{RUN}:1:{asked.call_id}"
    return event_pb2.ToolCallStarted(
        call_id=asked.call_id, arguments_json=asked.arguments_json, idempotency_key=key, **more
    )


def call_ended(call_id: str, text: str, outcome: Any = DONE) -> event_pb2.ToolCallCompleted:
    return event_pb2.ToolCallCompleted(call_id=call_id, outcome=outcome, text=text)


def good_story() -> Story:
    """A careful agent asks a plain one, and a person whether it may count."""
    inside, below = "turn:1/call:2", "turn:1/call:2/turn:1"
    child = event_pb2.ChildRunStarted(
        parent_run_id=RUN, call_id="d", target=ComponentRef(name="plain"), message=PART
    )
    waiting = event_pb2.RunSuspended(state=run_pb2.RUN_STATE_WAITING, input_ids=[INPUT])
    target = ComponentRef(name="careful")
    return numbered(
        [
            event(run_started=event_pb2.RunStarted(target=target, message=ASKED, session_id="s")),
            event("turn:1", turn_started=event_pb2.TurnStarted(turn=1)),
            event("turn:1", message_completed=event_pb2.MessageCompleted(tool_calls=CALLS)),
            event("turn:1", input_requested=event_pb2.InputRequested(request=asking())),
            event("turn:1", tool_call_started=call_started(1, tool="plain")),
            event(inside, CHILD, child_run_started=child),
            event(below, CHILD, turn_started=event_pb2.TurnStarted(turn=1)),
            event(below, CHILD, text_delta=event_pb2.TextDelta(text="words")),
            event(below, CHILD, message_completed=event_pb2.MessageCompleted(text="words")),
            event(inside, CHILD, child_run_finished=event_pb2.ChildRunFinished(result=PART_RESULT)),
            event("turn:1", tool_call_completed=call_ended("d", "words")),
            event(run_suspended=waiting),
            event(run_claimed=event_pb2.RunClaimed()),
            event("turn:1", input_received=event_pb2.InputReceived(input_id=INPUT, answer=APPROVED)),
            event("turn:1", tool_call_started=call_started(0, server="tools", tool="count")),
            event("turn:1", tool_call_completed=call_ended("c", "ok")),
            event("turn:2", turn_started=event_pb2.TurnStarted(turn=2)),
            event("turn:2", text_delta=event_pb2.TextDelta(text=OUTPUT)),
            event("turn:2", message_completed=event_pb2.MessageCompleted(text=OUTPUT)),
            event(run_finished=event_pb2.RunFinished(result=RESULT)),
        ]
    )


SYSTEM = {"role": "system", "content": prompt("careful", TAG)}
USER = {"role": "user", "content": ASKED}
CALLED = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {"id": c.call_id, "type": "function", "function": {"name": c.name, "arguments": c.arguments_json}}
        for c in CALLS
    ],
}
SAID = [
    {"role": "tool", "tool_call_id": "c", "content": "ok"},
    {"role": "tool", "tool_call_id": "d", "content": "words"},
]
ANSWERED = {"role": "assistant", "content": OUTPUT}
MESSAGES: list[dict[str, Any]] = [USER, CALLED, *SAID, ANSWERED]


def good_view() -> View:
    root = run_pb2.Run(run_id=RUN, state=RESULT.state, session_id="s", result=RESULT)
    root.end_time.seconds = 20
    child = run_pb2.Run(
        run_id=CHILD,
        namespace="default",
        root_run_id=RUN,
        parent_run_id=RUN,
        target=ComponentRef(name="plain"),
        state=PART_RESULT.state,
        message=PART,
        path="turn:1/call:2",
        result=PART_RESULT,
    )
    child.create_time.seconds, child.end_time.seconds = 6, 10
    row = asking()
    row.state = input_pb2.INPUT_STATE_ANSWERED
    row.answer.CopyFrom(APPROVED)
    totals = session_pb2.SessionTotals(
        runs=1,
        turns=3,
        tool_calls=2,
        usage=RESULT.usage,
        cost=RESULT.cost,
        duration=Duration(seconds=18),  # without the second in which it waited
    )
    story = good_story()
    return View(
        {RUN: root},
        [RUN],
        {RUN: story},
        {"s": Conversation(5, [1, 2, 3, 4, 5], [RUN] * 5, copy.deepcopy(MESSAGES), totals)},
        {CHILD: child},
        {INPUT: row},
        {(RUN, 7): story[7:]},
    )


def asked_at(seconds: float, *messages: Any, system: Any = SYSTEM) -> tuple[dict[str, Any], float]:
    return {"messages": [system, *messages]}, seconds


def good_facts() -> Facts:
    """One tree, told by two engines."""
    story = good_story()
    part = {"role": "system", "content": prompt("plain", TAG)}
    return Facts(
        {RUN: Accepted("careful", ASKED, TAG)},
        {RUN: story},
        [good_view(), good_view()],
        [
            asked_at(2.0, USER),
            asked_at(7.0, {"role": "user", "content": PART}, system=part),
            asked_at(17.0, USER, CALLED, *SAID),
        ],
        [{"tool": "count", "key": f"{RUN}:1:c", "time": 15.5, "arguments": {"ms": 1}}],
        watched=[
            Watched(RUN, (), "turn:1/call:2", CHILD, story[5:10]),
            Watched(RUN, ("run_claimed",), "", "", [story[12]]),
        ],
        answered={INPUT: [APPROVED]},
    )
