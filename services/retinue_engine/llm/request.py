"""A request in the fields of the OpenAI chat-completions protocol; both transports send the same."""

from typing import Any

from retinue_engine.llm.model import ChatRequest


def request_fields(request: ChatRequest) -> dict[str, Any]:
    """Messages, tools, generation settings and output schema; what is not set is left out."""
    fields: dict[str, Any] = {"messages": list(request.messages)}
    if request.tools:
        fields["tools"] = list(request.tools)
    settings = request.generation
    if settings.temperature is not None:
        fields["temperature"] = settings.temperature
    if settings.top_p is not None:
        fields["top_p"] = settings.top_p
    if settings.max_output_tokens is not None:
        fields["max_tokens"] = settings.max_output_tokens
    if settings.seed is not None:
        fields["seed"] = settings.seed
    if settings.stop:
        fields["stop"] = list(settings.stop)
    if request.output_schema is not None:
        # Without `strict`: that allows a part of JSON Schema only, and refuses the rest.
        schema = {"name": "output", "schema": request.output_schema}
        fields["response_format"] = {"type": "json_schema", "json_schema": schema}
    return fields
