"""Graphs that are written as a list of agents with a strategy: what nodes and edges they are."""

from collections.abc import Callable, Iterable, Mapping
from itertools import pairwise
from typing import Any

Values = dict[str, Any]

_SHORT = ("strategy", "agents", "chooser")


def expanded(values: Mapping[str, Any]) -> Values:
    """The values of a graph with the nodes and edges that its strategy means; the same without one."""
    strategy = values.get("strategy")
    if strategy is None:
        return dict(values)
    rest = {name: value for name, value in values.items() if name not in _SHORT}
    return {**_STRATEGIES[strategy](values), **rest}


def node_names(agents: Iterable[str]) -> list[str]:
    """What the nodes of agents are called: as they are, in the letters of nodes, each once."""
    found: list[str] = []
    for agent in agents:
        plain = agent.replace("-", "_")
        plain = f"_{plain}" if plain[0].isdigit() else plain
        name, number = plain, 1
        while name in found:
            number += 1
            name = f"{plain}_{number}"
        found.append(name)
    return found


def _nodes(agents: list[str]) -> tuple[list[str], list[Values]]:
    names = node_names(agents)
    return names, [{"name": name, "agent": agent} for name, agent in zip(names, agents, strict=True)]


def _sequential(values: Mapping[str, Any]) -> Values:
    names, nodes = _nodes(values["agents"])
    return {"nodes": nodes, "edges": [{"source": one, "target": other} for one, other in pairwise(names)]}


def _parallel(values: Mapping[str, Any]) -> Values:
    names, nodes = _nodes(values["agents"])
    outputs = ", ".join(f"steps.{name}.output" for name in names)
    return {"nodes": nodes, "output": f"[{outputs}]"}


def _decision_tree(values: Mapping[str, Any]) -> Values:
    names, nodes = _nodes(values["agents"])
    choose = node_names([*names, "choose"])[-1]
    routes = [
        {"name": name, "description": agent} for name, agent in zip(names, values["agents"], strict=True)
    ]
    router = {"routes": routes, "default": names[0], "agent": values["chooser"], "input": "{{ input }}"}
    return {
        "nodes": [{"name": choose, "router": router}, *({**node, "input": "{{ input }}"} for node in nodes)],
        "edges": [{"source": choose, "target": name, "route": name} for name in names],
    }


_STRATEGIES: Mapping[str, Callable[[Mapping[str, Any]], Values]] = {
    "sequential": _sequential,
    "parallel": _parallel,
    "decision_tree": _decision_tree,
}
