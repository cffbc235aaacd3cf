"""Budgets: what a run may use, checked before each call."""

import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import InvalidArgumentError
from retinue.registry.v1 import agent_pb2
from tests.suite import Suite, check_story, check_tree, kinds, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

USAGE = {"input_tokens": 60, "output_tokens": 40}
SCRIPT = {
    "turns": [
        {"tool_calls": [{"name": "tools__count"}], "usage": USAGE},
        {"tool_calls": [{"name": "tools__count"}, {"name": "tools__count"}], "usage": USAGE},
        {"text": "done", "usage": USAGE},
    ]
}
PRICE = {"input_nano_usd_per_million": 1_000_000, "output_nano_usd_per_million": 1_000_000}


async def opened_with(opened: OpenSuite, folder: Path, **more: Any) -> Suite:
    """A suite whose run of `b` takes 300 tokens, 300 billionths of a dollar and 3 tool calls."""
    return await opened(
        SCRIPT,
        llms={"priced": {"price": PRICE}},
        agents={"b": {"llm": "priced", "mcp_servers": ["tools"], **more}},
        mcp_servers={"tools": stdio_server(folder)},
    )


@pytest.mark.parametrize(
    ("budget", "turns", "calls", "facts"),
    [
        ({"max_tokens": 100}, 1, 1, {"limit": "100", "used": "100"}),
        ({"max_tokens": 101}, 2, 3, {"limit": "101", "used": "200"}),
        ({"max_cost_nano_usd": 150}, 2, 3, {"limit": "150", "used": "200"}),
        ({"max_turns": 1}, 1, 1, {"limit": "1", "used": "1"}),
        ({"max_turns": 2}, 2, 3, {"limit": "2", "used": "2"}),
        ({"max_tool_calls": 2}, 2, 1, {"limit": "2", "used": "3"}),
        ({"max_tool_calls": 0}, 1, 0, {"limit": "0", "used": "1"}),
    ],
)
async def test_a_run_ends_where_its_budget_is_used_up(
    opened: OpenSuite, tmp_path: Path, budget: dict[str, int], turns: int, calls: int, facts: dict[str, str]
) -> None:
    suite = await opened_with(opened, tmp_path, budget=budget)
    events = await suite.story("b")
    check_story(events)
    result = events[-1].run_finished.result
    assert (result.state, result.stop_reason) == (run_pb2.RUN_STATE_FAILED, run_pb2.STOP_REASON_BUDGET)
    assert result.error.reason == pb.ERROR_REASON_BUDGET_EXCEEDED
    assert dict(result.error.metadata) == {"budget": next(iter(budget)), **facts}
    assert (result.turns, result.tool_calls) == (turns, calls)
    assert kinds(events).count("tool_call_started") == calls


async def test_a_budget_that_suffices_changes_nothing(opened: OpenSuite, tmp_path: Path) -> None:
    budget = {
        "max_tokens": 201,
        "max_cost_nano_usd": 201,
        "max_tool_calls": 3,
        "max_turns": 3,
        "max_duration": "1h",
    }
    suite = await opened_with(opened, tmp_path, budget=budget)
    result = await suite.result("b")
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "done")
    assert (result.usage.input_tokens, result.cost.nano_usd, result.tool_calls) == (180, 300, 3)


async def test_a_runs_own_limit_stands_over_the_agents_and_leaves_the_others(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, budget={"max_tokens": 1, "max_tool_calls": 2})
    options = run_pb2.RunOptions(budget=agent_pb2.Budget(max_tokens=1000))
    result = await suite.result("b", options=options)
    assert result.error.metadata["budget"] == "max_tool_calls"


async def test_a_cost_that_is_not_known_cannot_be_held_to_a_budget(opened: OpenSuite) -> None:
    script = {"turns": [{"tool_calls": [{"name": "none"}]}, {"text": "done"}]}
    suite = await opened(script, agents={"b": {"budget": {"max_cost_nano_usd": 1_000_000}}})
    result = await suite.result("b")
    assert result.error.reason == pb.ERROR_REASON_BUDGET_EXCEEDED
    assert (result.error.metadata["used"], result.turns) == ("unknown", 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": 0},
        {"max_cost_nano_usd": -1},
        {"max_tool_calls": -1},
        {"max_turns": 0},
        {"max_duration": Duration()},
        {"max_duration": Duration(seconds=-1)},
    ],
)
@pytest.mark.parametrize("whose", ["budget", "session_budget"])
async def test_a_budget_that_makes_no_sense_is_refused(
    opened: OpenSuite, whose: str, wrong: dict[str, Any]
) -> None:
    suite = await opened()
    options = run_pb2.RunOptions(**{whose: agent_pb2.Budget(**wrong)})  # type: ignore[arg-type]
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", options=options)
    assert [each.field for each in refused.value.violations] == [f"run.options.{whose}.{next(iter(wrong))}"]


