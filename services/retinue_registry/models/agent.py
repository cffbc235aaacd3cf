"""The rules of an agent."""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, WithJsonSchema

from retinue_registry.models.fields import (
    INT32_MAX,
    INT64_MAX,
    Broken,
    Count,
    Duration,
    Name,
    Part,
    RefersTo,
    Required,
    Spec,
    Text,
    once_each,
    optional,
    required,
)
from retinue_registry.models.json_schema import JsonSchema
from retinue_registry.models.llm import GenerationSettings
from retinue_registry.models.template import template_names
from retinue_registry.nearest import did_you_mean

ASK_USER = "ask_user"
"""The field, and the tool that it gives."""
MAX_VARIABLES = 64

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
# Words that a template reads as something else.
_WORDS = frozenset(
    ("and", "else", "false", "False", "if", "in", "is", "none", "None", "not", "or", "self", "true", "True")
)


def _variable(name: str) -> str:
    if not _VARIABLE.fullmatch(name) or name in _WORDS:
        raise ValueError(
            f"{name[:80]!r} cannot be a variable: use 1 to 64 of A-Z, a-z, 0-9 and _, no digit first, "
            "and no word of the template language"
        )
    return name


def _pattern(text: str) -> str:
    if found := re.search(r"[\s\[\]]", text):
        raise ValueError(f"holds {found.group()!r}: it is the name of a tool, or one with * and ? in it")
    return text


VariableName = Annotated[
    str,
    AfterValidator(_variable),
    WithJsonSchema({"type": "string", "pattern": f"^(?:{_VARIABLE.pattern})$"}),
]
ToolPattern = Annotated[Required, Field(max_length=256), AfterValidator(_pattern)]


class Budget(Part):
    """What one run may use."""

    max_tokens: Annotated[int, Field(ge=1, le=INT64_MAX)] | None = optional(100_000)
    max_cost_nano_usd: Annotated[int, Field(ge=0, le=INT64_MAX)] | None = optional(50_000_000)
    max_tool_calls: Annotated[int, Field(ge=0, le=INT32_MAX)] | None = optional(40)
    max_turns: Count | None = optional(30)
    max_duration: Duration | None = optional("10m")


class ToolPolicy(Part):
    """A rule for some of an agent's tools."""

    server: Name | None = optional("tickets")
    tool: ToolPattern | None = optional("delete_*")
    approval: Literal["never", "always", "destructive"] | None = optional("always", default="never")
    interrupted: Literal["repeat", "ask", "fail"] | None = optional("ask")


class ToolSelector(Part):
    """Tools of MCP servers."""

    server: Name | None = optional("tickets")
    tool: ToolPattern | None = optional("read_*")


