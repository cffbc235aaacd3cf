"""Which transport a call takes."""

from typing import Any

import pytest

from retinue.errors import ComponentInvalidError
from retinue_engine.llm.routing import choose_transport, open_models


@pytest.mark.parametrize(
    ("transport", "protocol", "chosen"),
    [
        ("auto", None, "litellm"),
        ("auto", "openai_chat", "direct"),
        ("direct", "openai_chat", "direct"),
        ("litellm", None, "litellm"),
        ("litellm", "openai_chat", "litellm"),
    ],
)
def test_auto_is_direct_only_where_the_protocol_is_declared(
    transport: Any, protocol: Any, chosen: str
) -> None:
    assert choose_transport(transport, protocol) == chosen


def test_direct_without_a_protocol_says_what_to_set() -> None:
    with pytest.raises(ComponentInvalidError, match="protocol: openai_chat") as caught:
        choose_transport("direct", None)
    assert [each.field for each in caught.value.violations] == ["protocol"]


@pytest.mark.parametrize(
    ("transport", "protocol", "model", "native"),
    [
        ("direct", "openai_chat", "any", True),
        ("litellm", None, "gpt-4o-mini", True),
        ("litellm", None, "anthropic/claude-sonnet-4-5", True),
        ("litellm", None, "claude-3-haiku-20240307", False),
        # litellm would force it to call a tool instead, and no other tool would be called.
        ("litellm", None, "anthropic/claude-sonnet-4-20250514", False),
        ("litellm", "openai_chat", "gpt-4o-mini", True),
        ("litellm", "openai_chat", "claude-sonnet-4-5", False),
        ("litellm", None, "no-such-model", False),
        ("litellm", None, "", False),
    ],
)
async def test_a_schema_goes_to_the_provider_where_the_model_is_known_to_take_it(
    transport: Any, protocol: Any, model: str, *, native: bool
) -> None:
    async with open_models() as models:
        for _ in range(2):
            assert await models.native_output(transport, model, protocol=protocol) is native
        # What the spec says goes before what is known.
        assert await models.native_output(transport, model, protocol=protocol, mode="native")
        assert not await models.native_output(transport, model, protocol=protocol, mode="instruction")


async def test_each_model_is_looked_up_once_and_none_over_the_network(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with open_models() as models:
        litellm = await models._litellm.warm()
        asked: list[tuple[str, str | None]] = []

        def supports(model: str, provider: str | None) -> bool:
            asked.append((model, provider))
            return False

        monkeypatch.setattr(litellm, "supports_response_schema", supports)
        for model in ("a", "b", "a", "ollama/llama3", "ollama_chat/llama3", "b"):
            await models.native_output("litellm", model)
        await models.native_output("litellm", "a", protocol="openai_chat")
    assert asked == [("a", None), ("b", None), ("a", "openai")]
