"""Which nodes of a graph can begin at all, and how many edges to a join can be taken together.

A node ends in one way: it succeeds, it fails, or a router takes one of its routes. Edges that need different
ends of one node are never both taken, and nor are those of what only comes after them.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from retinue_registry.models.fields import Broken

MAX_DECIDING = 64
"""Nodes whose ends are followed through a graph: more would cost much, and be missed by few."""

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
        self._deciding = _deciding(ways)
        self._begun: dict[str, Ends | None] = {}
        """What nodes need to begin; None: they never do."""
        self._ended: dict[str, Ends] = {}
        """What they need to end: a join that is not met fails, too."""
        self._why: dict[str, Broken] = {}
        """Of those that never begin, where they are not only behind such a one."""
        for name in order:
            self._look_at(name)

    def broken(self, place: tuple[str | int, ...], name: str) -> Iterator[Broken]:
        """Yield why a node never begins; nothing where it is only behind such a one."""
        if why := self._why.get(name):
            yield Broken((*place, *why.place), why.message)

    def _look_at(self, name: str) -> None:
        ways, wanted = self._ways[name], self._wanted(name)
        possible = [needs for way in ways if (needs := self._needs_of_way(way)) is not None]
        self._ended[name] = _in_common(possible)
        most, rival = _most_together(possible)
        # A quorum of more edges than there are is told of by itself.
        if not ways or wanted > len(ways):
            self._begun[name] = {}
        elif most >= wanted:
            self._begun[name] = _of_all(possible) if wanted == len(ways) else self._ended[name]
        else:
            self._begun[name] = None
            if all(self._begun[way.source] is not None for way in ways):
                self._why[name] = self._explain(name, wanted, most, rival)

    def _explain(self, name: str, wanted: int, most: int, rival: str) -> Broken:
        if not most:
            sources = ", ".join(sorted({way.source for way in self._ways[name]}))
            return Broken((), f"can never be reached: {sources} fails, and what leads here wants a success")
        why = f", as {rival} ends in one way only" if rival else ""
        return Broken(
            ("join",),
            f"can never be met: it needs {wanted} edges, and at most {most} of them are taken{why}",
        )

    def _wanted(self, name: str) -> int:
        """How many edges a node needs."""
        join = self._nodes[name].get("join")
        if not isinstance(join, dict) or join.get("mode") not in ("all", "quorum"):
            return 1
        wanted = join.get("quorum") if join["mode"] == "quorum" else len(self._ways[name])
        return wanted if isinstance(wanted, int) else 1

    def _needs_of_way(self, way: Way) -> Ends | None:
        """What is needed for an edge to be taken; None where it never is."""
        begun, node = self._begun[way.source], self._nodes[way.source]
        always_fails = "fail" in node and node.get("on_error") != "fallback"
        if begun is None or (always_fails and way.end == "success"):
            return None
        needs = self._ended[way.source] if way.end in ("", "failure") or "fallback" in node else begun
        return {**needs, way.source: way.end} if way.end and way.source in self._deciding else needs


def _deciding(ways: Mapping[str, list[Way]]) -> set[str]:
    """The nodes by whose ends edges part."""
    ends: dict[str, set[str]] = {}
    for way in (way for several in ways.values() for way in several if way.end):
        ends.setdefault(way.source, set()).add(way.end)
    return set([name for name, several in ends.items() if len(several) > 1][:MAX_DECIDING])


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
