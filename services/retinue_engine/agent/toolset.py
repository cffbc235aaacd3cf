"""The tools that an agent's model is shown: those of its MCP servers, the agents it may call, `ask_user`."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retinue.registry.v1.component_pb2 import COMPONENT_KIND_AGENT
from retinue_engine.definition import AgentDefinition, Callee
from retinue_engine.tools import Tool, ToolList

ASK_USER = "ask_user"
MAX_NAME = 64
"""What every provider takes."""


@dataclass(frozen=True, slots=True)
class RunTool:
    """An agent or a workflow that is called as a tool."""

    callee: Callee


@dataclass(frozen=True, slots=True)
class AskUserTool:
    """The tool by which a model asks a person."""


AnyTool = Tool | RunTool | AskUserTool


@dataclass(frozen=True, slots=True)
class ToolSet:
    """What an agent may call."""

    by_name: Mapping[str, AnyTool]
    """By the name that the model is shown. No decision is made by taking such a name apart."""
    functions: Sequence[Mapping[str, Any]]
    """The same, in the OpenAI format."""


def tool_set(agent: AgentDefinition, listed: ToolList) -> ToolSet:
    """The tools of an agent, whose servers' tools are listed."""
    if not agent.callees and not agent.asks_user:
        return ToolSet(listed.by_name, listed.functions)
    by_name: dict[str, AnyTool] = dict(listed.by_name)
    functions = list(listed.functions)
    for callee in agent.callees:
        name = _free_name(callee.name, by_name)
        by_name[name] = RunTool(callee)
        functions.append(_function(name, callee.description or _described(callee), _ASK_RUN))
    if agent.asks_user:
        name = _free_name(ASK_USER, by_name)
        by_name[name] = AskUserTool()
        functions.append(_function(name, _ASK_USER_TEXT, _ASK_USER_ARGUMENTS))
    return ToolSet(by_name, functions)


def _described(callee: Callee) -> str:
    if callee.kind == COMPONENT_KIND_AGENT:
        return f"Asks the agent {callee.name}."
    return f"Runs the workflow {callee.name}."


def _free_name(wanted: str, taken: Mapping[str, object]) -> str:
    """A name that a model can call, and that no other tool has: the same each time."""
    name = plain = re.sub(r"[^a-zA-Z0-9_-]", "_", wanted)[:MAX_NAME]
    number = 2
    while name in taken:
        suffix = f"_{number}"
        name, number = plain[: MAX_NAME - len(suffix)] + suffix, number + 1
    return name


def _function(name: str, description: str, parameters: Mapping[str, Any]) -> Mapping[str, Any]:
    function = {"name": name, "description": description, "parameters": parameters}
    return {"type": "function", "function": function}


_ASK_RUN = {
    "type": "object",
    "properties": {
        "message": {
            "type": "string",
            "description": "What to ask it. It knows nothing of this conversation: say all that it needs.",
        }
    },
    "required": ["message"],
    "additionalProperties": False,
}

_ASK_USER_TEXT = (
    "Asks the person for whom you work, and waits for the answer. Use it where you cannot go on without one."
)

_ASK_USER_ARGUMENTS = {
    "type": "object",
    "properties": {
        "question": {"type": "string", "description": "The question, in full."},
        "answer_schema": {
            "type": "object",
            "description": "JSON Schema of the answer, where it is not just text.",
        },
    },
    "required": ["question"],
    "additionalProperties": False,
}
