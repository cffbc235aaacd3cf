"""The worker protocol from outside: a worker of another make, hostile ones, and what came by API."""

import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from retinue.errors import reason_name
from retinue.registry.v1 import component_pb2
from retinue.registry.v1.custom_workflow_pb2 import CustomWorkflowSpec
from tests.rpc.engine.test_custom_workflows import AGENTS, FLOWS, SCRIPT, custom
from tests.suite import Suite

OpenSuite = Callable[..., Awaitable[Suite]]

NOT_ALLOWED = pb.ERROR_REASON_COMPONENT_NOT_ALLOWED


async def opened_raw(opened: OpenSuite, *whats: str) -> Suite:
    flows = {
        what.replace(" ", "_"): {
            "command": sys.executable,
            "args": [f"{FLOWS}/raw_worker.py", what],
            "agents": ["writer"],
        }
        for what in whats
    }
    return await opened(SCRIPT, agents=AGENTS, custom_workflows=flows)


async def test_a_worker_of_another_make_runs_by_the_protocol(opened: OpenSuite) -> None:
    suite = await opened_raw(opened, "works")
    result = await suite.result("works", "hi")
    assert (result.state, result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "written: hi"), result.error


@pytest.mark.parametrize(
    ("what", "reason"),
    [
        ("empty", "WORKER_PROTOCOL_BROKEN"),
        ("no call", "WORKER_PROTOCOL_BROKEN"),
        ("rubbish", "WORKER_PROTOCOL_BROKEN"),
        ("hangs up", "WORKER_EXITED"),
        ("wrong token", "WORKER_EXITED"),
    ],
)
async def test_a_worker_that_breaks_the_protocol_fails_its_run(
    opened: OpenSuite, what: str, reason: str
) -> None:
    suite = await opened_raw(opened, what)
    error = (await suite.result(what.replace(" ", "_"), "x")).error
    assert reason_name(error.reason) == reason, error


async def test_a_token_is_good_for_one_stream(opened: OpenSuite) -> None:
    suite = await opened_raw(opened, "twice")
    assert (await suite.result("twice", "x")).output == "UNAUTHENTICATED"


async def test_calls_that_cannot_be_made_are_answered_with_what_is_wrong(opened: OpenSuite) -> None:
    suite = await opened_raw(opened, "bad calls")
    result = await suite.result("bad_calls", "x")
    assert [reason_name(each) for each in json.loads(result.output)] == [
        "COMPONENT_NOT_FOUND",
        "COMPONENT_NOT_FOUND",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "INVALID_ARGUMENT",
        "PAYLOAD_TOO_LARGE",
    ]


async def applied(suite: Suite, **spec: Any) -> run_pb2.RunResult:
    """What a run of a workflow gives that came by API."""
    component = component_pb2.Component(
        kind=component_pb2.COMPONENT_KIND_CUSTOM_WORKFLOW,
        name="api",
        custom_workflow=CustomWorkflowSpec(**spec),
    )
    await suite.client.components.apply([component])
    return await suite.result("api", "hi")


async def test_a_workflow_by_api_may_name_what_the_operator_lists_and_nothing_else(
    opened: OpenSuite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SET", "x")
    suite = await opened(SCRIPT, api_modules="flow?", api_files=FLOWS, api_commands="true")
    good = {"entry_point": "flows:Echo", "folder": FLOWS}
    assert (await applied(suite, **good)).output == "api: hi"
    for changes, setting in (
        ({"entry_point": "os:PathLike"}, "RETINUE_API_MODULES"),
        ({"folder": str(Path(FLOWS).parent)}, "RETINUE_API_FILES"),
        ({"env": {"A": "${env:SET}"}}, "RETINUE_API_ENV"),
        ({"env": {"PYTHONPATH": "/x"}}, "RETINUE_API_MODULES"),
        ({"entry_point": "", "command": "sh"}, "RETINUE_API_COMMANDS"),
    ):
        error = (await applied(suite, **{**good, **changes})).error
        assert error.reason == NOT_ALLOWED, changes
        assert error.metadata["setting"] == setting
    # What may be started is: that it is no worker is another matter.
    assert (await applied(suite, command="true")).error.reason == pb.ERROR_REASON_WORKER_EXITED


async def test_a_workflow_by_api_has_no_folder_that_relative_paths_could_start_from(
    opened: OpenSuite,
) -> None:
    suite = await opened(SCRIPT)
    with pytest.raises(Exception, match="absolute path where it comes by API"):
        await applied(suite, entry_point="flows:Echo", folder="flows")


async def test_secrets_of_workers_that_do_not_resolve_are_named(opened: OpenSuite, tmp_path: Path) -> None:
    flow = custom(tmp_path, "Echo", env={"TOKEN": "${env:NOT_SET_AT_ALL}"})
    suite = await opened(SCRIPT, agents=AGENTS, custom_workflows={"echo": flow})
    (problem,) = await suite.client.secrets.of_llms()
    assert (problem.kind, problem.name, problem.field) == ("custom_workflow", "echo", "env.TOKEN")
