"""Where an agent run stands, as its events tell: the same when they happen and when they are read again."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from retinue.common.v1.usage_pb2 import Cost, Usage
from retinue.engine.v1 import event_pb2

Message = dict[str, Any]
"""A message in the OpenAI chat format."""


class Conversation:
    """Folds a run's events into the messages that the model is sent, and the sums of the result."""

    def __init__(self, system_prompt: str, history: Sequence[Message], message: str) -> None:
        self.messages: list[Message] = []
        if system_prompt:
            self.messages.append({"role": "system", "content": system_prompt})
        self.messages.extend(history)
        self._own = len(self.messages)
        self.messages.append({"role": "user", "content": message})
        self._whole = self._own
        self.turn = 0
        """Number of the last turn that began."""
        self.open_turn = 0
        """Sequence of the turn that began and has no answer yet; 0 where there is none."""
        self.unanswered: dict[str, event_pb2.RequestedToolCall] = {}
        """The tool calls of the last answer whose results are missing, in the model's order."""
        self.started: set[str] = set()
        """Those of them that were sent on their way."""
        self._asked: list[str] = []
        self._results: dict[str, str] = {}
        self.output = ""
        self.finish_reason = ""
        self.usage = Usage()
        self.cost = Cost()
        self.turns = 0
        self.tool_calls = 0
        self.retries = 0
        """LLM calls that failed and were made again."""
        self.asked_llm = ""
        """Name of the llm of the last turn that began."""
        self.next_llm = ""
        """Name of the llm to ask next; empty where a turn begins anew."""
        self.failures = 0
        """How often in a row `next_llm` has failed in this turn."""

    @property
    def answered(self) -> bool:
        """Whether the model has given its last word."""
        return self.turns > 0 and not self.unanswered and self.messages[-1]["role"] == "assistant"

    def apply(self, event: event_pb2.RunEvent) -> None:
        """Take in one event of the run."""
        which = event.WhichOneof("event")
        if which == "turn_started":
            self.turn = event.turn_started.turn
            self.asked_llm = event.turn_started.llm
            self.open_turn = event.sequence
        elif which == "message_discarded":
            self._message_discarded(event.message_discarded)
        elif which == "message_completed":
            self._message_completed(event.message_completed)
        elif which == "tool_call_started":
            self.started.add(event.tool_call_started.call_id)
        elif which == "tool_call_completed":
            self._tool_call_completed(event.tool_call_completed)

    def _message_discarded(self, discarded: event_pb2.MessageDiscarded) -> None:
        self.open_turn = 0
        if discarded.HasField("error"):
            self.retries += 1
            self.failures = self.failures + 1 if discarded.next_llm == self.asked_llm else 0
            self.next_llm = discarded.next_llm

    def _message_completed(self, message: event_pb2.MessageCompleted) -> None:
        self.open_turn = 0
        self.next_llm, self.failures = "", 0
        self.turns += 1
        self.output = message.text
        self.finish_reason = message.finish_reason
        add_usage(self.usage, message.usage)
        self.cost.nano_usd += message.cost.nano_usd
        self.cost.unknown |= message.cost.unknown
        entry: Message = {"role": "assistant", "content": message.text or None}
        if message.tool_calls:
            entry["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_json},
                }
                for call in message.tool_calls
            ]
        else:
            entry["content"] = message.text
        self.messages.append(entry)
        self._asked = [call.call_id for call in message.tool_calls]
        self.unanswered = {call.call_id: call for call in message.tool_calls}
        self.started.clear()
        self._results.clear()
        if not self._asked:
            self._whole = len(self.messages)

    def _tool_call_completed(self, completed: event_pb2.ToolCallCompleted) -> None:
        self.tool_calls += 1
        self.unanswered.pop(completed.call_id, None)
        self._results[completed.call_id] = completed.text
        if self.unanswered:
            return
        # Results stand in the order in which the model asked, however the calls ended.
        self.messages.extend(
            {"role": "tool", "tool_call_id": call_id, "content": self._results[call_id]}
            for call_id in self._asked
        )
        self._whole = len(self.messages)

    def session_messages(self) -> list[str]:
        """What the session is given, as JSON: nothing without an answer, and no call without its result."""
        return [json.dumps(message, ensure_ascii=False) for message in self.messages[self._own : self._whole]]


def add_usage(total: Usage, more: Usage) -> None:
    """Add tokens to a sum."""
    total.input_tokens += more.input_tokens
    total.output_tokens += more.output_tokens
    total.cached_input_tokens += more.cached_input_tokens
    total.reasoning_tokens += more.reasoning_tokens


def parse_arguments(arguments_json: str) -> Mapping[str, Any] | str:
    """The arguments of a tool call; where they are no JSON object, a text that tells the model so."""
    try:
        arguments = json.loads(arguments_json or "{}")
    except (ValueError, RecursionError) as error:
        return f"the arguments are not valid JSON ({error}): call the tool again with a JSON object"
    if not isinstance(arguments, dict):
        return "the arguments are not a JSON object: call the tool again with one"
    return arguments
