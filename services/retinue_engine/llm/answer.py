"""A model's answer while it comes in: puts text, tool calls and usage together into a Completion.

Both transports feed the same code, so that they mean the same by the same answer.
"""

from collections.abc import Mapping
from typing import Any

from retinue.errors import LlmError, LlmInvalidResponseError, LlmUnavailableError
from retinue_engine.llm.failures import error_in_answer
from retinue_engine.llm.model import Completion, Endpoint, TokenUsage
from retinue_engine.llm.tool_calls import ToolCalls, without_surrogates

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""The most characters of one answer, text and tool arguments together."""

_FINISH_REASONS = {
    # What servers that mean the protocol say instead of its own words.
    "eos": "stop",
    "eos_token": "stop",
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_length": "length",
    "function_call": "tool_calls",
    "tool_use": "tool_calls",
    "tool_call": "tool_calls",
    "content_filtered": "content_filter",
    "safety": "content_filter",
}


class Answer:
    """One answer of one endpoint; `add` takes each chunk, `completion` gives the whole."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._texts: list[str] = []
        self._tool_calls = ToolCalls()
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None
        self._model = ""
        self._chars = 0
        self._begun = False

    def add(self, chunk: Any) -> str:
        """Take one chunk of the stream, or a whole answer in one piece, and give its text."""
        if not isinstance(chunk, dict):
            raise self._invalid("sent JSON that is not an object")
        choices = chunk.get("choices")
        if choices is None and "error" in chunk:
            raise error_in_answer(self._endpoint, chunk["error"])
        if not isinstance(choices, list):
            raise self._invalid("sent JSON without `choices`")
        if not self._model and isinstance(model := chunk.get("model"), str):
            self._model = model
        self._begun = True
        if usage := chunk.get("usage"):
            self._usage = _usage(usage) or self._usage
        text = ""
        for choice in choices:
            # One answer is asked for; a server that sends more is heard on the first.
            if isinstance(choice, dict) and not choice.get("index"):
                text += self._add_choice(choice)
        return text

    def add_text(self, text: str) -> str:
        """Keep the text of one read, and give it as it may be shown; raises past the limit."""
        text = without_surrogates(text)
        self._texts.append(text)
        self._chars += len(text)
        if self._chars > MAX_ANSWER_CHARS:
            raise self._invalid(f"sent more than {MAX_ANSWER_CHARS} characters; set max_output_tokens")
        return text

    def completion(self) -> Completion:
        """The whole answer; raises where it is not whole, or nothing of the protocol came."""
        if not self._begun:
            raise self._invalid("sent nothing in the protocol; check base_url")
        if self._finish_reason is None:
            raise self.broke_off()
        tool_calls = self._tool_calls.finished()
        if any(not call.name for call in tool_calls):
            raise self._invalid("asked for a tool without naming it")
        reason = _FINISH_REASONS.get(self._finish_reason, self._finish_reason)
        if reason == "stop" and tool_calls:
            reason = "tool_calls"
        text = "".join(self._texts)
        return Completion(text, tool_calls, reason, self._usage, self._model or self._endpoint.model)

    @property
    def finished(self) -> bool:
        """Whether the model has said that it is done."""
        return self._finish_reason is not None

    def broke_off(self) -> LlmError:
        """The error for an answer that ended in the middle."""
        return LlmUnavailableError(
            f"the server of model {self._endpoint.model!r} broke off its answer; try again",
            model=self._endpoint.model,
        )

    def _add_choice(self, choice: Mapping[str, Any]) -> str:
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._finish_reason = reason
        delta = choice.get("delta")
        if delta is None:
            delta = choice.get("message")
            if delta is None:
                return ""
        if not isinstance(delta, dict):
            raise self._invalid("sent a choice that is not an object")
        if tool_calls := delta.get("tool_calls"):
            if not isinstance(tool_calls, list):
                raise self._invalid("sent tool calls that are not a list")
            self._chars += sum(map(self._tool_calls.add, tool_calls))
            if self._chars > MAX_ANSWER_CHARS:
                raise self._invalid(f"sent more than {MAX_ANSWER_CHARS} characters; set max_output_tokens")
        content = delta.get("content")
        if not content:
            return ""
        if not isinstance(content, str):
            raise self._invalid("sent content that is not text")
        return content

    def _invalid(self, what: str) -> LlmInvalidResponseError:
        model = self._endpoint.model
        return LlmInvalidResponseError(f"the server of model {model!r} {what}", model=model)


def _usage(usage: Any) -> TokenUsage | None:
    if not isinstance(usage, dict):
        return None
    return TokenUsage(
        input_tokens=_count(usage, "prompt_tokens"),
        output_tokens=_count(usage, "completion_tokens"),
        cached_input_tokens=_count(usage.get("prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(usage.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(counts: Any, key: str) -> int:
    value = counts.get(key) if isinstance(counts, dict) else None
    return value if isinstance(value, int) and value > 0 else 0
