"""Where an agent run stands, as its events tell: the same when they happen and when they are read again."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from retinue.engine.v1 import event_pb2, input_pb2
from retinue_engine.agent.attachments import Content, content_parts
from retinue_engine.agent.spent import Spent

Message = dict[str, Any]
"""A message in the OpenAI chat format; attachments stand in it by reference."""


@dataclass(slots=True)
class Asked:
    """A request for input of a tool call."""

    request: input_pb2.InputRequest
    answer: input_pb2.InputAnswer | None = None
    answered_at: int = 0
    """Sequence of the answer."""


class Conversation:
    """Folds a run's events into the messages that the model is sent, and the sums of the result."""

    def __init__(
        self,
        system_prompt: str,
        history: Sequence[Message],
        message: Content | None,
        spent: Spent | None = None,
    ) -> None:
        self.messages: list[Message] = []
        if system_prompt:
            self.messages.append({"role": "system", "content": system_prompt})
        self.first = len(self.messages)
        """Index of the first message after the system prompt."""
        self.messages.extend(history)
        self._own = self._whole = len(self.messages)
        self.question = self._own
        """Index of what the run was asked: the model is always sent it."""
        if message is not None:
            self.messages.append({"role": "user", "content": message})
        self.omitted = 0
        """How many messages from `first` on the model is not sent any more."""
        self.restored = 0
        """How many messages of the run that this one goes on from are there."""
        self.restored_whole = False
        """Whether those are all."""
        self.turn = 0
        """Number of the last turn that began."""
        self.open_turn = 0
        """Sequence of the turn that began and has no answer yet; 0 where there is none."""
        self.unanswered: dict[str, event_pb2.RequestedToolCall] = {}
        """The tool calls of the last answer whose results are missing, in the model's order."""
        self.places: dict[str, int] = {}
        """Numbers of all tool calls of the last answer, from 1, by their ids."""
        self.started: dict[str, int] = {}
        """Those of `unanswered` that were sent on their way, with the sequence of that."""
        self.approvals: dict[str, Asked] = {}
        """The last request for approval of each tool call of the last answer."""
        self.asked: dict[str, Asked] = {}
        """The last question in each of these calls, of the model or of its server."""
        self._results: dict[str, event_pb2.ToolCallCompleted] = {}
        self.spent = spent or Spent()
        self.output = ""
        self.finish_reason = ""
        self.turns = 0
        """LLM calls of this run alone that were answered."""
        self.repairs = 0
        """Answers that did not fit the output schema."""
        self.stalls = 0
        """How often the model was told that it makes no headway."""
        self.repeats = 0
        """How often in a row it has asked for the same calls."""
        self._last_calls: tuple[tuple[str, str], ...] = ()
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
        apply = self._APPLY.get(which) if which else None
        if apply is not None:
            apply(self, event)

    def _turn_started(self, event: event_pb2.RunEvent) -> None:
        self.turn = event.turn_started.turn
        self.asked_llm = event.turn_started.llm
        self.open_turn = event.sequence

    def _message_discarded(self, event: event_pb2.RunEvent) -> None:
        discarded = event.message_discarded
        self.open_turn = 0
        if discarded.HasField("error"):
            self.spent.add_retry()
            self.failures = self.failures + 1 if discarded.next_llm == self.asked_llm else 0
            self.next_llm = discarded.next_llm

    def _message_completed(self, event: event_pb2.RunEvent) -> None:
        message = event.message_completed
        self.open_turn = 0
        self.next_llm, self.failures = "", 0
        self.turns += 1
        self.spent.add_answer(message)
        self.output = message.text
        self.finish_reason = message.finish_reason
        entry: Message = {"role": "assistant", "content": message.text or None}
        calls = tuple((call.name, call.arguments_json) for call in message.tool_calls)
        if calls:
            entry["tool_calls"] = [
                {
                    "id": call.call_id,
                    "type": "function",
                    "function": {"name": call.name, "arguments": call.arguments_json},
                }
                for call in message.tool_calls
            ]
            self.repeats = self.repeats + 1 if calls == self._last_calls else 1
        else:
            entry["content"] = message.text
            self.repeats = 0
        self._last_calls = calls
        self.messages.append(entry)
        self.unanswered = {call.call_id: call for call in message.tool_calls}
        self.places = {call_id: number for number, call_id in enumerate(self.unanswered, 1)}
        self.started.clear()
        self.approvals.clear()
        self.asked.clear()
        self._results.clear()
        if not calls:
            self._whole = len(self.messages)

    def _tool_call_started(self, event: event_pb2.RunEvent) -> None:
        self.started[event.tool_call_started.call_id] = event.sequence

    def _tool_call_completed(self, event: event_pb2.RunEvent) -> None:
        completed = event.tool_call_completed
        self.spent.add_tool_call()
        self.unanswered.pop(completed.call_id, None)
        self._results[completed.call_id] = completed
        if self.unanswered:
            return
        # Results stand in the order in which the model asked, however the calls ended.
        results = [self._results[call_id] for call_id in self.places]
        self.messages.extend(
            {"role": "tool", "tool_call_id": each.call_id, "content": each.text} for each in results
        )
        # The protocol knows no images in a tool's result: they follow as the user's.
        images = [
            each for result in results for each in result.attachments if each.mime_type.startswith("image/")
        ]
        if images:
            text = "These came with the results of the tools:"
            self.messages.append({"role": "user", "content": content_parts(text, event.run_id, images)})
        self._whole = len(self.messages)

    def _sampling_completed(self, event: event_pb2.RunEvent) -> None:
        self.spent.add_answer(event.sampling_completed)

    def _input_requested(self, event: event_pb2.RunEvent) -> None:
        request = event.input_requested.request
        requests = self.approvals if request.HasField("approval") else self.asked
        requests[request.call_id] = Asked(request)

    def _input_received(self, event: event_pb2.RunEvent) -> None:
        received = event.input_received
        for asked in self.requests():
            if asked.request.input_id == received.input_id:
                asked.answer = received.answer
                asked.answered_at = event.sequence

    def requests(self) -> list[Asked]:
        """The last requests for input of the calls of the last answer."""
        return [*self.approvals.values(), *self.asked.values()]

    def _conversation_restored(self, event: event_pb2.RunEvent) -> None:
        restored = event.conversation_restored
        saved_so_far = self._own == len(self.messages)
        self.messages.extend(json.loads(each) for each in restored.messages_json)
        if saved_so_far:
            self._own = self._whole = len(self.messages) - restored.unsaved_messages
        self.restored += len(restored.messages_json)
        self.restored_whole = restored.complete
        self.question = self.first + restored.question

    def _context_trimmed(self, event: event_pb2.RunEvent) -> None:
        self.omitted = event.context_trimmed.omitted_messages

    def _stall_noticed(self, event: event_pb2.RunEvent) -> None:
        self.stalls += 1
        self._tell(event.stall_noticed.message)

    def _output_rejected(self, event: event_pb2.RunEvent) -> None:
        self.repairs += 1
        self._tell(event.output_rejected.message)

    def _tell(self, text: str) -> None:
        self.messages.append({"role": "user", "content": text})

    def whole_messages(self) -> list[Message]:
        """What a run that goes on from here begins with: no call without its result, no last word."""
        whole = self.messages[self.first : max(self._whole, self._own + 1)]
        while whole and whole[-1]["role"] == "assistant":
            whole.pop()
        return whole

    def unsaved(self, count: int) -> int:
        """How many of the first `count` messages after the system prompt its session was not given."""
        return max(0, self.first + count - self._whole)

    def session_messages(self) -> list[str]:
        """What the session is given, as JSON: nothing without an answer, and no call without its result."""
        return [json.dumps(message, ensure_ascii=False) for message in self.messages[self._own : self._whole]]

    _APPLY: ClassVar[Mapping[str, Callable[["Conversation", event_pb2.RunEvent], None]]] = {
        "turn_started": _turn_started,
        "message_discarded": _message_discarded,
        "message_completed": _message_completed,
        "tool_call_started": _tool_call_started,
        "tool_call_completed": _tool_call_completed,
        "sampling_completed": _sampling_completed,
        "input_requested": _input_requested,
        "input_received": _input_received,
        "conversation_restored": _conversation_restored,
        "context_trimmed": _context_trimmed,
        "stall_noticed": _stall_noticed,
        "output_rejected": _output_rejected,
    }


def parse_arguments(arguments_json: str) -> Mapping[str, Any] | str:
    """The arguments of a tool call; where they are no JSON object, a text that tells the model so."""
    try:
        arguments = json.loads(arguments_json or "{}")
    except (ValueError, RecursionError) as error:
        return f"the arguments are not valid JSON ({error}): call the tool again with a JSON object"
    if not isinstance(arguments, dict):
        return "the arguments are not a JSON object: call the tool again with one"
    return arguments
