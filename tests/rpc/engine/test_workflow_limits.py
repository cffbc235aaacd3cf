"""What is too much for a workflow ends with an error that names it, and harms nobody."""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from tests.suite import Suite, stdio_server

OpenSuite = Callable[..., Awaitable[Suite]]
MANY = 10 * 1024 * 1024
TOO_LARGE = pb.ERROR_REASON_PAYLOAD_TOO_LARGE


async def failed(
    opened: OpenSuite, steps: list[dict[str, Any]], message: str = "hi", **more: Any
) -> run_pb2.RunResult:
    """How a workflow of these steps fails; another one succeeds after it."""
    good = {"steps": [{"name": "fine", "transform": {"template": "fine"}}]}
    workflows = {"flow": {"steps": steps}, "good": good}
    suite = await opened(linear_workflows=workflows, **more)
    result = await suite.result("flow", message)
    assert result.state == run_pb2.RUN_STATE_FAILED
    assert (await suite.result("good")).output == "fine"
    return result


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        ({"tool": {"server": "tools", "tool": "big", "arguments": {"of": "x", "size": MANY}}}, TOO_LARGE),
        ({"agent": "a"}, TOO_LARGE),
        ({"transform": {"template": "{{ 'x' * 10485760 }}"}}, pb.ERROR_REASON_EXPRESSION_FAILED),
    ],
    ids=["tool", "agent", "template"],
)
async def test_a_step_output_of_10_mb_is_a_clear_error(
    opened: OpenSuite, tmp_path: Path, step: dict[str, Any], reason: pb.ErrorReason.ValueType
) -> None:
    # A hundred times what it was asked: a script of 10 MB would be read for longer than all the rest takes.
    script = {"default": {"text": "{last_user}" * 100, "chunk_size": 100_000}}
    servers = {"tools": stdio_server(tmp_path)}
    steps = [{"name": "large", **step}, {"name": "next", "transform": {"template": "{{ input }}"}}]
    result = await failed(opened, steps, "x" * (MANY // 100), script=script, mcp_servers=servers)
    assert result.error.reason == reason, result.error
    assert "the step large" in result.error.message
    assert len(result.error.message) < 2000


async def test_an_expression_that_makes_10_mb_is_a_clear_error(opened: OpenSuite) -> None:
    double = {"transform": {"expression": "[" + ", ".join(["steps.text.output"] * 100) + "]"}}
    steps = [{"name": "text", "transform": {"template": "{{ 'x' * 60000 }}"}}, {"name": "large", **double}]
    result = await failed(opened, steps)
    assert result.error.reason == TOO_LARGE
    assert result.error.metadata["limit_bytes"] == str(384 * 1024)


async def test_a_loop_inside_a_loop_that_never_ends_is_ended_by_the_workflows_timeout(
    opened: OpenSuite,
) -> None:
    def endless(inner: str) -> dict[str, Any]:
        loop = {"linear_workflow": inner, "until": "false", "max_rounds": 10_000}
        return {"steps": [{"name": "on", "loop": loop}]}

    nothing = {"steps": [{"name": "nothing", "transform": {"expression": "1"}}]}
    workflows = {
        "inner": nothing,
        "middle": endless("inner"),
        "flow": {**endless("middle"), "timeout": "300ms"},
    }
    suite = await opened(linear_workflows=workflows)
    running = await suite.client.runs.start("flow", "hi")
    # Others come to their turn all the while.
    assert (await suite.result("inner")).output == "1"
    ended = await suite.ended(running.run_id)
    assert ended.result.error.reason == pb.ERROR_REASON_RUN_TIMEOUT


async def test_workflows_are_nested_as_deep_as_the_settings_say(opened: OpenSuite) -> None:
    def around(inner: str) -> dict[str, Any]:
        return {"steps": [{"name": "in", "linear_workflow": inner}]}

    workflows = {
        "w0": {"steps": [{"name": "say", "transform": {"template": "said"}}]},
        **{f"w{depth}": around(f"w{depth - 1}") for depth in (1, 2, 3)},
    }
    suite = await opened(linear_workflows=workflows, max_depth=2)
    assert (await suite.result("w2")).output == "said"
    error = (await suite.result("w3")).error
    assert error.reason == pb.ERROR_REASON_RUN_DEPTH_EXCEEDED
    assert "the step in failed" in error.message


async def test_a_router_whose_agent_names_no_route_is_a_clear_error(opened: OpenSuite) -> None:
    routes = [{"name": "bug"}, {"name": "question"}]
    router = {"routes": routes, "default": "bug", "agent": "a", "input": "{{ input }}"}
    script = {"default": {"text": "what do I know"}}
    result = await failed(opened, [{"name": "way", "router": router}], script=script)
    assert result.error.reason == pb.ERROR_REASON_ROUTE_UNKNOWN
    assert result.error.metadata == {"step": "way", "answer": "what do I know"}
    assert "the routes are bug, question" in result.error.message
