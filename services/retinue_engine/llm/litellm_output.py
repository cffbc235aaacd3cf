"""Whether a model's provider takes an output schema, as litellm has it."""

from typing import Any

_ASKED_OVER_NETWORK = ("ollama/", "ollama_chat/")
"""For their models litellm has no table: it would ask a server, wherever this process's environment says."""

_RESPONSE_FORMAT = {"type": "json_schema", "json_schema": {"name": "output", "schema": {"type": "object"}}}


def is_asked_over_network(model: str, provider: str | None) -> bool:
    """Whether litellm could not say without a call to a server."""
    return provider is None and model.startswith(_ASKED_OVER_NETWORK)


def takes_output_schema(litellm: Any, model: str, provider: str | None) -> bool:
    """What litellm's table says, unless litellm would only pretend; False for a model that it does not know.

    May import libraries, some of them large: call it in a thread.
    """
    if not litellm.supports_response_schema(model, provider):
        return False
    try:
        name, found, _, _ = litellm.get_llm_provider(model, provider)
        sent = litellm.get_optional_params(
            model=name, custom_llm_provider=found, response_format=_RESPONSE_FORMAT
        )
    except Exception:  # noqa: BLE001 - a provider whose requests litellm cannot make says nothing of the rest
        return False
    # For some models litellm makes the schema a tool that the model is forced to call. An agent's own tools
    # would never be called.
    return "tools" not in sent
