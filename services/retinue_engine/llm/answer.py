"""A model's answer while it comes in: puts text, reasoning, tool calls and usage together into a Completion.

Both transports feed the same code, so that they mean the same by the same answer.
"""

from collections.abc import Mapping
from typing import Any

from retinue.errors import LlmError, LlmInvalidResponseError, LlmUnavailableError
from retinue_engine.llm.failures import error_in_answer
from retinue_engine.llm.model import (
    Completion,
    Endpoint,
    OnReasoning,
    OnText,
    TokenUsage,
    ignore_reasoning,
)
from retinue_engine.llm.tool_calls import ToolCalls, without_surrogates

MAX_ANSWER_CHARS = 16 * 1024 * 1024
"""The most characters of one answer: text, reasoning and tool arguments together."""

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
    """One answer: `add` takes each chunk, `flush` passes on what came, `completion` gives the whole.

    Text and reasoning are passed on in the order in which they came.
    """

    def __init__(
        self, endpoint: Endpoint, on_text: OnText, on_reasoning: OnReasoning = ignore_reasoning
    ) -> None:
        self._endpoint = endpoint
        self._on_text = on_text
        self._on_reasoning = on_reasoning
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._pending: list[str] = []  # what came since the last flush: text, or reasoning where it reasons
        self._reasons = False
        self._tool_calls = ToolCalls()
        self._finish_reason: str | None = None
        self._usage: TokenUsage | None = None
        self._model = ""
        self._chars = 0
        self._begun = False

    def add(self, chunk: Any) -> None:
        """Take one chunk of the stream, or a whole answer in one piece."""
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
        for choice in choices:
            # One answer is asked for; a server that sends more is heard on the first.
            if isinstance(choice, dict) and not choice.get("index"):
                self._add_choice(choice)

    def flush(self) -> None:
        """Pass on what came since the last flush, as one piece; raises past the limit."""
        if not self._pending:
            return
        text = without_surrogates("".join(self._pending))
        self._pending.clear()
        self._count(len(text))
        if self._reasons:
            self._thoughts.append(text)
            self._on_reasoning(text)
        else:
            self._texts.append(text)
            self._on_text(text)

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
        return Completion(
            text="".join(self._texts),
            tool_calls=tool_calls,
            finish_reason=reason,
            usage=self._usage,
            model=self._model or self._endpoint.model,
            reasoning="".join(self._thoughts),
        )

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

    def _add_choice(self, choice: Mapping[str, Any]) -> None:
        if isinstance(reason := choice.get("finish_reason"), str) and reason:
            self._finish_reason = reason
        delta = choice.get("delta")
        if delta is None:
            delta = choice.get("message")
            if delta is None:
                return
        if not isinstance(delta, dict):
            raise self._invalid("sent a choice that is not an object")
        if tool_calls := delta.get("tool_calls"):
            self._add_tool_calls(tool_calls)
        # DeepSeek, vLLM and litellm use the first name, OpenRouter and Ollama the second; both mean the same.
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        if reasoning and isinstance(reasoning, str):
            self._add_reasoning(reasoning)
        content = delta.get("content")
        if not content:
            return
        if not isinstance(content, str):
            raise self._invalid("sent content that is not text")
        if self._reasons:
            self.flush()
            self._reasons = False
        self._pending.append(content)

    def _add_tool_calls(self, tool_calls: Any) -> None:
        if not isinstance(tool_calls, list):
            raise self._invalid("sent tool calls that are not a list")
        self._count(sum(map(self._tool_calls.add, tool_calls)))

    def _add_reasoning(self, reasoning: str) -> None:
        if not self._reasons:
            self.flush()
            self._reasons = True
        self._pending.append(reasoning)

    def _count(self, chars: int) -> None:
        self._chars += chars
        if self._chars > MAX_ANSWER_CHARS:
            raise self._invalid(f"sent more than {MAX_ANSWER_CHARS} characters; set max_output_tokens")

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