class AgentSpec(Spec):
    """An LLM with instructions and tools."""

    description: Text | None = optional("Answers questions about tickets.")
    llm: Annotated[Name, RefersTo("llm")] = required("fast")
    system_prompt: Text | None = optional("You help. Be brief.")
    mcp_servers: Annotated[list[Name], AfterValidator(once_each), RefersTo("mcp_server")] | None = optional(
        ["time", "tickets"]
    )
    generation: GenerationSettings | None = optional({"temperature": 0.2})
    max_iterations: Count | None = optional(12, default=20)
    tool_concurrency: Count | None = optional(2, default=8)
    include_history: bool | None = optional(False, default=True)
    timeout: Duration | None = optional("10m")
    fallback_llms: Annotated[list[Name], AfterValidator(once_each), RefersTo("llm")] | None = optional(
        ["claude"]
    )
    budget: Budget | None = optional({"max_turns": 30})
    agents: Annotated[list[Name], AfterValidator(once_each), RefersTo("agent")] | None = optional(["editor"])
    tool_policies: list[ToolPolicy] | None = optional([{"tool": "delete_*", "approval": "always"}])
    ask_user: bool | None = optional(True, default=False)
    output_schema: JsonSchema | None = optional(
        {"type": "object", "properties": {"title": {"type": "string"}}}
    )
    max_repairs: Annotated[int, Field(ge=0, le=20)] | None = optional(3, default=2)
    session_budget: Budget | None = optional({"max_tokens": 500_000})
    max_context_tokens: Annotated[int, Field(ge=256, le=INT64_MAX)] | None = optional(60_000)
    stall_after: Annotated[int, Field(ge=2, le=1000)] | None = optional(4, default=5)
    variables: Annotated[dict[VariableName, Text], Field(max_length=MAX_VARIABLES)] | None = optional(
        {"paper": "The Daily"}
    )
    input_timeout: Duration | None = optional("12h", default="24h")
    allowed_tools: list[ToolSelector] | None = optional([{"server": "tickets", "tool": "read_*"}])
    excluded_tools: list[ToolSelector] | None = optional([{"tool": "delete_*"}])
    linear_workflows: Annotated[list[Name], AfterValidator(once_each), RefersTo("linear_workflow")] | None = (
        optional(["report"])
    )
    graph_workflows: Annotated[list[Name], AfterValidator(once_each), RefersTo("graph_workflow")] | None = (
        optional(["research"])
    )
    custom_workflows: Annotated[list[Name], AfterValidator(once_each), RefersTo("custom_workflow")] | None = (
        optional(["nightly"])
    )

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield policies without effect, variables without a place, and tools of one name."""
        servers, policies = _list(given.get("mcp_servers")), _list(given.get("tool_policies"))
        for index, policy in enumerate(policies):
            if isinstance(policy, dict):
                yield from _no_effect(("tool_policies", index), policy, servers)
        for name in ("allowed_tools", "excluded_tools"):
            for index, selector in enumerate(_list(given.get(name))):
                if isinstance(selector, dict):
                    yield from _selects_nothing((name, index), selector, servers)
        yield from _variables(given)
        if given.get(ASK_USER) is True and ASK_USER in _list(given.get("agents")):
            yield Broken(
                (ASK_USER,), f"gives a tool of this name, and so does the agent {ASK_USER}: rename the agent"
            )


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _no_effect(
    place: tuple[str | int, ...], policy: Mapping[str, Any], servers: list[Any]
) -> Iterator[Broken]:
    yield from _unknown_server(place, policy, servers)
    if not {"approval", "interrupted"} & policy.keys():
        yield Broken(place, "says nothing: set approval or interrupted")


def _selects_nothing(
    place: tuple[str | int, ...], selector: Mapping[str, Any], servers: list[Any]
) -> Iterator[Broken]:
    yield from _unknown_server(place, selector, servers)
    if not {"server", "tool"} & selector.keys():
        yield Broken(place, "says nothing: set server, tool or both")


def _unknown_server(
    place: tuple[str | int, ...], rule: Mapping[str, Any], servers: list[Any]
) -> Iterator[Broken]:
    server = rule.get("server")
    if isinstance(server, str) and server not in servers:
        near = did_you_mean(server, (each for each in servers if isinstance(each, str)))
        yield Broken((*place, "server"), f"{server[:80]!r} is none of the agent's mcp_servers{near}")


def _variables(given: Mapping[str, Any]) -> Iterator[Broken]:
    variables, prompt = given.get("variables"), given.get("system_prompt")
    if not isinstance(variables, dict) or not variables:
        return
    if not isinstance(prompt, str):
        if prompt is None:
            yield Broken(("variables",), "need a system_prompt in which they stand")
        return
    try:
        names = template_names(prompt)
    except ValueError as error:
        yield Broken(("system_prompt",), f"{error}; it is a template, as there are variables")
        return
    for name in variables:
        if _VARIABLE.fullmatch(name) and name not in _WORDS and name not in names:
            yield Broken(("variables", name), f"stands nowhere in system_prompt{did_you_mean(name, names)}")
