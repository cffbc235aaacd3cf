"""Which transport a call takes."""

from typing import Any

import pytest

from retinue.errors import ComponentInvalidError
from retinue_engine.llm.routing import choose_transport


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
