"""Scripts and projects in which agents call agents, and what their stories say."""

from collections.abc import Sequence
from typing import Any

from retinue.engine.v1 import event_pb2
from tests.suite import Suite


def ask(message: str, agent: str = "worker", **more: Any) -> dict[str, Any]:
    """The call of an agent as a tool."""
    return {"name": agent, "arguments": {"message": message}, **more}


def says(agent: str, *answers: dict[str, Any]) -> list[dict[str, Any]]:
    """Rules for what an agent's model answers, turn by turn; the last answer again and again."""
    turns: list[dict[str, Any]] = [
        {"when": {"system_contains": f"the {agent}.", "turn": number}, **answer}
        for number, answer in enumerate(answers[:-1], 1)
    ]
    return [*turns, {"when": {"system_contains": f"the {agent}."}, **answers[-1]}]


def script(calls: Sequence[dict[str, Any]], *worker: dict[str, Any]) -> dict[str, Any]:
    """The boss makes calls and tells the last result; the worker answers as is said."""
    boss = says("boss", {"tool_calls": list(calls)}, {"text": "told: {last_tool}"})
    return {"rules": [*boss, *says("worker", *(worker or ({"text": "one two three"},)))]}


def agents(**more: dict[str, Any]) -> dict[str, Any]:
    """A boss, who may call a worker, and whoever else is given."""
    project: dict[str, Any] = {"boss": {"agents": ["worker"]}, "worker": {}}
    for name, spec in more.items():
        project[name] = project.get(name, {}) | spec
    return {name: {"system_prompt": f"You are the {name}.", **spec} for name, spec in project.items()}


def children(events: Sequence[event_pb2.RunEvent]) -> list[str]:
    """The ids of the runs inside, in the order in which they began."""
    return [event.run_id for event in events if event.WhichOneof("event") == "child_run_started"]


def calls_ended(events: Sequence[event_pb2.RunEvent], run_id: str) -> list[event_pb2.ToolCallCompleted]:
    """How the calls of one run of a tree ended."""
    return [
        event.tool_call_completed
        for event in events
        if event.run_id == run_id and event.WhichOneof("event") == "tool_call_completed"
    ]


async def inside(suite: Suite, root: str) -> list[str]:
    """The ids of the runs inside a run, the oldest first."""
    return [each.run_id async for each in suite.client.runs.list(root_run_id=root)][::-1]
