"""Random graphs come to the end that a small model of their rules foretells, two runs of each at once."""

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format
from hypothesis import given, settings

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import ComponentInvalidError
from retinue.registry.v1 import component_pb2, workflow_pb2
from tests.rpc.engine.graph_model import IN_PLACE, Foretold, Graph, Node, graphs, settled
from tests.suite import Suite, open_suite

GRAPHS = 40
MAYBE = "input.startsWith('good') ? input : state.nothing"
INNER = {
    "maybe": {"steps": [{"name": "maybe", "transform": {"expression": MAYBE}}]},
    "grow": {"steps": [{"name": "grow", "transform": {"template": "{{ input }}x"}}]},
    "echo": {"steps": [{"name": "echo", "transform": {"template": "{{ input }}"}}]},
}


TARGETS = {"value": "transform", "keep": "memory_write", "find": "memory_read"}
COUNT = f"result.text == '{IN_PLACE}' ? result.text : string(size(result.structured))"
"""The output of a node that looks for texts."""


def words(items: list[bool]) -> list[str]:
    """What is asked of `maybe`."""
    return [f"{'good' if good else 'bad'} {index}" for index, good in enumerate(items)]


def target(number: int, node: Node) -> dict[str, Any]:
    """What a node does, as the protos have it."""
    more, labels = node.more, {"run": "{{ run.id }}"}
    match node.what:
        case "each":
            made: dict[str, Any] = {"items": json.dumps(words(more["items"])), "linear_workflow": "maybe"}
            made["on_failure"] = f"BRANCH_FAILURE_POLICY_{more['policy'].upper()}"
            made |= {"quorum": more["quorum"]} if more["quorum"] else {}
        case "failover":
            made = {"choices": [{"linear_workflow": "maybe", "input": each} for each in words(more)]}
        case "loop":
            made = {"until": f"loop.round == {more['until']}", "max_rounds": more["most"]}
            made |= {"linear_workflow": "grow", "input": "{{ loop.last or '' }}"}
        case "router":
            routes = [{"name": f"r{index}", "when": str(fits).lower()} for index, fits in enumerate(more)]
            made = {"routes": routes, "default": "rest"}
        case "keep":
            made = {"text": "kept", "labels": labels | {"node": f"n{number}"}}
        case "find":
            made = {"labels": labels | {"node": f"n{more}"}}
        case "fail":
            made = {"message": "no"}
        case _:
            made = {"expression": str(number)}
    return {TARGETS.get(node.what, node.what): made}


def step_of(number: int, node: Node) -> dict[str, Any]:
    """A node, as the protos have it."""
    step: dict[str, Any] = {"name": f"n{number}", "condition": str(node.condition).lower()}
    step |= {"linear_workflow": "echo"} if node.what == "before" else target(number, node)
    step |= {"output": COUNT} if node.what == "find" else {}
    step["on_error"] = f"STEP_ERROR_POLICY_{node.on_error.removeprefix('bad_').upper()}"
    if "fallback" in node.on_error:
        given = IN_PLACE if node.on_error == "fallback" else "bad"
        step["fallback"] = {"linear_workflow": "maybe", "input": given}
    step["set"] = {name: json.dumps(value) for name, value in node.sets}
    if len(node.edges) > 1:
        join = step["join"] = {"merge": f"JOIN_MERGE_{node.merge.upper()}", "cancel_rest": node.cancel_rest}
        join |= {"mode": f"JOIN_MODE_{node.mode.upper()}"} if node.mode else {}
        join |= {"quorum": node.quorum} if node.quorum else {}
    return step


def component(graph: Graph) -> component_pb2.Component:
    """The graph as a component."""
    edges = [
        {
            "source": f"n{edge.source}",
            "target": f"n{number}",
            "when": str(edge.when).lower(),
            "after": f"EDGE_CONDITION_{edge.after.upper()}",
            "route": edge.route,
        }
        for number, node in enumerate(graph.nodes)
        for edge in node.edges
    ]
    spec = {
        "nodes": [step_of(number, node) for number, node in enumerate(graph.nodes)],
        "edges": edges,
        "on_failure": f"BRANCH_FAILURE_POLICY_{graph.on_failure.upper()}",
        "on_conflict": f"STATE_CONFLICT_POLICY_{graph.on_conflict.upper()}",
        "concurrency": graph.concurrency,
    }
    made = component_pb2.Component(name="random", kind=component_pb2.COMPONENT_KIND_GRAPH_WORKFLOW)
    json_format.ParseDict({"graph_workflow": spec}, made)
    return made


