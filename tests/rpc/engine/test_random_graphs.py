"""Random graphs come to the end that a small model of their rules foretells."""

import asyncio
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinue.client import Client
from retinue.engine.v1 import run_pb2
from retinue.registry.v1 import component_pb2, workflow_pb2
from tests.suite import open_suite

GRAPHS = 60
AFTER = {
    "success": workflow_pb2.EDGE_CONDITION_SUCCESS,
    "failure": workflow_pb2.EDGE_CONDITION_FAILURE,
    "always": workflow_pb2.EDGE_CONDITION_ALWAYS,
}
MODES = {
    "clear": workflow_pb2.JOIN_MODE_UNSPECIFIED,
    "all": workflow_pb2.JOIN_MODE_ALL,
    "any": workflow_pb2.JOIN_MODE_ANY,
    "quorum": workflow_pb2.JOIN_MODE_QUORUM,
}


class Node(NamedTuple):
    """What a node does, and how it is reached."""

    ok: bool
    condition: bool
    edges: tuple[tuple[int, str, bool], ...]
    """From which node, after what, and whether its expression is true."""
    mode: str
    quorum: int


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Node, ...]:
    nodes: list[Node] = []
    for number in range(draw(st.integers(1, 8))):
        sources = draw(st.lists(st.integers(0, number - 1), unique=True, max_size=4)) if number else []
        edges = tuple((each, draw(st.sampled_from(sorted(AFTER))), draw(st.booleans())) for each in sources)
        mode = draw(st.sampled_from(sorted(MODES))) if len(edges) > 1 else "clear"
        quorum = draw(st.integers(1, len(edges))) if mode == "quorum" else 0
        nodes.append(Node(draw(st.booleans()), draw(st.integers(0, 4)) > 0, edges, mode, quorum))
    return tuple(nodes)


def foretold(graph: tuple[Node, ...]) -> dict[str, str]:
    """How each node ends, node by node: none leads back."""
    ends: list[str] = []
    for node in graph:
        taken = sum(
            when and (ends[source] == "completed" if after == "success" else ends[source] == "failed")
            if after != "always"
            else when and ends[source] != "skipped"
            for source, after, when in node.edges
        )
        needed = {"clear": 1, "any": 1, "all": len(node.edges), "quorum": node.quorum}[node.mode]
        if node.edges and taken < needed:
            ends.append("failed" if taken and node.mode != "clear" else "skipped")
        elif not node.condition:
            ends.append("skipped")
        else:
            ends.append("completed" if node.ok else "failed")
    return {f"n{number}": end for number, end in enumerate(ends)}


def component(graph: tuple[Node, ...]) -> component_pb2.Component:
    spec = workflow_pb2.GraphWorkflowSpec(
        on_failure=workflow_pb2.BRANCH_FAILURE_POLICY_CONTINUE, concurrency=3
    )
    for number, node in enumerate(graph):
        step = spec.nodes.add(name=f"n{number}", condition=str(node.condition).lower())
        if node.ok:
            step.transform.expression = str(number)
        else:
            step.fail.message = "no"
        if node.mode != "clear":
            step.join.mode = MODES[node.mode]
        if node.quorum:
            step.join.quorum = node.quorum
        for source, after, when in node.edges:
            spec.edges.add(
                source=f"n{source}", target=f"n{number}", after=AFTER[after], when=str(when).lower()
            )
    return component_pb2.Component(name="random", graph_workflow=spec)


async def ended(client: Client, graph: tuple[Node, ...]) -> dict[str, str]:
    await client.components.apply([component(graph)])
    ends: dict[str, str] = {}
    async for event in client.runs.stream("random", "go"):
        which = event.WhichOneof("event") or ""
        if which in ("step_completed", "step_failed", "step_skipped"):
            step = getattr(event, which).step
            assert step not in ends, f"{step} ended twice"
            ends[step] = which.removeprefix("step_")
    assert event.run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED, event.run_finished.result.error
    return ends


# The services in this process use `random` while Hypothesis draws in its own thread.
@pytest.mark.filterwarnings("ignore:Do not use the `random` module inside strategies")
async def test_a_random_graph_comes_to_the_end_that_the_model_foretells(tmp_path: Any) -> None:
    async with open_suite(tmp_path) as suite:
        loop = asyncio.get_running_loop()

        @settings(max_examples=GRAPHS, deadline=None)
        @given(graphs())
        def check(graph: tuple[Node, ...]) -> None:
            # Hypothesis calls from a thread of its own; the services live on this loop.
            done = asyncio.run_coroutine_threadsafe(ended(suite.client, graph), loop)
            assert done.result(30) == foretold(graph)

        await asyncio.to_thread(check)
