"""Budgets: what a run may use, checked before each call."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from retinue.errors import InvalidArgumentError
from retinue.registry.v1 import agent_pb2
from tests.suite import Suite, check_story, kinds, stdio_server

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
    assert result.error.reason == pb.ERROR_REASON_BUDGET_EXCEEDED
    assert dict(result.error.metadata) == {"budget": next(iter(budget)), **facts}
    assert (result.turns, result.tool_calls) == (turns, calls)
    assert kinds(events).count("tool_call_started") == calls


async def test_a_budget_that_suffices_changes_nothing(opened: OpenSuite, tmp_path: Path) -> None:
    budget = {"max_tokens": 201, "max_cost_nano_usd": 201, "max_tool_calls": 3}
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


@pytest.mark.parametrize("wrong", [{"max_tokens": 0}, {"max_cost_nano_usd": -1}, {"max_tool_calls": -1}])
async def test_a_budget_that_makes_no_sense_is_refused(opened: OpenSuite, wrong: dict[str, int]) -> None:
    suite = await opened()
    with pytest.raises(InvalidArgumentError) as refused:
        await suite.client.runs.start("a", "hi", options=run_pb2.RunOptions(budget=agent_pb2.Budget(**wrong)))
    assert [each.field for each in refused.value.violations] == [f"run.options.budget.{next(iter(wrong))}"]
