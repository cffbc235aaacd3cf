"""What runs while things break: agents that call tools, people and one another, and what their model says."""

from pathlib import Path
from typing import Any

from tests.suite import stdio_server

ONCE = frozenset({"count", "hold"})
"""Tools that are not declared repeatable."""

AGENT_OF = {
    "talk": "plain",
    "count": "plain",
    "repeat": "plain",
    "twice": "plain",
    "fail": "plain",
    "approve": "careful",
    "ask": "asking",
    "strict": "strict",
    "boss": "boss",
    "query": "boss",
    "deep": "chief",
}
"""Which agent is asked what, by the first word of the message."""

_SPECS: dict[str, dict[str, Any]] = {
    "plain": {"mcp_servers": ["tools"]},
    "careful": {"mcp_servers": ["tools"], "tool_policies": [{"tool": "count", "approval": "always"}]},
    "asking": {"mcp_servers": ["tools"], "ask_user": True},
    "strict": {"mcp_servers": ["tools"], "tool_policies": [{"interrupted": "fail"}]},
    "boss": {"agents": ["plain", "careful", "asking"]},
    "chief": {"agents": ["boss", "plain"]},
}


def needs_approval(agent: str, tool: str) -> bool:
    """Whether a person is asked before an agent calls a tool."""
    return (agent, tool) == ("careful", "count")


def tag_of(number: int, retry: int) -> str:
    """The name of a run and of its retries: its request_id, and what its agents' prompts say."""
    return f"r{number} try {retry}"


def prompt(agent: str, tag: str) -> str:
    """The system prompt of an agent in a run: by it the model's requests are told apart."""
    return f"You are the {agent} of {tag}."


def project(folder: Path) -> dict[str, Any]:
    """The agents and servers; the tools write down in the folder what happens to them."""
    (folder / "release").touch()
    return {
        "agents": {
            name: {"system_prompt": prompt(name, "{{ tag }}"), "variables": {"tag": "nobody"}, **spec}
            for name, spec in _SPECS.items()
        },
        "mcp_servers": {"tools": stdio_server(folder)},
    }


def _says(kind: str, *calls: tuple[str, dict[str, Any]], **when: Any) -> dict[str, Any]:
    """A rule: these calls, where the message is of a kind."""
    named = [{"name": name, "arguments": arguments} for name, arguments in calls]
    return {"when": {"user_matches": f"^{kind} ", **when}, "tool_calls": named, "delay_ms": 10}


def _tool(name: str, ms: int = 300) -> tuple[str, dict[str, Any]]:
    return f"tools__{name}", {"ms": ms}


def _agent(kind: str) -> tuple[str, dict[str, Any]]:
    return AGENT_OF[kind], {"message": f"{kind} within {{last_user}}"}


_LAST_WORD = {"text": "the tools said {last_tool}", "chunk_size": 4, "chunk_delay_ms": 15}

SCRIPT: dict[str, Any] = {
    "rules": [
        {
            "when": {"user_matches": "^fail ", "last_role": "tool", "system_contains": "try 0"},
            "error": {"status": 400, "message": "not the first time"},
        },
        {"when": {"user_matches": "^twice ", "tool_matches": "released|fail|not made"}, **_LAST_WORD},
        _says("twice", _tool("hold", 100), last_role="tool"),
        {"when": {"last_role": "tool"}, **_LAST_WORD},
        _says("count", _tool("count"), _tool("count_again")),
        _says("repeat", _tool("count_again"), _tool("look")),
        _says("twice", _tool("count", 100)),
        _says("fail", _tool("count_again", 50)),
        _says("approve", _tool("count"), _tool("look")),
        _says(
            "ask",
            ("ask_user", {"question": "{last_user}?"}),
            ("ask_user", {"question": "How many?", "answer_schema": {"type": "integer"}}),
            _tool("count_again"),
        ),
        _says("strict", _tool("count"), _tool("look")),
        _says("boss", _agent("count"), _agent("approve")),
        _says("query", _agent("ask"), _agent("talk")),
        _says("deep", _agent("boss"), _agent("repeat")),
    ],
    "default": {"chunks": [f"word{n} " for n in range(60)], "chunk_delay_ms": 10},
}