async def test_a_run_ends_before_its_next_call_when_its_time_is_used_up(
    opened: OpenSuite, tmp_path: Path
) -> None:
    slow = {"name": "tools__count", "arguments": {"ms": 1100}}
    suite = await opened(
        {"turns": [{"tool_calls": [slow]}, {"text": "done"}]},
        agents={"b": {"mcp_servers": ["tools"], "budget": {"max_duration": "1s"}}},
        mcp_servers={"tools": stdio_server(tmp_path)},
    )
    # The server is there before the run that is measured.
    await suite.result("b", options=run_pb2.RunOptions(budget=within(seconds=60)))
    events = await suite.story("b")
    check_story(events)
    result = events[-1].run_finished.result
    assert (result.stop_reason, result.error.metadata["budget"]) == (
        run_pb2.STOP_REASON_BUDGET,
        "max_duration",
    )
    assert (result.error.metadata["limit"], result.turns, result.tool_calls) == ("1.0", 1, 1)
    assert float(result.error.metadata["used"]) >= 1.1


def within(**of: int) -> agent_pb2.Budget:
    return agent_pb2.Budget(max_duration=Duration(**of))


SESSION: dict[str, tuple[int, int, str]] = {
    # Over all runs: two runs fit, and where the third one stops.
    "max_tokens": (601, 1, "700"),
    "max_cost_nano_usd": (650, 1, "700"),
    "max_tool_calls": (6, 1, "7"),
    "max_turns": (7, 1, "7"),
}


