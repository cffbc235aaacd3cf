"""Which way a graph goes on: pure functions of what is done to which nodes may begin."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from retinue.errors import JoinNotMetError
from retinue_engine.workflow.definition import EdgeDefinition, StepDefinition, WorkflowDefinition
from retinue_engine.workflow.progress import Progress
from retinue_engine.workflow.values import truth

Verdict = Literal["wait", "begin", "skip"]


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph with its edges by where they begin and where they lead."""

    definition: WorkflowDefinition
    incoming: Mapping[str, Sequence[EdgeDefinition]]
    outgoing: Mapping[str, Sequence[EdgeDefinition]]

    @classmethod
    def of(cls, definition: WorkflowDefinition) -> "Graph":
        """The graph of a definition."""
        incoming: dict[str, list[EdgeDefinition]] = {step.name: [] for step in definition.steps}
        outgoing: dict[str, list[EdgeDefinition]] = {step.name: [] for step in definition.steps}
        for edge in definition.edges or ():
            incoming[edge.target].append(edge)
            outgoing[edge.source].append(edge)
        return cls(definition, incoming, outgoing)

    def only_before(self, name: str) -> set[str]:
        """The nodes that lead nowhere but to this one."""
        found: set[str] = set()
        waiting = [edge.source for edge in self.incoming[name]]
        while waiting:
            each = waiting.pop()
            if each in found:
                continue
            if all(edge.target == name or edge.target in found for edge in self.outgoing[each]):
                found.add(each)
                waiting += [edge.source for edge in self.incoming[each]]
        return found


def is_taken(edge: EdgeDefinition, progress: Progress, values: Mapping[str, Any]) -> bool:
    """Whether an edge is taken whose source is done. Raises ExpressionFailedError."""
    source = progress.steps[edge.source]
    if source.state == "skipped":
        return False
    if edge.after != "always" and (source.state == "failed") != (edge.after == "failure"):
        return False
    if edge.route and source.route != edge.route:
        return False
    return not edge.when or truth(edge.when, values, edge.target, "when")


def taken_edges(
    edges: Sequence[EdgeDefinition], progress: Progress, values: Mapping[str, Any]
) -> Iterator[EdgeDefinition]:
    """Yield the edges that are taken, of those that are decided."""
    for edge in edges:
        source = progress.steps.get(edge.source)
        if source is not None and source.done and is_taken(edge, progress, values):
            yield edge


def verdict(step: StepDefinition, graph: Graph, progress: Progress, values: Mapping[str, Any]) -> Verdict:
    """Whether a node that has not begun may begin now. Raises JoinNotMetError, ExpressionFailedError."""
    edges = graph.incoming[step.name]
    if not edges:
        return "begin"
    decided = sum((source := progress.steps.get(edge.source)) is not None and source.done for edge in edges)
    taken = len(list(taken_edges(edges, progress, values)))
    clear = decided == len(edges)
    needed = {"clear": 1, "any": 1, "all": len(edges), "quorum": step.join.quorum}[step.join.mode]
    if taken >= needed and (clear or step.join.mode != "clear"):
        return "begin"
    if not clear:
        return "wait"
    if taken and step.join.mode != "clear":
        raise JoinNotMetError(
            f"the node {step.name} joins {len(edges)} edges and needs {needed}, and {taken} were taken",
            step=step.name,
            taken=taken,
            needed=needed,
        )
    return "skip"
