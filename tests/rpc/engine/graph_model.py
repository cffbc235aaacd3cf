"""Random graph workflows, and a small model of what becomes of them. It knows no engine."""

import json
from collections import Counter
from typing import Any, NamedTuple

from hypothesis import strategies as st

IN_PLACE = "good in place"
"""What each fallback gives."""


class Edge(NamedTuple):
    """A way from an earlier node."""

    source: int
    after: str
    when: bool
    route: str = ""


class Node(NamedTuple):
    """What a node does, by `what` and `more`, and how it is reached."""

    what: str
    more: Any
    condition: bool
    on_error: str
    edges: tuple[Edge, ...]
    mode: str
    quorum: int
    cancel_rest: bool
    merge: str
    sets: tuple[tuple[str, Any], ...]
    """What it sets in the state."""

    @property
    def needed(self) -> int:
        """How many ways to it must be gone."""
        return {"all": len(self.edges), "quorum": self.quorum}.get(self.mode, 1)


class Graph(NamedTuple):
    """Nodes of which each is reached from earlier ones alone."""

    nodes: tuple[Node, ...]
    on_failure: str
    on_conflict: str
    concurrency: int

    def before(self, number: int) -> set[int]:
        """The nodes that lead to one."""
        found: set[int] = set()
        for edge in self.nodes[number].edges:
            found |= {edge.source} | self.before(edge.source)
        return found


def _more(draw: st.DrawFn, what: str, sources: list[int]) -> Any:
    """What there is to say of a kind of node."""
    good = st.booleans()
    if what == "each":
        items = draw(st.lists(good, max_size=4))
        quorum = draw(st.one_of(st.none(), st.integers(1, 3)))
        # Side by side it is chance whether a failure or the quorum comes first.
        policies = ("continue",) if quorum else ("continue", "wait_all", "fail_fast")
        return {"items": items, "quorum": quorum, "policy": draw(st.sampled_from(policies))}
    if what == "failover":
        return draw(st.lists(good, min_size=2, max_size=3))
    if what == "loop":
        return {"until": draw(st.integers(1, 4)), "most": draw(st.integers(1, 3))}
    if what == "router":
        return draw(st.lists(good, min_size=1, max_size=3))
    if what == "find":
        return draw(st.sampled_from(sources)) if sources else -1
    return None


ON_ERROR = ("fail", "fail", "continue", "fallback", "bad_fallback")
KINDS = ("value", "value", "before", "fail", "each", "failover", "loop", "router", "keep", "find")


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 8))):
        sources = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=4)) if number else []
        edges = tuple(_edge(draw, each, nodes[each]) for each in sources)
        what = draw(st.sampled_from(KINDS))
        mode = draw(st.sampled_from(("", "all", "any", "quorum"))) if len(edges) > 1 else ""
        if what == "find":
            # What it looks for has come to its end, or never will.
            mode = "all" if mode else ""
        nodes.append(
            Node(
                what,
                _more(draw, what, sources),
                condition=draw(st.integers(0, 5)) > 0,
                on_error=draw(st.sampled_from(ON_ERROR)),
                edges=edges,
                mode=mode,
                quorum=draw(st.integers(1, len(edges))) if mode == "quorum" else 0,
                cancel_rest=mode in ("any", "quorum") and draw(st.booleans()),
                merge=draw(st.sampled_from(("first", "list", "object"))) if len(edges) > 1 else "first",
                sets=_sets(draw),
            )
        )
    for number, node in enumerate(list(nodes)):
        if node.what == "router":
            # A router must lead somewhere by its default.
            nodes.append(SINK._replace(edges=(Edge(number, "success", when=True, route="rest"),)))
    policies = st.sampled_from(("continue", "continue", "wait_all", "fail_fast"))
    conflicts = st.sampled_from(("error", "last", "merge"))
    return Graph(tuple(nodes), draw(policies), draw(conflicts), draw(st.sampled_from((1, 3))))


SINK = Node("value", None, True, "fail", (), "", 0, False, "first", ())


def _edge(draw: st.DrawFn, source: int, node: Node) -> Edge:
    when = draw(st.integers(0, 3)) > 0
    if node.what == "router":
        names = ["rest", *(f"r{number}" for number in range(len(node.more)))]
        return Edge(source, "success", when, draw(st.sampled_from(names)))
    after = ("failure", "always") if node.what == "fail" else ("success", "failure", "always")
    return Edge(source, draw(st.sampled_from(after)), when)


def _sets(draw: st.DrawFn) -> tuple[tuple[str, Any], ...]:
    values = st.sampled_from(([1], [2], {"x": [1]}, {"y": 1}, 7, 8))
    return tuple((name, draw(values)) for name in draw(st.sampled_from(("", "", "a", "b", "ab"))))


# What is foretold.


