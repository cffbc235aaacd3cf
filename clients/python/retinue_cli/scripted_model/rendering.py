"""A scripted answer in the OpenAI chat-completions protocol: whole, or as the chunks of a stream."""

import json
from collections.abc import Iterator
from typing import Any

from retinue_cli.scripted_model.conversation import Conversation
from retinue_cli.scripted_model.script import Answer, Failure

_CHARS_PER_TOKEN = 4
_Json = dict[str, Any]


class Rendering:
    """One answer to one conversation."""

    def __init__(self, name: str, number: int, answer: Answer, conversation: Conversation) -> None:
        self._answer = answer
        self._conversation = conversation
        self._envelope: _Json = {
            "id": f"chatcmpl-scripted-{number}",
            "created": 0,
            "model": name,
            "system_fingerprint": "scripted",
        }
        self._reasoning = conversation.fill(answer.reasoning or "")
        if answer.chunks is not None:
            self._pieces = list(map(conversation.fill, answer.chunks))
        elif answer.structured is not None:
            structured = json.dumps(self._filled(answer.structured), ensure_ascii=False)
            self._pieces = _pieces(structured, answer.chunk_size)
        else:
            self._pieces = _pieces(conversation.fill(answer.text or ""), answer.chunk_size)
        self._text = "".join(self._pieces)
        self._tool_calls: list[_Json] = [
            {
                "id": call.id or f"call_scripted_{number}_{place}",
                "type": "function",
                "function": {"name": call.name, "arguments": self._arguments(call.arguments)},
            }
            for place, call in enumerate(answer.tool_calls)
        ]
        self._finish_reason = answer.finish_reason or ("tool_calls" if self._tool_calls else "stop")

    def whole(self) -> _Json:
        """The answer in one piece."""
        message: _Json = {"role": "assistant", "content": self._text or None}
        if self._reasoning:
            message["reasoning_content"] = self._reasoning
        if self._tool_calls:
            message["tool_calls"] = self._tool_calls
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason}
        whole = {**self._envelope, "object": "chat.completion", "choices": [choice]}
        return whole if self._answer.no_usage else {**whole, "usage": self._usage()}

    def chunks(self, *, include_usage: bool) -> Iterator[_Json]:
        """The answer as chunks; the usage, where it is asked for, in a last one without choices."""
        yield self._chunk({"role": "assistant", "content": ""})
        for piece in _pieces(self._reasoning, self._answer.chunk_size):
            yield self._chunk({"reasoning_content": piece})
        for piece in self._pieces:
            yield self._chunk({"content": piece})
        for index, call in enumerate(self._tool_calls):
            function = call["function"]
            begun = {**call, "index": index, "function": {**function, "arguments": ""}}
            yield self._chunk({"tool_calls": [begun]})
            for piece in _pieces(function["arguments"], self._answer.chunk_size):
                yield self._chunk({"tool_calls": [{"index": index, "function": {"arguments": piece}}]})
        yield self._chunk({}, self._finish_reason)
        if include_usage and not self._answer.no_usage:
            yield {**self._envelope, "object": "chat.completion.chunk", "choices": [], "usage": self._usage()}

    def _chunk(self, delta: _Json, finish_reason: str | None = None) -> _Json:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return {**self._envelope, "object": "chat.completion.chunk", "choices": [choice]}

    def _usage(self) -> _Json:
        usage = self._answer.usage
        if usage is None:
            said = self._conversation
            asked = len(said.system) + len(said.last_user) + sum(map(len, said.tool_results))
            calls = sum(len(json.dumps(call["function"])) for call in self._tool_calls)
            answered = len(self._reasoning) + len(self._text) + calls
            counts = (_estimate(asked), _estimate(answered), 0, _estimate(len(self._reasoning)))
        else:
            counts = (
                usage.input_tokens,
                usage.output_tokens,
                usage.cached_input_tokens,
                usage.reasoning_tokens,
            )
        return {
            "prompt_tokens": counts[0],
            "completion_tokens": counts[1],
            "total_tokens": counts[0] + counts[1],
            "prompt_tokens_details": {"cached_tokens": counts[2]},
            "completion_tokens_details": {"reasoning_tokens": counts[3]},
        }

    def _arguments(self, arguments: Any) -> str:
        return arguments if isinstance(arguments, str) else json.dumps(self._filled(arguments))

    def _filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._conversation.fill(value)
        if isinstance(value, list):
            return [self._filled(each) for each in value]
        if isinstance(value, dict):
            return {key: self._filled(each) for key, each in value.items()}
        return value


def error_body(failure: Failure) -> _Json:
    """A failure as an error object of the protocol."""
    kind = "invalid_request_error" if failure.status < 500 else "server_error"  # noqa: PLR2004 (HTTP)
    return {"error": {"message": failure.message, "type": kind, "param": None, "code": failure.code}}


def _pieces(text: str, size: int) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


def _estimate(chars: int) -> int:
    """Tokens by a rule that is the same everywhere and needs no tokenizer."""
    return -(-chars // _CHARS_PER_TOKEN)
