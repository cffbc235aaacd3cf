"""An agent's allowed and excluded tools: what is left out is never shown to its model, and never called."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.suite import Suite, stdio_server

OpenSuite = Callable[..., Awaitable[Suite]]


def shown(suite: Suite, request: int) -> set[str]:
    """The tools that a request to the model had."""
    return {each["function"]["name"] for each in suite.model.requests[request].get("tools", ())}


@pytest.mark.parametrize(
    "rules",
    [
        {"excluded_tools": [{"tool": "w*"}]},
        {"allowed_tools": [{"server": "tools", "tool": "count"}, {"server": "other"}]},
        {"allowed_tools": [{"tool": "*"}], "excluded_tools": [{"server": "tools", "tool": "wip?"}]},
    ],
)
async def test_a_tool_that_an_agent_does_not_have_is_neither_shown_nor_called(
    opened: OpenSuite, tmp_path: Path, rules: dict[str, Any]
) -> None:
    calls = [{"name": "tools__wipe", "arguments": {}}, {"name": "tools__count", "arguments": {}}]
    script = {"turns": [{"tool_calls": calls}, {"text": "done"}]}
    suite = await opened(
        script,
        agents={
            "some": {"mcp_servers": ["tools", "other"], **rules},
            "all": {"mcp_servers": ["tools", "other"]},
        },
        mcp_servers={"tools": stdio_server(tmp_path), "other": stdio_server(tmp_path / "other")},
    )
    assert (await suite.result("some")).output == "done"
    assert "tools__count" in shown(suite, 0)
    assert "tools__wipe" not in shown(suite, 0)
    assert "other__count" in shown(suite, 0)
    assert [each["tool"] for each in suite.notes()] == ["count"]
    # The lists of two agents with the same servers are kept apart.
    assert (await suite.result("all")).output == "done"
    assert "tools__wipe" in shown(suite, 2)
    assert sorted(each["tool"] for each in suite.notes()) == ["count", "count", "wipe"]
