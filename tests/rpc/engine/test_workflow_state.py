"""The state of a workflow: what steps set and see, and what becomes of what branches set side by side."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from tests.rpc.engine.test_graph_workflows import AGENTS, echo, opened_with, result_of
from tests.suite import Suite, open_processes, until

OpenSuite = Callable[..., Awaitable[Suite]]


def sets(name: str, **changes: str) -> dict[str, Any]:
    return {"name": name, "transform": {"expression": f"'{name}'"}, "set": changes}


async def test_steps_set_values_that_later_templates_and_expressions_see(opened: OpenSuite) -> None:
    nodes = [
        sets("a", seen="state.seen + [result.text]", twice="state.base * 2"),
        sets("b", seen="state.seen + [steps.a.output, 'b']"),
        echo("c", "{{ state.seen | join('+') }} {{ state.twice }}", condition="state.twice == 42"),
    ]
    suite = await opened_with(opened, nodes, "a>b b>c", {"state": {"seen": [], "base": 21}})
    assert result_of(await suite.story("flow")).output == "a+a+b 42"


@pytest.mark.parametrize(
    ("policy", "one", "other", "found"),
    [
        ("error", "1", "1", None),
        ("last", "1", "2", 2),
        ("merge", "[1]", "[2]", [1, 2]),
        ("merge", "{'x': [1], 'y': 1}", "{'x': [2], 'y': 1, 'z': 3}", {"x": [1, 2], "y": 1, "z": 3}),
        ("merge", "1", "2", None),
        ("merge", "1", "1", 1),
    ],
)
async def test_what_branches_set_side_by_side_goes_by_the_declared_rule(
    opened: OpenSuite, policy: str, one: str, other: str, found: object
) -> None:
    nodes = [sets("a", key=one), sets("b", key=other), echo("end", "x")]
    workflow = {"on_conflict": policy, "concurrency": 1, "output": "state.key"}
    suite = await opened_with(opened, nodes, "a>end b>end", workflow)
    result = result_of(await suite.story("flow"))
    if found is None:
        assert result.error.reason == pb.ERROR_REASON_STATE_CONFLICT
        assert result.error.metadata == {"step": "b", "key": "key", "other": "a"}
    else:
        assert json.loads(result.output) == found


async def test_what_comes_after_a_node_may_set_what_it_has_set(opened: OpenSuite) -> None:
    nodes = [sets("a", key="1"), sets("b", key="state.key + 1")]
    suite = await opened_with(opened, nodes, "a>b", {"output": "state.key"})
    assert result_of(await suite.story("flow")).output == "2"


async def test_a_state_that_grows_too_large_fails_its_step(opened: OpenSuite) -> None:
    big = {"name": "big", "transform": {"template": "{{ 'x' * 60000 }}"}, "set": {"a": "result.text"}}
    more = {**big, "name": "more", "set": {"b": "[state.a, state.a, state.a, state.a]"}}
    suite = await opened_with(opened, [big, more], "big>more")
    result = result_of(await suite.story("flow"))
    assert result.error.reason == pb.ERROR_REASON_PAYLOAD_TOO_LARGE
    assert "the state has" in result.error.message


async def test_runs_of_one_workflow_have_a_state_each_and_a_retry_keeps_it(opened: OpenSuite) -> None:
    bad = {"name": "bad", "transform": {"expression": "state.seen.nothing"}}
    suite = await opened_with(
        opened, [sets("a", seen="state.seen + [input]"), bad], "a>bad", {"state": {"seen": []}}
    )
    first = await suite.story("flow", "one")
    second = await suite.story("flow", "two")
    assert "two" in result_of(second).error.message
    assert "one" not in result_of(second).error.message
    retried = await suite.client.runs.retry(first[0].run_id)
    assert '["one"]' in result_of(await suite.watched(retried.run_id)).error.message


async def test_the_session_of_the_tree_and_the_run_are_seen_in_nested_workflows_too(
    opened: OpenSuite,
) -> None:
    seen = {"expression": "[session.id, run.workflow, string(run.depth)]"}
    inner = {"steps": [{"name": "see", "transform": seen}]}
    suite = await opened_with(
        opened,
        [{"name": "nested", "linear_workflow": "inner"}],
        workflow={"output": "steps.nested.output + [session.id, run.workflow]"},
        linear_workflows={"inner": inner},
    )
    result = result_of(await suite.story("flow", session_id="talk"))
    assert json.loads(result.output) == ["talk", "inner", "1", "talk", "flow"]


async def test_an_edge_sees_the_state_as_it_was_when_its_source_ended_after_a_kill_too(
    tmp_path: Path,
) -> None:
    hangs = {"when": {"system_contains": "the slow"}, "times": 1, "hang": True}
    nodes = [
        sets("plan", seen="[1]"),
        sets("more", seen="state.seen + [2]"),
        {"name": "late", "agent": "slow"},
        echo("end", "{{ state.seen | length }}", join={"mode": "all"}),
    ]
    edges = [
        {"source": "plan", "target": "end", "when": "size(state.seen) == 1"},
        {"source": "plan", "target": "more"},
        {"source": "more", "target": "late"},
        {"source": "late", "target": "end"},
    ]
    async with open_processes(
        tmp_path,
        {"rules": [hangs], "default": {"text": "{last_user}"}},
        agents=AGENTS,
        graph_workflows={"flow": {"nodes": nodes, "edges": edges}},
    ) as suite:
        run = await suite.client.runs.start("flow", "hi")
        await until(lambda: suite.model.requests, "the slow one is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        assert result_of(await suite.watched(run.run_id)).output == "2"