@pytest.mark.parametrize("name", SESSION)
async def test_a_session_budget_is_for_all_its_runs_together(
    opened: OpenSuite, tmp_path: Path, name: str
) -> None:
    limit, turns, used = SESSION[name]
    suite = await opened_with(opened, tmp_path, session_budget={name: limit}, include_history=False)
    for _ in range(2):
        assert (await suite.result("b", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED
    result = await suite.result("b", session_id="s")
    assert result.stop_reason == run_pb2.STOP_REASON_BUDGET
    assert dict(result.error.metadata) == {"budget": name, "limit": str(limit), "used": used}
    assert "session" in result.error.message
    assert result.turns == turns
    # What is used up stays so; another session has a budget of its own.
    assert (await suite.result("b", session_id="s")).stop_reason == run_pb2.STOP_REASON_BUDGET
    assert (await suite.result("b", session_id="t")).state == run_pb2.RUN_STATE_SUCCEEDED
    # A run may have other limits than its agent.
    options = run_pb2.RunOptions(session_budget=agent_pb2.Budget(**{name: limit * 2}))  # type: ignore[arg-type]
    assert (await suite.result("b", session_id="s", options=options)).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_a_session_that_has_used_up_its_time_asks_nothing_more(opened: OpenSuite) -> None:
    suite = await opened(
        {"default": {"text": "ok", "delay_ms": 600}},
        agents={"b": {"session_budget": {"max_duration": "500ms"}}},
    )
    assert (await suite.result("b", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED
    result = await suite.result("b", session_id="s")
    assert (result.error.metadata["budget"], result.turns) == ("max_duration", 0)
    assert len(suite.model.requests) == 1


async def test_a_session_with_a_cost_that_is_not_known_cannot_be_held_to_a_budget(opened: OpenSuite) -> None:
    suite = await opened(agents={"b": {"session_budget": {"max_cost_nano_usd": 1_000_000}}})
    # One call may be made: nobody knows before it that its price is not known.
    assert (await suite.result("b", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED
    result = await suite.result("b", session_id="s")
    assert (result.error.metadata["used"], result.turns) == ("unknown", 0)


def with_child(folder: Path, worker_calls: int = 1, asks: int = 1, **agents: Any) -> dict[str, Any]:
    """A boss who asks a worker, who calls tools in two turns; each answer uses 100 tokens."""
    tools = {"tool_calls": [{"name": "tools__count"}] * worker_calls, "usage": USAGE}
    asked = [{"name": "worker", "arguments": {"message": "go"}}] * asks
    rules = [
        {"when": {"system_contains": "boss", "turn": 1}, "tool_calls": asked, "usage": USAGE},
        {"when": {"system_contains": "boss"}, "text": "told: {last_tool}", "usage": USAGE},
        {"when": {"turn": 3}, "text": "done", "usage": USAGE},
    ]
    return {
        "script": {"rules": rules, "default": tools},
        "agents": {
            "boss": {"system_prompt": "boss", "agents": ["worker"], **agents.get("boss", {})},
            "worker": {"mcp_servers": ["tools"], **agents.get("worker", {})},
        },
        "mcp_servers": {"tools": stdio_server(folder)},
    }


def child_results(events: list[event_pb2.RunEvent]) -> list[run_pb2.RunResult]:
    return [e.child_run_finished.result for e in events if e.WhichOneof("event") == "child_run_finished"]


@pytest.mark.parametrize(
    ("budget", "used", "done", "stop"),
    [
        ({"max_tokens": 200}, "200", 1, run_pb2.STOP_REASON_BUDGET),
        ({"max_turns": 2}, "2", 1, run_pb2.STOP_REASON_BUDGET),
        # The call of the child is one of its caller's calls.
        ({"max_tool_calls": 1}, "2", 0, run_pb2.STOP_REASON_COMPLETED),
        ({"max_tool_calls": 2}, "3", 1, run_pb2.STOP_REASON_COMPLETED),
    ],
)
async def test_the_budget_of_a_caller_stops_the_calls_of_a_child(
    opened: OpenSuite,
    tmp_path: Path,
    budget: dict[str, int],
    used: str,
    done: int,
    stop: run_pb2.StopReason.ValueType,
) -> None:
    suite = await opened(**with_child(tmp_path, boss={"budget": budget}))
    events = await suite.story("boss")
    check_tree(events)
    ((name, limit),) = budget.items()
    (child,) = child_results(events)
    assert (child.state, child.stop_reason) == (run_pb2.RUN_STATE_FAILED, run_pb2.STOP_REASON_BUDGET)
    assert dict(child.error.metadata) == {"budget": name, "limit": str(limit), "used": used}
    result = events[-1].run_finished.result
    assert result.stop_reason == stop
    # What is left to its caller may be enough to say so.
    assert len(suite.notes()) == done
    assert result.tool_calls <= budget.get("max_tool_calls", 9)
    assert ("budget" in result.output) == (stop == run_pb2.STOP_REASON_COMPLETED)


@pytest.mark.parametrize(
    ("budget", "most_turns", "most_calls"), [({"max_turns": 2}, 2, 9), ({"max_tool_calls": 6}, 9, 6)]
)
async def test_children_side_by_side_use_no_more_than_their_caller_may(
    opened: OpenSuite, tmp_path: Path, budget: dict[str, int], most_turns: int, most_calls: int
) -> None:
    suite = await opened(**with_child(tmp_path, asks=3, boss={"budget": budget}))
    events = await suite.story("boss")
    check_tree(events)
    result = events[-1].run_finished.result
    assert result.turns <= most_turns
    assert result.tool_calls <= most_calls
    stops = [each.stop_reason for each in child_results(events)]
    assert run_pb2.STOP_REASON_BUDGET in stops


@pytest.mark.parametrize("budget", [{"max_tokens": 100}, {"max_turns": 1}, {"max_tool_calls": 1}])
async def test_a_childs_own_budget_ends_the_child_alone(
    opened: OpenSuite, tmp_path: Path, budget: dict[str, int]
) -> None:
    suite = await opened(**with_child(tmp_path, worker={"budget": budget}))
    events = await suite.story("boss")
    check_tree(events)
    (child,) = child_results(events)
    assert child.stop_reason == run_pb2.STOP_REASON_BUDGET
    assert len(suite.notes()) == 1
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED
    assert next(iter(budget)) in result.output


async def test_a_sessions_budget_holds_for_children_too(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened(
        **with_child(tmp_path, boss={"session_budget": {"max_turns": 7}, "include_history": False})
    )
    assert (await suite.result("boss", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED
    events = await suite.story("boss", session_id="s")
    check_tree(events)
    (child,) = child_results(events)
    assert dict(child.error.metadata) == {"budget": "max_turns", "limit": "7", "used": "7"}
    result = events[-1].run_finished.result
    assert (result.stop_reason, result.turns) == (run_pb2.STOP_REASON_BUDGET, 2)


async def test_a_childs_time_begins_with_the_child(opened: OpenSuite, tmp_path: Path) -> None:
    project = with_child(tmp_path, worker={"budget": {"max_duration": "2s"}})
    project["script"]["rules"][0]["delay_ms"] = 2100
    suite = await opened(**project)
    events = await suite.story("boss")
    check_tree(events)
    assert [each.state for each in child_results(events)] == [run_pb2.RUN_STATE_SUCCEEDED]


async def test_time_that_a_child_waits_for_a_person_is_not_counted(opened: OpenSuite, tmp_path: Path) -> None:
    policy = {"approval": "always"}
    worker = {"budget": {"max_duration": "2s"}, "tool_policies": [policy]}
    suite = await opened(**with_child(tmp_path, worker=worker))
    run = await suite.client.runs.start("boss", "hi")
    (request,) = await suite.asked(run.run_id)
    await until(
        lambda: time.time() * 1000 > request.create_time.ToMilliseconds() + 2200,
        "more time has passed than the budget has",
    )
    await suite.client.inputs.approve(request)
    await until(suite.notes, "the tool is called")
    (again,) = await suite.asked(run.run_id)
    await suite.client.inputs.approve(again)
    events = await suite.watched(run.run_id)
    check_tree(events)
    assert [each.state for each in child_results(events)] == [run_pb2.RUN_STATE_SUCCEEDED]
