"""Graph workflows: nodes side by side, each when the edges that lead to it say so."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.registry.v1 import component_pb2
from tests.suite import Suite, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

AGENTS = {
    name: {"system_prompt": f"You are the {name}."}
    for name in ("echo", "slow", "broken", "chooser", "counter")
}
RULES: list[dict[str, Any]] = [
    {"when": {"system_contains": "the slow"}, "hang": True},
    {"when": {"system_contains": "the broken"}, "error": {"status": 400, "message": "no"}},
    {"when": {"system_contains": "the chooser", "user_contains": "maybe"}, "text": "who knows"},
    {"when": {"system_contains": "the chooser"}, "text": "`big`."},
    {"when": {"system_contains": "the counter", "user_contains": "aaa"}, "text": "{last_user}!"},
    {"when": {"system_contains": "the counter"}, "text": "{last_user}a"},
]


async def opened_with(
    opened: OpenSuite, nodes: list[Any], edges: str = "", workflow: dict[str, Any] | None = None, **more: Any
) -> Suite:
    """A graph `flow`; its edges are written `a>b a>c`."""
    ways = [dict(zip(("source", "target"), each.split(">"), strict=True)) for each in edges.split()]
    given = {"nodes": nodes, "edges": ways, **(workflow or {})}
    return await opened(
        {"rules": RULES, "default": {"text": "{last_user}"}},
        agents=AGENTS,
        graph_workflows={"flow": given},
        **more,
    )


def echo(name: str, text: str | None = None, **more: Any) -> dict[str, Any]:
    return {"name": name, "agent": "echo", **({"input": text} if text else {}), **more}


def states(events: list[event_pb2.RunEvent]) -> dict[str, str]:
    """How each node ended."""
    found = {}
    for event in events:
        which = event.WhichOneof("event") or ""
        if which in ("step_skipped", "step_completed", "step_failed"):
            found[getattr(event, which).step] = which.removeprefix("step_")
    return found


def outputs(events: list[event_pb2.RunEvent]) -> dict[str, Any]:
    return {
        event.step_completed.step: json.loads(event.step_completed.output_json)
        for event in events
        if event.HasField("step_completed")
    }


def result_of(events: list[event_pb2.RunEvent]) -> run_pb2.RunResult:
    return events[-1].run_finished.result


async def test_branches_run_side_by_side_and_come_together(opened: OpenSuite) -> None:
    nodes = [
        echo("plan"),
        echo("a", "A {{ steps.plan.output }}"),
        echo("b"),
        echo("end", "{{ steps.a.output }}+{{ steps.b.output }}"),
    ]
    suite = await opened_with(opened, nodes, "plan>a plan>b a>end b>end")
    events = await suite.story("flow", "go")
    assert outputs(events) == {"plan": "go", "a": "A go", "b": "go", "end": "A go+go"}
    assert result_of(events).output == "A go+go"
    order = [event.step_started.step for event in events if event.HasField("step_started")]
    assert (order[0], set(order[1:3]), order[3]) == ("plan", {"a", "b"}, "end")


async def test_an_edge_is_taken_where_its_expression_is_true_and_what_no_way_leads_to_is_left_out(
    opened: OpenSuite,
) -> None:
    edges = [
        {"source": "plan", "target": "yes", "when": "steps.plan.output == 'go'"},
        {"source": "plan", "target": "no", "when": "steps.plan.output != 'go'"},
        {"source": "no", "target": "after_no"},
        {"source": "yes", "target": "end"},
        {"source": "after_no", "target": "end"},
    ]
    names = ("plan", "yes", "no", "after_no", "end")
    suite = await opened_with(opened, [echo(name) for name in names], workflow={"edges": edges})
    events = await suite.story("flow", "go")
    ends = {
        "plan": "completed",
        "yes": "completed",
        "no": "skipped",
        "after_no": "skipped",
        "end": "completed",
    }
    assert states(events) == ends
    assert result_of(events).output == "go"


async def test_an_edge_whose_expression_fails_is_no_silent_false(opened: OpenSuite) -> None:
    edges = [{"source": "plan", "target": "end", "when": "steps.plan.output.score > 1"}]
    suite = await opened_with(opened, [echo("plan"), echo("end")], workflow={"edges": edges})
    events = await suite.story("flow", "go")
    error = result_of(events).error
    assert error.reason == pb.ERROR_REASON_EXPRESSION_FAILED
    assert (error.metadata["step"], error.metadata["field"]) == ("end", "when")
    assert error.metadata["expression"] == "steps.plan.output.score > 1"
    assert '"go"' in error.message
    assert states(events) == {"plan": "completed", "end": "failed"}


@pytest.mark.parametrize(("of", "met"), [(2, {"met 2"}), (3, {"met 1", "met 2"})])
async def test_as_many_branches_and_nodes_are_at_work_as_may_be(
    opened: OpenSuite, tmp_path: Path, of: int, met: set[str]
) -> None:
    # Those that may meet do at once; those that may not need not wait for long.
    meet = {"server": "tools", "tool": "meet", "arguments": {"of": of, "within_s": 5 if of == 2 else 0.2}}
    each = {"items": f"{list(range(of))}", "tool": meet, "concurrency": 2}
    graphs = {
        "branches": {"nodes": [{"name": "all", "each": each}]},
        "nodes": {"nodes": [{"name": f"n{number}", "tool": meet} for number in range(of)], "concurrency": 2},
    }
    suite = await opened(mcp_servers={"tools": stdio_server(tmp_path)}, graph_workflows=graphs)
    for name in graphs:
        assert {text for event in await suite.story(name) if (text := event.tool_call_completed.text)} <= met


async def test_what_comes_after_a_failure_lets_the_workflow_go_on(opened: OpenSuite) -> None:
    edges = [
        {"source": "try", "target": "good"},
        {"source": "try", "target": "bad", "after": "failure"},
        {"source": "try", "target": "both", "after": "always"},
    ]
    nodes = [
        {"name": "try", "agent": "broken"},
        echo("good"),
        echo("bad", "{{ steps.try.error }}"),
        echo("both", "x"),
    ]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    events = await suite.story("flow")
    ends = {"try": "failed", "good": "skipped", "bad": "completed", "both": "completed"}
    assert states(events) == ends
    assert result_of(events).state == run_pb2.RUN_STATE_SUCCEEDED
    assert "400" in outputs(events)["bad"]


@pytest.mark.parametrize("policy", ["fail_fast", "continue"])
async def test_a_node_whose_fallback_fails_too_has_failed_like_any_other(
    opened: OpenSuite, policy: str
) -> None:
    bad = {"name": "try", "agent": "broken", "on_error": "fallback", "fallback": {"agent": "broken"}}
    edges = [{"source": "try", "target": "after", "after": "failure"}] if policy == "fail_fast" else []
    nodes = [bad, echo("after", "{{ steps.try.error }}" if edges else "x")]
    suite = await opened_with(opened, nodes, workflow={"edges": edges, "on_failure": policy})
    events = await suite.story("flow")
    assert result_of(events).state == run_pb2.RUN_STATE_SUCCEEDED, result_of(events).error
    assert states(events) == {"try": "failed", "after": "completed"}


@pytest.mark.parametrize("policy", ["fail_fast", "wait_all", "continue"])
async def test_what_a_failure_does_to_the_other_nodes_is_the_graph_s_to_say(
    opened: OpenSuite, policy: str
) -> None:
    hangs = policy == "fail_fast"
    nodes = [{"name": "other", "agent": "slow" if hangs else "echo"}, {"name": "bad", "agent": "broken"}]
    suite = await opened_with(opened, [*nodes, echo("next")], "other>next", workflow={"on_failure": policy})
    events = await suite.story("flow")
    state = run_pb2.RUN_STATE_SUCCEEDED if policy == "continue" else run_pb2.RUN_STATE_FAILED
    assert result_of(events).state == state
    assert states(events)["bad"] == "failed"
    if hangs:
        assert result_of(events).error.reason == pb.ERROR_REASON_LLM_INVALID_REQUEST
        await until(lambda: len(suite.model.broken) == 1, "the other's request ends")
    else:
        assert states(events)["other"] == "completed"
        assert ("next" in states(events)) is (policy == "continue")


async def test_a_join_begins_with_the_first_that_comes_and_cancels_the_rest(opened: OpenSuite) -> None:
    join = {"mode": "any", "cancel_rest": True}
    nodes = [echo("quick"), {"name": "late", "agent": "slow"}, echo("end", "first", join=join)]
    suite = await opened_with(opened, nodes, "quick>end late>end")
    events = await suite.story("flow")
    assert states(events) == {"quick": "completed", "late": "skipped", "end": "completed"}
    child = next(
        each for each in events if each.HasField("child_run_finished") and each.path.startswith("step:late")
    )
    assert child.child_run_finished.result.state == run_pb2.RUN_STATE_CANCELLED
    await until(lambda: len(suite.model.broken) == 1, "its request ends")


async def test_a_join_that_is_not_met_fails_and_says_how_many_came(opened: OpenSuite) -> None:
    edges = [
        {"source": "a", "target": "end", "when": "true"},
        {"source": "b", "target": "end", "when": "false"},
        {"source": "c", "target": "end", "when": "false"},
    ]
    nodes = [echo("a"), echo("b"), echo("c"), echo("end", join={"mode": "quorum", "quorum": 2})]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    error = result_of(await suite.story("flow")).error
    assert error.reason == pb.ERROR_REASON_JOIN_NOT_MET
    assert (error.metadata["taken"], error.metadata["needed"]) == ("1", "2")


@pytest.mark.parametrize(("message", "route"), [("many", "big"), ("few", "small"), ("none", "rest")])
async def test_a_router_takes_the_first_route_whose_expression_is_true(
    opened: OpenSuite, message: str, route: str
) -> None:
    router = {
        "routes": [{"name": "big", "when": "input == 'many'"}, {"name": "small", "when": "input == 'few'"}],
        "default": "rest",
    }
    edges = [{"source": "way", "target": name, "route": name} for name in ("big", "small", "rest")]
    nodes = [{"name": "way", "router": router}, *(echo(name, name) for name in ("big", "small", "rest"))]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    events = await suite.story("flow", message)
    taken = next(event.route_taken for event in events if event.HasField("route_taken"))
    assert (taken.step, taken.route) == ("way", route)
    assert result_of(events).output == route
    assert [name for name, state in states(events).items() if state == "skipped"] == [
        name for name in ("big", "small", "rest") if name != route
    ]


async def test_an_agent_may_choose_the_route_in_one_call_and_must_name_one(opened: OpenSuite) -> None:
    routes = [{"name": "big", "description": "For much."}, {"name": "small"}]
    router = {"routes": routes, "default": "small", "agent": "chooser", "input": "How much is {{ input }}?"}
    edges = [{"source": "way", "target": name, "route": name} for name in ("big", "small")]
    nodes = [{"name": "way", "router": router}, echo("big", "B"), echo("small", "S")]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    assert result_of(await suite.story("flow", "it")).output == "B"
    question, choices = suite.model.requests[0]["messages"][-1]["content"].split("\n\n")
    assert question == "How much is it?"
    assert choices.splitlines()[1:] == ["- big: For much.", "- small: small"]
    error = result_of(await suite.story("flow", "maybe")).error
    assert error.reason == pb.ERROR_REASON_ROUTE_UNKNOWN
    assert "who knows" in error.message


async def test_each_item_of_a_list_has_a_branch_and_the_outputs_keep_its_order(opened: OpenSuite) -> None:
    each = {
        "items": "['x', 'y', {'z': 1}]",
        "agent": "echo",
        "input": "{{ index }}:{{ item }}",
        "concurrency": 2,
    }
    suite = await opened_with(opened, [{"name": "all", "each": each}])
    events = await suite.story("flow")
    assert outputs(events)["all"] == ["0:x", "1:y", '2:{"z": 1}']
    places = {event.path for event in events if event.HasField("child_run_started")}
    assert places == {f"step:all/try:1/item:{number}" for number in (1, 2, 3)}


@pytest.mark.parametrize("policy", ["fail_fast", "wait_all", "continue"])
async def test_what_a_failed_branch_does_to_the_others_is_the_step_s_to_say(
    opened: OpenSuite, policy: str
) -> None:
    inner = {
        "steps": [
            {"name": "s", "condition": "input != 'bad'", "agent": "echo"},
            {"name": "stop", "condition": "input == 'bad'", "fail": {"message": "it is {{ input }}"}},
        ]
    }
    each = {"items": "['a', 'bad', 'c']", "linear_workflow": "inner", "on_failure": policy, "concurrency": 1}
    suite = await opened_with(opened, [{"name": "all", "each": each}], linear_workflows={"inner": inner})
    events = await suite.story("flow")
    begun = sum(event.HasField("child_run_started") and "step:s" not in event.path for event in events)
    assert begun == (2 if policy == "fail_fast" else 3)
    if policy == "continue":
        assert outputs(events)["all"] == ["a", None, "c"]
    else:
        error = result_of(events).error
        assert error.reason == pb.ERROR_REASON_WORKFLOW_FAILED
        assert "it is bad" in error.message


async def test_a_quorum_of_branches_is_enough_and_the_others_are_cancelled(opened: OpenSuite) -> None:
    inner = {
        "steps": [
            {"name": "wait", "condition": "input == 'late'", "agent": "slow"},
            echo("say", "{{ input }}"),
        ]
    }
    each = {"items": "['a', 'late', 'c']", "linear_workflow": "inner", "quorum": 2}
    suite = await opened_with(opened, [{"name": "all", "each": each}], linear_workflows={"inner": inner})
    events = await suite.story("flow")
    assert outputs(events)["all"] == ["a", None, "c"]
    await until(lambda: len(suite.model.broken) == 1, "the late one's request ends")


async def test_a_loop_goes_on_until_it_is_done_and_sees_its_past_rounds(opened: OpenSuite) -> None:
    loop = {"agent": "counter", "until": "loop.output.endsWith('!')", "max_rounds": 9}
    suite = await opened_with(opened, [{"name": "grow", "loop": loop}])
    events = await suite.story("flow", "_")
    assert result_of(events).output == "_aaa!"
    assert [event.loop_round.round for event in events if event.HasField("loop_round")] == [1, 2, 3, 4]


async def test_a_loop_that_never_ends_fails_after_its_rounds(opened: OpenSuite) -> None:
    loop = {
        "agent": "echo",
        "input": "{{ loop.round }} {{ loop.outputs | length }}",
        "until": "false",
        "max_rounds": 2,
    }
    suite = await opened_with(opened, [{"name": "grow", "loop": loop}])
    events = await suite.story("flow")
    assert result_of(events).error.reason == pb.ERROR_REASON_MAX_ITERATIONS_REACHED
    assert [request["messages"][-1]["content"] for request in suite.model.requests] == ["1 0", "2 1"]


async def test_a_failover_takes_the_first_that_succeeds(opened: OpenSuite) -> None:
    choices = [{"agent": "broken"}, {"agent": "echo", "input": "second"}, {"agent": "slow"}]
    suite = await opened_with(opened, [{"name": "any", "failover": {"choices": choices}}])
    assert result_of(await suite.story("flow")).output == "second"


async def test_a_failover_goes_on_after_the_failures_that_it_names_alone(opened: OpenSuite) -> None:
    def failover(*errors: str) -> dict[str, Any]:
        choices = [{"agent": "broken"}, {"agent": "echo", "input": "second"}]
        return {"nodes": [{"name": "any", "failover": {"choices": choices, "errors": list(errors)}}]}

    suite = await opened(
        {"rules": RULES, "default": {"text": "{last_user}"}},
        agents=AGENTS,
        graph_workflows={"named": failover("LLM_INVALID_REQUEST"), "other": failover("LLM_TIMEOUT")},
    )
    assert (await suite.result("named")).output == "second"
    assert (await suite.result("other")).error.reason == pb.ERROR_REASON_LLM_INVALID_REQUEST


async def test_a_router_has_any_number_of_routes(opened: OpenSuite) -> None:
    routes = [{"name": f"r{number}", "when": f"input == '{number}'"} for number in range(400)]
    edges = [
        {"source": "way", "target": "last", "route": "r399"},
        {"source": "way", "target": "none", "route": "no"},
    ]
    nodes = [
        {"name": "way", "router": {"routes": routes, "default": "no"}},
        echo("last", "L"),
        echo("none", "N"),
    ]
    suite = await opened_with(opened, nodes, workflow={"edges": edges})
    assert [result_of(await suite.story("flow", each)).output for each in ("399", "400")] == ["L", "N"]


@pytest.mark.parametrize(
    ("given", "output"),
    [
        ({"strategy": "sequential", "agents": ["counter", "big"]}, "hiaa"),
        ({"strategy": "parallel", "agents": ["counter", "echo"]}, '["hia", "hi"]'),
        ({"strategy": "decision_tree", "agents": ["echo", "big"], "chooser": "chooser"}, "hia"),
    ],
)
async def test_a_list_of_agents_with_a_strategy_runs_as_a_graph(
    opened: OpenSuite, given: dict[str, Any], output: str
) -> None:
    script = {"rules": RULES, "default": {"text": "{last_user}"}}
    agents = {**AGENTS, "big": AGENTS["counter"]}
    suite = await opened(script, agents=agents, graph_workflows={"flow": given})
    assert result_of(await suite.story("flow", "hi")).output == output


async def test_a_person_is_asked_and_a_value_worked_out_while_others_go_on(opened: OpenSuite) -> None:
    ask = {"question": "How many {{ input }}?", "answer_schema": {"type": "integer"}}
    nodes = [
        {"name": "ask", "ask": ask},
        {"name": "twice", "transform": {"expression": "{'n': steps.ask.output * 2}"}},
        {"name": "say", "transform": {"template": "{{ steps.twice.output.n }} {{ input }}"}},
        echo("aside"),
    ]
    suite = await opened_with(opened, nodes, "ask>twice twice>say", workflow={"output": "steps.say.output"})
    run = await suite.client.runs.start("flow", "apples")
    (asked,) = await suite.asked(run.run_id)
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert (asked.question.text, asked.path) == ("How many apples?", "step:ask/try:1")
    assert any(
        event.HasField("step_completed")
        for event in [each async for each in suite.client.runs.events(run.run_id)]
    )
    await suite.client.inputs.provide(asked, 21)
    assert (await suite.ended(run.run_id)).result.output == "42 apples"


async def test_two_runs_of_one_graph_at_once_never_see_each_other(opened: OpenSuite) -> None:
    each = {"items": "[input, input]", "agent": "echo"}
    nodes = [{"name": "all", "each": each}, echo("end", "{{ steps.all.output | join('+') }}")]
    suite = await opened_with(opened, nodes, "all>end")
    runs = [await suite.client.runs.start("flow", f"m{number}") for number in range(10)]
    for number, run in enumerate(runs):
        assert (await suite.ended(run.run_id)).result.output == f"m{number}+m{number}"


async def test_a_graph_that_is_killed_among_its_branches_goes_on_with_those_that_are_left(
    tmp_path: Path,
) -> None:
    hangs = {"when": {"system_contains": "the slow"}, "times": 1, "hang": True}
    each = {
        "items": "[1, 2, 3]",
        "tool": {"server": "tools", "tool": "count", "arguments": {"n": "{{ item }}"}},
    }
    nodes = [{"name": "all", "each": each}, {"name": "slow", "agent": "slow"}, echo("end", "done")]
    ways = [{"source": "all", "target": "end"}, {"source": "slow", "target": "end"}]
    async with open_processes(
        tmp_path,
        {"rules": [hangs], "default": {"text": "{last_user}"}},
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        graph_workflows={"flow": {"nodes": nodes, "edges": ways}},
    ) as suite:
        run = await suite.client.runs.start("flow", "hi", kind=component_pb2.COMPONENT_KIND_GRAPH_WORKFLOW)

        async def done() -> bool:
            story = [event async for event in suite.client.runs.events(run.run_id)]
            return sum(event.HasField("tool_call_completed") for event in story) == 3

        await until(done, "the branches are done")
        await until(lambda: len(suite.model.requests) == 1, "the slow one is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await suite.watched(run.run_id)
        assert result_of(events).output == "done"
        assert states(events) == {"all": "completed", "slow": "completed", "end": "completed"}
        assert sorted(note["arguments"]["n"] for note in suite.notes()) == [1, 2, 3]