class Foretold:
    """How each node ends, in the order of the nodes: none leads back."""

    def __init__(self, graph: Graph, asked: str, conflicts: Counter[int]) -> None:
        """`conflicts`: how often nodes fail by what others have set, as who comes later is chance."""
        self._graph = graph
        self._asked = asked
        self._conflicts = conflicts
        self.ends: list[str] = []
        self.outputs: list[Any] = []
        """None where there is none, `...` where chance decides."""
        self.routes: dict[int, str] = {}
        self.handled: set[int] = set()
        """Nodes that fail and do not fail the graph."""
        self.not_needed: set[int] = set()
        """Nodes that may be left out because a join begins without them."""
        self.kept: set[int] = set()
        """Nodes that have kept a text."""
        for number, node in enumerate(graph.nodes):
            self._foretell(number, node)
        self._look_at_joins()

    def is_taken(self, edge: Edge) -> bool:
        """Whether the way is gone."""
        end = self.ends[edge.source]
        if edge.after == "always":
            fits = end != "skipped"
        else:
            fits = end == ("completed" if edge.after == "success" else "failed")
        return fits and edge.when and (not edge.route or self.routes.get(edge.source) == edge.route)

    def _foretell(self, number: int, node: Node) -> None:
        taken = [edge for edge in node.edges if self.is_taken(edge)]
        end, output, conflicts = "skipped", None, self._conflicts[number]
        if node.edges and len(taken) < node.needed:
            end = "failed" if taken and node.mode else "skipped"
        elif node.condition:
            end, output = self._does(number, node, taken)
        if end == "completed" and conflicts:
            end, output, conflicts = "failed", None, conflicts - 1
        if end == "failed" and node.on_error == "fallback":
            # It sets the same; a bad fallback fails by itself.
            end, output = ("failed", None) if conflicts else ("completed", IN_PLACE)
        if end == "failed" and (node.on_error == "continue" or self._is_handled(number)):
            self.handled.add(number)
        self.ends.append(end)
        self.outputs.append(output)

    def _is_handled(self, number: int) -> bool:
        if self._graph.on_failure == "continue":
            return True
        edges = (edge for node in self._graph.nodes for edge in node.edges if edge.source == number)
        return any(edge.after in ("failure", "always") for edge in edges)

    def _does(self, number: int, node: Node, taken: list[Edge]) -> tuple[str, Any]:
        more = node.more
        end: str = "completed"
        output: Any = number
        match node.what:
            case "before":
                output = self._before(node, taken)
            case "each":
                end, output = _each(more)
            case "failover":
                end, output = ("completed", f"good {more.index(True)}") if any(more) else ("failed", None)
            case "loop":
                done = more["until"] <= more["most"]
                end, output = ("completed", "x" * more["until"]) if done else ("failed", None)
            case "router":
                output = self.routes[number] = f"r{more.index(True)}" if any(more) else "rest"
            case "keep":
                self.kept.add(number)
                output = ...
            case "find":
                output = str(int(more in self.kept))
            case "fail":
                end, output = "failed", None
        return end, output

    def _before(self, node: Node, taken: list[Edge]) -> Any:
        given = [self.outputs[edge.source] for edge in taken]
        if node.mode in ("any", "quorum") or ... in given:
            return ...  # who has come by then is chance
        if node.merge == "list":
            asked: Any = given
        elif node.merge == "object":
            asked = {f"n{edge.source}": output for edge, output in zip(taken, given, strict=True)}
        else:
            asked = given[0] if taken else self._asked
        return asked if isinstance(asked, str) else json.dumps(asked) if asked is not None else ""

    def _look_at_joins(self) -> None:
        for number, node in enumerate(self._graph.nodes):
            if node.cancel_rest:
                self.not_needed |= self._only_before(number)

    def _only_before(self, number: int) -> set[int]:
        left = Counter(edge.source for node in self._graph.nodes for edge in node.edges)
        found: set[int] = set()
        waiting = [number]
        while waiting:
            for edge in self._graph.nodes[waiting.pop()].edges:
                left[edge.source] -= 1
                if not left[edge.source]:
                    found.add(edge.source)
                    waiting.append(edge.source)
        return found


def _each(more: dict[str, Any]) -> tuple[str, Any]:
    items, quorum = more["items"], more["quorum"]
    if quorum is not None:
        return ("completed", ...) if sum(items) >= quorum else ("failed", None)
    if not all(items) and more["policy"] != "continue":
        return "failed", None
    return "completed", [f"good {index}" if good else None for index, good in enumerate(items)]


def settled(old: Any, new: Any) -> Any:
    """Two values that were set side by side, merged; `...` where they cannot be."""
    if isinstance(old, list) and isinstance(new, list):
        return old + new
    if isinstance(old, dict) and isinstance(new, dict):
        both = {name: settled(old[name], value) if name in old else value for name, value in new.items()}
        return ... if ... in both.values() else old | both
    return old if old == new else ...
