"""The interface between the agent loop and a language model: what is asked, what comes back."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from retinue_kit.allowed_hosts import Reach

OnText = Callable[[str], None]
"""Takes text as it comes: called from the event loop, once for all text of a read; never blocks or fails."""

OnReasoning = Callable[[str], None]
"""Takes what a model thinks before and between its text, as OnText takes text."""


def ignore_reasoning(_: str) -> None:
    """An OnReasoning for those who do not listen."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """How to reach a model, with its secrets resolved."""

    model: str
    """The model's name as the provider knows it; on litellm with its provider, `anthropic/...`."""
    base_url: str | None
    """Where its server is; None where litellm knows."""
    api_key: str | None = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    timeout_s: float
    """From request to the last byte."""
    secrets: Sequence[str] = field(default=(), repr=False)
    """The values alone that stand in api_key and headers, to be cut out of what a provider says."""
    reach: Reach | None = None
    """Where base_url may lead; None: anywhere, as it stands in the operator's file."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How the model writes; None leaves it to the provider."""

    temperature: float | None = None
    top_p: float | None = None
    max_output_tokens: int | None = None
    seed: int | None = None
    stop: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """What a model is asked."""

    messages: Sequence[Mapping[str, Any]]
    """The conversation, in the OpenAI chat format."""
    tools: Sequence[Mapping[str, Any]]
    """The tools it may ask for, in the OpenAI format `{"type": "function", "function": {...}}`."""
    generation: Generation = Generation()
    output_schema: Mapping[str, Any] | None = None
    """JSON Schema of the text, for the provider's own structured mode; None asks for plain text."""


@dataclass(frozen=True, slots=True)
class ToolRequest:
    """A tool call that the model asks for."""

    call_id: str
    """The model's id, unique in its message; made up where the server sent none."""
    name: str
    arguments_json: str
    """As the model wrote them; need not be valid JSON."""


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """Tokens of one call, as the provider counted them."""

    input_tokens: int
    output_tokens: int
    cached_input_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Completion:
    """A model's whole answer."""

    text: str
    tool_calls: tuple[ToolRequest, ...]
    finish_reason: str
    """In the words of the OpenAI protocol: `stop`, `length`, `tool_calls`, `content_filter`."""
    usage: TokenUsage | None
    """None where the provider did not say."""
    model: str
    """The model that answered, in the provider's words; the asked one where it did not say."""
    reasoning: str = ""
    """What it thought, as far as the provider shows it."""


class ChatModel(Protocol):
    """A transport: asks a model and gives its answer."""

    async def complete(
        self,
        endpoint: Endpoint,
        request: ChatRequest,
        on_text: OnText,
        on_reasoning: OnReasoning = ignore_reasoning,
    ) -> Completion:
        """Ask, stream text and reasoning as they come, and return the whole answer.

        Raises a subclass of LlmError; what was streamed before does not count then. Cancelling closes the
        connection to the provider.
        """
