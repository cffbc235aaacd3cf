"""Reads a story the way a person would: what was said, asked, called, by which run of the tree."""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from retinue.engine.v1 import event_pb2, input_pb2
from tests.chaos.facts import Story

CLOCK_S = 0.002
"""How far two processes' readings of one clock may seem to lie apart."""

Message = dict[str, Any]


def seconds(event: event_pb2.RunEvent) -> float:
    """When an event was made."""
    return event.time.seconds + event.time.nanos / 1e9


def row_time(event: event_pb2.RunEvent) -> Timestamp:
    """When an event was made, as rows have it: in microseconds."""
    time = Timestamp()
    time.FromMicroseconds(event.time.ToMicroseconds())
    return time


@dataclass
class Asking:
    """A request for input, and what came of it."""

    event: event_pb2.RunEvent
    received: list[event_pb2.RunEvent] = field(default_factory=list)

    @property
    def request(self) -> input_pb2.InputRequest:
        """What was asked."""
        return self.event.input_requested.request

    @property
    def answer(self) -> input_pb2.InputAnswer | None:
        """What the journal holds as its answer."""
        return self.received[0].input_received.answer if self.received else None


@dataclass
class Call:
    """A tool call of one turn of one run."""

    asked: event_pb2.RequestedToolCall
    key: str
    starts: list[event_pb2.RunEvent] = field(default_factory=list)
    ends: list[event_pb2.RunEvent] = field(default_factory=list)
    askings: list[Asking] = field(default_factory=list)


@dataclass
class Turn:
    """An answer of a model."""

    event: event_pb2.RunEvent
    number: int
    known: int
    """How many of the run's messages the model knew."""


class Telling:
    """One run of a tree, as the story tells it."""

    def __init__(self, run_id: str, first: event_pb2.RunEvent) -> None:
        self.run_id = run_id
        self.first = first
        self.child = first.HasField("child_run_started")
        self.agent = (first.child_run_started if self.child else first.run_started).target.name
        self.question = first.child_run_started.message if self.child else first.run_started.message
        self.is_retry = first.run_started.HasField("origin")
        self.messages: list[Message] = []
        self.own = 0
        """Index of the first message that its session is given."""
        self.whole = 0
        """How many of them its session is given, or stand before that."""
        self.turns: list[Turn] = []
        self.calls: dict[tuple[str, str], Call] = {}
        """By the place of their turn and their id."""
        self.askings: dict[str, Asking] = {}
        self._open: list[str] = []
        if not self.is_retry:
            self.messages.append({"role": "user", "content": self.question})

    @property
    def saved(self) -> list[Message]:
        """What its session is given."""
        return self.messages[self.own : self.whole]

    def take(self, event: event_pb2.RunEvent) -> None:
        """Take in one of its events."""
        kind = event.WhichOneof("event")
        if kind == "conversation_restored":
            restored = event.conversation_restored
            if self.own == len(self.messages):
                self.own = self.whole = self.own + len(restored.messages_json) - restored.unsaved_messages
            self.messages += [json.loads(each) for each in restored.messages_json]
        elif kind == "message_completed":
            self._answered(event)
        elif kind == "tool_call_started":
            self._call(event, event.tool_call_started.call_id).starts.append(event)
        elif kind == "tool_call_completed":
            self._completed(event)
        elif kind == "input_requested":
            asking = Asking(event)
            self.askings[asking.request.input_id] = asking
            self._call(event, asking.request.call_id).askings.append(asking)
        elif kind == "input_received":
            self.askings[event.input_received.input_id].received.append(event)

    def _call(self, event: event_pb2.RunEvent, call_id: str) -> Call:
        return self.calls[event.path, call_id]

    def _answered(self, event: event_pb2.RunEvent) -> None:
        message = event.message_completed
        number = int(event.path.rpartition(":")[2])
        self.turns.append(Turn(event, number, len(self.messages)))
        said: Message = {"role": "assistant", "content": message.text}
        if message.tool_calls:
            said["content"] = message.text or None
            said["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_json},
                }
                for call in message.tool_calls
            ]
        self.messages.append(said)
        for call in message.tool_calls:
            self.calls[event.path, call.call_id] = Call(call, f"{self.run_id}:{number}:{call.call_id}")
        self._open = [call.call_id for call in message.tool_calls]
        if not self._open:
            self.whole = len(self.messages)

    def _completed(self, event: event_pb2.RunEvent) -> None:
        self._call(event, event.tool_call_completed.call_id).ends.append(event)
        calls = [self._call(event, call_id) for call_id in self._open]
        if calls and all(call.ends for call in calls):
            self.messages += [
                {
                    "role": "tool",
                    "tool_call_id": call.asked.call_id,
                    "content": call.ends[0].tool_call_completed.text,
                }
                for call in calls
            ]
            self.whole = len(self.messages)
            self._open = []


def tellings(story: Story) -> dict[str, Telling]:
    """Each run of a tree, the root first. Raises KeyError, ValueError where the story makes no sense."""
    runs: dict[str, Telling] = {}
    for event in story:
        if event.run_id not in runs:
            if not (event.HasField("run_started") or event.HasField("child_run_started")):
                raise ValueError(f"{event.run_id} begins with {event.WhichOneof('event')}")
            runs[event.run_id] = Telling(event.run_id, event)
        runs[event.run_id].take(event)
    return runs


def wrong_texts(story: Story) -> Iterator[str]:
    """Whether the texts of each run, as they came, are those of its answers."""
    texts: dict[str, str] = defaultdict(str)
    for event in story:
        kind = event.WhichOneof("event")
        if kind in ("turn_started", "message_discarded"):
            texts[event.run_id] = ""
        elif kind == "text_delta":
            texts[event.run_id] += event.text_delta.text
        elif kind == "message_completed" and texts[event.run_id] != event.message_completed.text:
            yield f"the text of {event.path} is not what came"


def suspended_us(story: Story) -> int:
    """How long a tree waited for people, or was paused."""
    total = since = 0
    for event in story:
        if event.HasField("run_suspended"):
            since = event.time.ToMicroseconds()
        elif event.HasField("run_claimed") and since:
            total += event.time.ToMicroseconds() - since
            since = 0
    return total


def later(times: Sequence[float], event: event_pb2.RunEvent) -> list[float]:
    """Those that lie after an event."""
    return [at for at in times if at > seconds(event) + CLOCK_S]