class Seen:
    """What a run's story says of its nodes."""

    def __init__(self, story: list[event_pb2.RunEvent], graph: Graph) -> None:
        self.ends: dict[int, str] = {}
        """By node, in the order in which they came."""
        self.outputs: dict[int, Any] = {}
        self.begun: set[int] = set()
        self.conflicts: Counter[int] = Counter()
        self.branches: Counter[tuple[str, int, int]] = Counter()
        self._graph = graph
        self._state: dict[str, Any] = {}
        self._writers: dict[str, set[int]] = {}
        root = story[0].run_id
        for event in story:
            if event.run_id == root:
                self._take(event)

    def _take(self, event: event_pb2.RunEvent) -> None:
        which = event.WhichOneof("event") or ""
        kind, _, what = which.partition("_")
        if kind == "step":
            self._take_step(what, getattr(event, which))
        elif kind == "branch" and (branch := getattr(event, which)).branch.startswith("n"):
            self.branches[what, int(branch.step[1:]), int(branch.branch[1:])] += 1

    def _take_step(self, what: str, said: Any) -> None:
        number = int(said.step[1:])
        if what == "started":
            self.begun.add(number)
        elif what == "completed":
            self.outputs[number] = json.loads(said.output_json)
            self._take_changes(number, json.loads(said.state_json or "{}"))
        elif what == "failed":
            if said.error.reason == pb.ERROR_REASON_STATE_CONFLICT:
                self.conflicts[number] += 1
                assert ... in self._settled(number).values(), "there was no conflict"
            if said.policy == workflow_pb2.STEP_ERROR_POLICY_FALLBACK:
                return
        if what in ("completed", "failed", "skipped"):
            assert number not in self.ends, f"{number} ended twice"
            self.ends[number] = what

    def _take_changes(self, number: int, changes: dict[str, Any]) -> None:
        assert changes == self._settled(number)
        self._state |= changes
        for key in changes:
            self._writers.setdefault(key, set()).add(number)

    def _settled(self, number: int) -> dict[str, Any]:
        """What a node sets by the graph's rule; `...` where that is a conflict."""
        graph, changes = self._graph, dict(self._graph.nodes[number].sets)
        before = {number, *graph.before(number)}
        for key, value in changes.items():
            if graph.on_conflict != "last" and self._writers.get(key, set()) - before:
                changes[key] = settled(self._state[key], value) if graph.on_conflict == "merge" else ...
        return changes


def check(story: list[event_pb2.RunEvent], graph: Graph, asked: str) -> None:
    """Hold a run against what is foretold."""
    seen = Seen(story, graph)
    foretold = Foretold(graph, asked, seen.conflicts)
    result = story[-1].run_finished.result
    for number, end in seen.ends.items():
        left_out = end == "skipped" and number in foretold.not_needed
        assert left_out or end == foretold.ends[number], f"n{number}"
        output = foretold.outputs[number]
        if end == "completed" and output is not ...:
            assert seen.outputs[number] == output, f"n{number}"
    fatal = {number for number, end in seen.ends.items() if end == "failed"} - foretold.handled
    if fatal:
        assert result.state == run_pb2.RUN_STATE_FAILED
        # What was at work was let go on to its end, or given up, as the graph says.
        given_up = {branch[2] for branch in seen.branches if branch[0] == "abandoned"}
        left = seen.begun - seen.ends.keys()
        assert left <= (given_up if graph.on_failure == "fail_fast" else set())
        return
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
    assert seen.ends.keys() == set(range(len(graph.nodes)))
    check_ways(seen, foretold, graph)


def check_ways(seen: Seen, foretold: Foretold, graph: Graph) -> None:
    """Of a run that has come to its end: which branches were told, and what it gave."""
    if foretold.not_needed:
        return
    taken = {
        (edge.source, number)
        for number, node in enumerate(graph.nodes)
        for edge in node.edges
        if foretold.is_taken(edge)
    }
    forks = Counter(source for source, _ in taken)
    opened = {(source, number) for source, number in taken if forks[source] > 1}
    assert Counter({("opened", *way): 1 for way in opened}) == Counter(
        {branch: count for branch, count in seen.branches.items() if branch[0] == "opened"}
    )
    for number, node in enumerate(graph.nodes):
        joined = {branch[2] for branch in seen.branches if branch[:2] == ("joined", number)}
        ways = {source for source, at in taken if at == number}
        met = number in seen.begun or (seen.ends[number] == "skipped" and ways and not node.condition)
        if len(node.edges) > 1 and node.mode in ("", "all") and met and len(ways) >= node.needed:
            assert joined == ways
        assert joined <= ways


def check_refused(graph: Graph, error: ComponentInvalidError) -> None:
    """What the registry says that it never begins does not begin."""
    foretold = Foretold(graph, "one", Counter())
    for violation in error.violations:
        assert "can never be met" in violation.description, violation
        number = int(violation.field.split("nodes[")[1].split("]")[0])
        taken = sum(map(foretold.is_taken, graph.nodes[number].edges))
        assert taken < graph.nodes[number].needed


@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_two_runs_of_a_random_graph_come_to_the_end_that_the_model_foretells(tmp_path: Path) -> None:
    # The services in this process use `random` while Hypothesis draws in its own thread.
    async with open_suite(tmp_path, linear_workflows=INNER) as suite:
        loop = asyncio.get_running_loop()

        @settings(max_examples=GRAPHS, deadline=None)
        @given(graphs())
        def holds(graph: Graph) -> None:
            # Hypothesis calls from a thread of its own; the services live on this loop.
            asyncio.run_coroutine_threadsafe(both(suite, graph), loop).result(30)

        await asyncio.to_thread(holds)


async def both(suite: Suite, graph: Graph) -> None:
    try:
        await suite.client.components.apply([component(graph)])
    except ComponentInvalidError as error:
        check_refused(graph, error)
        return
    asked = ("one", "two")
    stories = await asyncio.gather(*(suite.story("random", each) for each in asked))
    for story, each in zip(stories, asked, strict=True):
        check(story, graph, each)
