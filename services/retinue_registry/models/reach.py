"""Which nodes of a graph can begin at all, and how many edges to a join can be taken together.

A node ends in one way: it succeeds, it fails, or a router takes one of its routes. Edges that need different
ends of one node are never both taken, and nor are those of what only comes after them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from retinue_registry.models.fields import Broken

Ends = Mapping[str, str]
"""Nodes with how they have to end."""


class Way(NamedTuple):
    """An edge, as far as it counts here."""

    source: str
    end: str
    """How its source has to end; empty: in any way."""


def way_of(edge: Mapping[str, Any]) -> Way:
    """What an edge needs of its source."""
    after, route = edge.get("after") or "success", edge.get("route")
    end = f"by the route {route}" if route and after != "failure" else "" if after == "always" else after
    return Way(str(edge.get("source")), end)


class Reach:
    """What has to happen before each node of a graph without circles."""

    def __init__(
        self, order: Iterable[str], nodes: Mapping[str, Mapping[str, Any]], ways: Mapping[str, list[Way]]
    ) -> None:
        """`order` has each node after all that lead to it."""
        self._nodes = nodes
        self._ways = ways
        self._needs: dict[str, Ends | None] = {}
        """None: it never begins."""
        for name in order:
            self._needs[name] = self._needs_of(name)

    def broken(self, place: tuple[str | int, ...], name: str) -> Iterator[Broken]:
        """Yield why a node never begins; nothing where it is only behind such a one."""
        ways = self._ways[name]
        if self._needs[name] is not None or any(self._needs[way.source] is None for way in ways):
            return
        possible = self._possible(name)
        if not possible:
            sources = ", ".join(sorted({way.source for way in ways}))
            yield Broken(place, f"can never be reached: {sources} fails, and what leads here wants a success")
            return
        most, rival = _most_together(possible)
        why = f", as {rival} ends in one way only" if rival else ""
        yield Broken(
            (*place, "join"),
            f"can never be met: it needs {self._wanted(name)} edges, and at most {most} of them are taken"
            f"{why}",
        )

    def _wanted(self, name: str) -> int:
        """How many edges a node needs."""
        join = self._nodes[name].get("join")
        if not isinstance(join, dict) or join.get("mode") not in ("all", "quorum"):
            return 1
        wanted = join.get("quorum") if join["mode"] == "quorum" else len(self._ways[name])
        return wanted if isinstance(wanted, int) else 1

    def _needs_of(self, name: str) -> Ends | None:
        ways = self._ways[name]
        if not ways:
            return {}
        wanted, possible = self._wanted(name), self._possible(name)
        if wanted > len(ways):
            return {}  # that is told of by itself
        if _most_together(possible)[0] < wanted:
            return None
        return _of_all(possible) if wanted == len(ways) else _in_common(possible)

    def _possible(self, name: str) -> list[Ends]:
        """What each edge to a node needs that may be taken."""
        return [needs for way in self._ways[name] if (needs := self._needs_of_way(way)) is not None]

    def _needs_of_way(self, way: Way) -> Ends | None:
        before, node = self._needs[way.source], self._nodes[way.source]
        always_fails = "fail" in node and node.get("on_error") != "fallback"
        if before is None or (always_fails and way.end == "success"):
            return None
        if way.end in ("", "failure") or "fallback" in node:
            # A join that is not met fails, too.
            before = _in_common(self._possible(way.source))
        return {**before, way.source: way.end} if way.end else before


def _of_all(needs: list[Ends]) -> Ends:
    return {node: end for each in needs for node, end in each.items()}


def _in_common(needs: list[Ends]) -> Ends:
    first = needs[0] if needs else {}
    return {node: end for node, end in first.items() if all(each.get(node) == end for each in needs)}


def _most_together(needs: list[Ends]) -> tuple[int, str]:
    """How many of some edges are taken at most, and the node by whose end it is so."""
    most, rival = len(needs), ""
    for node in sorted({node for each in needs for node in each}):
        ends = Counter(each[node] for each in needs if node in each)
        count = len(needs) - ends.total() + max(ends.values())
        if count < most:
            most, rival = count, node
    return most, rival
