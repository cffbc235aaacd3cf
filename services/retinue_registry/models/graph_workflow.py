"""The rules of a graph workflow: its nodes, its edges, and that each node can be reached."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Any, Literal

from pydantic import Field

from retinue_registry.models.agent import Budget
from retinue_registry.models.fields import Broken, Count, Duration, Part, Spec, Text, optional, required
from retinue_registry.models.json_schema import JsonSchema
from retinue_registry.models.json_value import JsonMapping
from retinue_registry.models.reach import Reach, Way, way_of
from retinue_registry.models.step import (
    Agent,
    Expression,
    StepName,
    WorkflowStep,
    broken_output,
    broken_step,
)
from retinue_registry.nearest import did_you_mean

MAX_NODES = 1000
MAX_EDGES = 10_000
MAX_AGENTS = 25
"""Of a strategy: what the output of so many is made of still fits into one expression."""


class GraphEdge(Part):
    """A way from one node to another."""

    source: StepName = required("plan")
    target: StepName = required("search")
    after: Literal["success", "failure", "always"] | None = optional("failure", default="success")
    when: Expression | None = optional("steps.plan.output != ''")
    route: StepName | None = optional("bug")


class GraphWorkflowSpec(Spec):
    """Nodes with edges between them, without a circle."""

    description: Text | None = optional("Researches a topic.")
    nodes: Annotated[list[WorkflowStep], Field(min_length=1, max_length=MAX_NODES)] | None = optional(
        [{"name": "plan", "agent": "planner"}]
    )
    edges: Annotated[list[GraphEdge], Field(max_length=MAX_EDGES)] | None = optional(
        [{"source": "plan", "target": "search"}]
    )
    input_schema: JsonSchema | None = optional(
        {"type": "object", "properties": {"topic": {"type": "string"}}}
    )
    output: Expression | None = optional("steps.search.output")
    concurrency: Count | None = optional(4, default=16)
    on_failure: Literal["fail_fast", "wait_all", "continue"] | None = optional(
        "wait_all", default="fail_fast"
    )
    timeout: Duration | None = optional("10m")
    budget: Budget | None = optional({"max_turns": 30})
    session_budget: Budget | None = optional({"max_tokens": 500_000})
    state: JsonMapping | None = optional({"found": []})
    on_conflict: Literal["error", "last", "merge"] | None = optional("merge", default="error")
    strategy: Literal["sequential", "parallel", "decision_tree"] | None = optional("sequential")
    agents: Annotated[list[Agent], Field(min_length=1, max_length=MAX_AGENTS)] | None = optional(
        ["searcher", "writer"]
    )
    chooser: Agent | None = optional("clerk")

    @classmethod
    def across(cls, given: Mapping[str, Any]) -> Iterator[Broken]:
        """Yield what breaks the rules of nodes and edges, and nodes that nothing can lead to."""
        yield from _strategy(given)
        nodes = _named(given.get("nodes"))
        edges = [(i, each) for i, each in enumerate(_list(given.get("edges"))) if isinstance(each, dict)]
        first: dict[str, int] = {}
        for index, name, _ in nodes:
            if first.setdefault(name, index) != index:
                yield Broken(("nodes", index, "name"), f"{name!r} is the name of an earlier node")
        by_name = {name: node for _, name, node in reversed(nodes)}
        yield from _edges(edges, by_name)
        ways = [
            (str(edge.get("source")), str(edge.get("target")))
            for _, edge in edges
            if edge.get("source") in by_name and edge.get("target") in by_name
        ]
        before: dict[str, set[str]] = {name: set() for name in by_name}
        count = Counter(target for _, target in ways)
        for source, target in ways:
            before[target].add(source)
        circle = _circle(before)
        if circle:
            yield Broken(
                ("edges",),
                f"lead in a circle: {' → '.join(circle)}; what repeats is a node with `loop`",
            )
        above = {} if circle else _above(before)
        reach = None if circle else _reach(before, by_name, edges)
        for index, name, node in nodes:
            known = sorted(above.get(name, set(by_name) - {name}))
            yield from broken_step(("nodes", index), node, known)
            yield from _joins(("nodes", index, "join"), node, count[name])
            if reach and by_name[name] is node:
                yield from reach.broken(("nodes", index), name)
        for index, edge in edges:
            source = str(edge.get("source"))
            known = sorted({*above.get(source, by_name), source} & by_name.keys())
            yield from broken_output(("edges", index, "when"), edge.get("when"), known)
        yield from broken_output(("output",), given.get("output"), sorted(by_name))


def _strategy(given: Mapping[str, Any]) -> Iterator[Broken]:
    """A graph has nodes, or agents with a strategy."""
    strategy = given.get("strategy")
    if strategy is None:
        if "nodes" not in given:
            yield Broken(("nodes",), "is missing: a graph has nodes, or a strategy with agents")
        for name in ("agents", "chooser"):
            if name in given:
                yield Broken((name,), "goes with a strategy, which is not set")
        return
    for name in ("nodes", "edges", "output"):
        if name in given:
            yield Broken((name,), "has no place beside a strategy, which makes a graph of its agents")
    if "agents" not in given:
        yield Broken(("agents",), "is missing: it names those of which the strategy makes a graph")
    if (strategy == "decision_tree") != ("chooser" in given):
        yield Broken(("chooser",), "is needed with the strategy decision_tree, and there alone")


def _list(value: object) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _named(value: object) -> list[tuple[int, str, Mapping[str, Any]]]:
    return [
        (index, node["name"], node)
        for index, node in enumerate(_list(value))
        if isinstance(node, dict) and isinstance(node.get("name"), str)
    ]


def _edges(
    edges: Sequence[tuple[int, Mapping[str, Any]]], by_name: Mapping[str, Mapping[str, Any]]
) -> Iterator[Broken]:
    for index, edge in edges:
        place = ("edges", index)
        for end in ("source", "target"):
            name = edge.get(end)
            if isinstance(name, str) and name not in by_name:
                yield Broken((*place, end), f"there is no node {name!r}{did_you_mean(name, by_name)}")
        yield from _route(place, edge, by_name.get(str(edge.get("source")), {}))
    taken = {(edge.get("source"), edge.get("route")) for _, edge in edges}
    for name, node in by_name.items():
        router = node.get("router")
        if isinstance(router, dict) and (name, router.get("default")) not in taken:
            default = router.get("default")
            yield Broken(("edges",), f"none leads from the router {name!r} by its default route {default!r}")


def _route(
    place: tuple[str | int, ...], edge: Mapping[str, Any], source: Mapping[str, Any]
) -> Iterator[Broken]:
    router, route = source.get("router"), edge.get("route")
    if not isinstance(router, dict):
        if route is not None:
            yield Broken((*place, "route"), "is for edges that lead from a router")
        return
    names = [each.get("name") for each in _list(router.get("routes")) if isinstance(each, dict)]
    known = list(dict.fromkeys(name for name in (*names, router.get("default")) if isinstance(name, str)))
    if route is None and edge.get("after") != "failure":
        yield Broken((*place, "route"), "is missing: the edge leads from a router")
    elif isinstance(route, str) and route not in known:
        yield Broken((*place, "route"), f"the router has no route {route!r}{did_you_mean(route, known)}")


def _circle(before: Mapping[str, set[str]]) -> list[str]:
    try:
        TopologicalSorter(before).prepare()
    except CycleError as error:
        return [str(name) for name in error.args[1]]
    return []


def _above(before: Mapping[str, set[str]]) -> dict[str, set[str]]:
    """For each node all from which it can be reached."""
    found: dict[str, set[str]] = {}
    for name in TopologicalSorter(before).static_order():
        found[name] = set().union(*(found[each] | {each} for each in before.get(name, ())))
    return found


def _reach(
    before: Mapping[str, set[str]],
    by_name: Mapping[str, Mapping[str, Any]],
    edges: Sequence[tuple[int, Mapping[str, Any]]],
) -> Reach:
    ways: dict[str, list[Way]] = {name: [] for name in by_name}
    for _, edge in edges:
        if edge.get("source") in by_name and edge.get("target") in by_name:
            ways[str(edge["target"])].append(way_of(edge))
    return Reach(TopologicalSorter(before).static_order(), by_name, ways)


def _joins(place: tuple[str | int, ...], node: Mapping[str, Any], edges: int) -> Iterator[Broken]:
    join = node.get("join")
    if not isinstance(join, dict):
        return
    if edges < 2:  # noqa: PLR2004 - one way is no join
        yield Broken(place, f"joins nothing: {edges} edges lead to this node")
    quorum = join.get("quorum")
    if isinstance(quorum, int) and quorum > edges:
        yield Broken((*place, "quorum"), f"can never be met: {edges} edges lead to this node")
