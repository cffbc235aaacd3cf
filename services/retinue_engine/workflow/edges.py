"""Which way a graph goes on: what the ends of nodes decide for those that come after them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from retinue.errors import JoinNotMetError
from retinue_engine.workflow.definition import EdgeDefinition, StepDefinition, WorkflowDefinition

Verdict = Literal["wait", "begin", "skip"]


@dataclass(frozen=True)
class Graph:
    """A graph with its edges by where they begin and where they lead."""

    definition: WorkflowDefinition

    @cached_property
    def incoming(self) -> Mapping[str, Sequence[EdgeDefinition]]:
        """The edges that lead to each node."""
        found: dict[str, list[EdgeDefinition]] = {step.name: [] for step in self.definition.steps}
        for edge in self.definition.edges or ():
            found[edge.target].append(edge)
        return found

    @cached_property
    def outgoing(self) -> Mapping[str, Sequence[tuple[int, EdgeDefinition]]]:
        """The edges that lead from each node, each with its number among those that lead to its target."""
        found: dict[str, list[tuple[int, EdgeDefinition]]] = {step.name: [] for step in self.definition.steps}
        for edges in self.incoming.values():
            for number, edge in enumerate(edges):
                found[edge.source].append((number, edge))
        return found

    def only_before(self, name: str) -> Iterator[str]:
        """Yield the nodes that lead nowhere but to this one."""
        left = {each: len(edges) for each, edges in self.outgoing.items()}
        waiting = [name]
        while waiting:
            for edge in self.incoming[waiting.pop()]:
                left[edge.source] -= 1
                if not left[edge.source]:
                    yield edge.source
                    waiting.append(edge.source)

    def before(self, name: str) -> set[str]:
        """All nodes from which this one can be reached."""
        found: set[str] = set()
        waiting = [name]
        while waiting:
            for edge in self.incoming[waiting.pop()]:
                if edge.source not in found:
                    found.add(edge.source)
                    waiting.append(edge.source)
        return found


@dataclass(slots=True)
class Arrival:
    """What is decided so far of the edges that lead to a node."""

    edges: int
    """How many there are."""
    decided: int = 0
    taken: list[tuple[int, EdgeDefinition]] = field(default_factory=list)
    """Those that are taken, each with its number among the node's."""
    first_us: int = 0
    """When the first of them was."""

    def in_order(self) -> list[EdgeDefinition]:
        """Those that are taken, in the order in which the graph has them."""
        return [edge for _, edge in sorted(self.taken, key=lambda pair: pair[0])]

    def verdict(self, step: StepDefinition, *, late: bool = False) -> Verdict:
        """Whether the node may begin now; `late` where the time of its join is over.

        Raises JoinNotMetError.
        """
        join, taken = step.join, len(self.taken)
        if not self.edges:
            return "begin"
        clear = self.decided == self.edges
        needed = {"clear": 1, "any": 1, "all": self.edges, "quorum": join.quorum}[join.mode]
        if taken >= needed and (clear or join.mode != "clear"):
            return "begin"
        if not clear and not late:
            return "wait"
        if taken and (join.mode != "clear" or late):
            when = f" within {join.timeout_s:g} s" if late and join.timeout_s else ""
            wanted = self.edges if join.mode == "clear" else needed
            raise JoinNotMetError(
                f"the node {step.name} joins {self.edges} edges and needs {wanted}, and {taken} were taken"
                f"{when}",
                step=step.name,
                taken=taken,
                needed=wanted,
            )
        return "skip"
