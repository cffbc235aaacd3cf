"""Custom workflows: code in a process of its own, whose calls are in the run's journal."""

import json
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from retinue.errors import reason_name
from retinue_engine.custom import loop
from tests.suite import Suite, lines, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]

FLOWS = str(Path(__file__).parents[2] / "flows")
SCRIPT: dict[str, Any] = {
    "rules": [{"when": {"system_contains": "finder"}, "text": "gold"}],
    "default": {"text": "written: {last_user}"},
}
AGENTS: dict[str, Any] = {"finder": {"system_prompt": "finder"}, "writer": {}}


def custom(folder: Path, name: str, **more: Any) -> dict[str, Any]:
    """The config of a workflow of the tests' own code."""
    return {
        "entry_point": f"flows:{name}",
        "folder": FLOWS,
        "env": {"NOTES": str(folder), **more.pop("env", {})},
        "agents": ["finder", "writer"],
        **more,
    }


async def opened_with(opened: OpenSuite, folder: Path, names: list[str], **more: Any) -> Suite:
    tools = {"mcp_servers": ["tools"]}
    flows = {each.lower(): custom(folder, each, **tools) for each in names}
    return await opened(
        SCRIPT,
        agents={**AGENTS, **more.pop("agents", {})},
        mcp_servers={"tools": stdio_server(folder)},
        custom_workflows={**flows, **more.pop("others", {})},
        **more,
    )


def called(events: list[event_pb2.RunEvent]) -> dict[str, Any]:
    """What the calls gave, by key."""
    return {
        event.call_completed.key: json.loads(event.call_completed.output_json)
        for event in events
        if event.HasField("call_completed")
    }


async def test_code_runs_agents_and_tools_and_its_input_and_output_are_typed(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Writes"])
    events = await suite.story("writes", json.dumps({"topic": "gold", "words": 3}))
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
    assert json.loads(result.structured_json) == {"text": "written: gold / ok", "score": 0.5}
    assert called(events) == {"agent:finder#1": "gold", "draft": "written: gold", "tool:tools.look#1": "ok"}
    started = [event.worker_started.number for event in events if event.HasField("worker_started")]
    ended = [event.worker_ended.outcome for event in events if event.HasField("worker_ended")]
    assert (started, ended) == ([1], [event_pb2.WORKER_OUTCOME_DONE])
    places = {event.path for event in events if event.HasField("child_run_started")}
    assert places == {"call:agent:finder#1", "call:draft"}
    assert result.tool_calls == 1
    assert result.turns == 2
    assert suite.notes()[0]["arguments"] == {"n": 3}


async def test_plain_code_runs_in_a_thread_and_reads_and_writes_state_and_tells_watchers(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Plain"])
    events = await suite.story("plain", "look")
    result = events[-1].run_finished.result
    assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
    assert json.loads(result.structured_json) == {"found": "gold", "step": 1, "none": "nothing"}
    told = [event.custom_event for event in events if event.HasField("custom_event")]
    assert [(each.key, each.name, each.data_json) for each in told] == [
        ("emit:found#1", "found", '{"what":"gold"}')
    ]
    changed = [event.state_changed for event in events if event.HasField("state_changed")]
    assert [(each.key, each.name, each.value_json) for each in changed] == [
        ("write_state:step#1", "step", "1")
    ]
    assert called(events)["read_state:step#1"] == 1
    said = [(each["role"], each["content"]) for each in await suite.messages(result.session_id)]
    assert said[0] == ("user", "look")
    assert said[1][0] == "assistant"


async def test_a_worker_sees_four_variables_and_what_its_config_names(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETINUE_TOKEN_OF_THE_ENGINE", "secret")
    monkeypatch.setenv("KEY", "for the worker")
    flow = custom(tmp_path, "Environment", env={"GIVEN": "${env:KEY}"})
    suite = await opened_with(opened, tmp_path, [], others={"environment": flow})
    events = await suite.story("environment", "x")
    seen = json.loads(events[-1].run_finished.result.structured_json)
    # LC_CTYPE is Python's own, where LANG is not set.
    assert set(seen) - {"LC_CTYPE"} <= {"PATH", "HOME", "LANG", "TMPDIR", "NOTES", "GIVEN"}
    assert seen["GIVEN"] == "for the worker"
    output = [event.worker_output for event in events if event.HasField("worker_output")]
    assert [(each.stream, each.text) for each in output] == [(event_pb2.OUTPUT_STREAM_STDOUT, "to stdout\n")]


async def test_one_key_is_one_call_and_another_call_under_it_is_refused(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["SameKey"])
    result = await suite.result("samekey", "same")
    assert json.loads(result.structured_json) == ["gold", "gold"]
    assert len(suite.model.requests) == 1
    result = await suite.result("samekey", "other")
    assert result.error.reason == pb.ERROR_REASON_NON_DETERMINISTIC
    assert result.error.metadata["key"] == "it"


FAILURES = [
    ("raise", "WORKFLOW_CODE_FAILED", "KeyError: 'gold'"),
    ("exit", "WORKER_EXITED", "ended with exit status 7"),
    ("kill", "WORKER_EXITED", "was ended by SIGKILL"),
    ("memory", "WORKFLOW_CODE_FAILED", "MemoryError"),
    ("output", "PAYLOAD_TOO_LARGE", "the output"),
    ("no json", "WORKFLOW_CODE_FAILED", "PydanticSerializationError"),
    ("unknown", "COMPONENT_NOT_FOUND", "may not run the agent 'nobody'"),
    ("too long", "STEP_TIMEOUT", "longer than its time limit of 0.2 s"),
    ("endless", "MAX_ITERATIONS_REACHED", "made 1000 calls"),
]


@pytest.mark.parametrize(("what", "reason", "said"), FAILURES, ids=[each[0] for each in FAILURES])
async def test_what_goes_wrong_in_a_worker_is_a_typed_failure_of_its_run_alone(
    opened: OpenSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, reason: str, said: str
) -> None:
    # What is endless comes to the tenfold in the end, too; that takes half a minute.
    monkeypatch.setattr(loop, "MAX_CALLS", 1000)
    suite = await opened_with(opened, tmp_path, ["Misbehaves", "Echo"], worker_memory_bytes=300 * 1024 * 1024)
    events = await suite.story("misbehaves", what)
    error = events[-1].run_finished.result.error
    assert reason_name(error.reason) == reason, error
    assert said in error.message
    output = "".join(event.worker_output.text for event in events if event.HasField("worker_output"))
    assert output.startswith("about to\n")
    (ended,) = [event.worker_ended for event in events if event.HasField("worker_ended")]
    assert ended.outcome == event_pb2.WORKER_OUTCOME_FAILED
    if what == "raise":
        assert "in run" in error.metadata["traceback"]
    assert (await suite.result("echo", "hi")).output == "echo: hi"


@pytest.mark.parametrize(
    ("more", "reason", "said"),
    [
        ({"entry_point": "flows:Nobody"}, "WORKFLOW_CODE_NOT_LOADED", "has no class 'Nobody'"),
        ({"entry_point": "nowhere:Echo"}, "WORKFLOW_CODE_NOT_LOADED", "No module named 'nowhere'"),
        ({"entry_point": "flows:Topic"}, "WORKFLOW_CODE_NOT_LOADED", "Topic"),
        ({"folder": "/nowhere"}, "WORKER_NOT_CONNECTED", "/nowhere is not there"),
        ({"entry_point": None, "command": "/nowhere/worker"}, "WORKER_NOT_CONNECTED", "cannot be started"),
        ({"entry_point": None, "command": "sleep", "args": ["60"]}, "WORKER_NOT_CONNECTED", "within 0.5 s"),
        ({"entry_point": None, "command": "false"}, "WORKER_EXITED", "ended with exit status 1"),
        ({"env": {"TOKEN": "${env:NOT_SET_AT_ALL}"}}, "SECRET_NOT_FOUND", "NOT_SET_AT_ALL"),
    ],
)
async def test_a_worker_that_cannot_be_loaded_or_never_connects_is_a_typed_failure(
    opened: OpenSuite, tmp_path: Path, more: dict[str, Any], reason: str, said: str
) -> None:
    flow = {name: value for name, value in (custom(tmp_path, "Echo") | more).items() if value is not None}
    quick = 0.5 if more.get("command") == "sleep" else 30.0
    suite = await opened_with(opened, tmp_path, [], others={"broken": flow}, worker_connect_s=quick)
    error = (await suite.result("broken", "x")).error
    assert reason_name(error.reason) == reason, error
    assert said in error.message


async def test_input_that_does_not_fit_the_codes_type_fails_the_run_and_says_why(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Writes"])
    for message in ("gold", '{"words": 3}'):
        error = (await suite.result("writes", message)).error
        assert error.reason == pb.ERROR_REASON_INVALID_ARGUMENT
        assert "topic" in error.message or "Topic" in error.message


async def test_a_failed_call_is_an_error_that_code_may_catch_and_one_that_is_given_up_is_cancelled(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Misbehaves"])
    assert "out of order" in (await suite.result("misbehaves", "catches")).output
    events = await suite.story("misbehaves", "gives up")
    assert events[-1].run_finished.result.output == "gave up"
    (failed,) = [event.call_failed for event in events if event.HasField("call_failed")]
    assert (failed.key, reason_name(failed.error.reason)) == ("hung", "WORKFLOW_CALL_CANCELLED")


async def test_what_a_worker_writes_is_kept_up_to_a_bound(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path, ["Misbehaves"])
    events = await suite.story("misbehaves", "shout")
    assert events[-1].run_finished.result.output == "said"
    output = "".join(event.worker_output.text for event in events if event.HasField("worker_output"))
    (ended,) = [event.worker_ended for event in events if event.HasField("worker_ended")]
    assert len(output) == 256 * 1024
    assert ended.dropped_bytes == 40 * 10_001 + len("about to\n") - 256 * 1024


def gone(pid: int) -> bool:
    """Whether a process runs no more; one that only waits to be reaped does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.parametrize("what", ["loop", "child"])
async def test_a_worker_is_killed_with_all_that_it_started_at_its_timeout_and_by_a_cancel(
    opened: OpenSuite, tmp_path: Path, what: str
) -> None:
    flow = custom(tmp_path, "Misbehaves", timeout="2s")
    suite = await opened_with(opened, tmp_path, ["Misbehaves"], others={"limited": flow})
    if what == "loop":
        error = (await suite.result("limited", what)).error
        assert error.reason == pb.ERROR_REASON_RUN_TIMEOUT
    run = await suite.client.runs.start("misbehaves", what)
    wanted = "ran" if what == "loop" else "child"
    await until(lambda: len(lines(tmp_path / wanted)) == (2 if what == "loop" else 1), "the worker runs")
    await suite.client.runs.cancel(run.run_id)
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_CANCELLED
    for each in [*lines(tmp_path / "ran"), *lines(tmp_path / "child")]:
        await until(lambda pid=each["pid"]: gone(pid), f"{each['pid']} is gone")


async def test_many_calls_side_by_side_are_made_and_answered(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path, ["Many", "Misbehaves"])
    assert (await suite.result("many", "200")).output == "200"
    error = (await suite.result("misbehaves", "too many")).error
    assert error.reason == pb.ERROR_REASON_INVALID_ARGUMENT
    assert "1024 calls under way" in error.message


async def test_it_runs_as_a_step_a_node_a_branch_an_agents_tool_and_inside_its_own_kind(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(
        {
            "rules": [
                {"when": {"last_role": "tool"}, "text": "done"},
                {
                    "when": {"system_contains": "boss"},
                    "tool_calls": [{"name": "echo", "arguments": {"message": "go"}}],
                },
            ],
            "default": {"text": "?"},
        },
        agents={**AGENTS, "boss": {"system_prompt": "boss", "custom_workflows": ["echo"]}},
        linear_workflows={
            "line": {
                "steps": [
                    {"name": "one", "custom_workflow": "echo", "input": "{{ input }}"},
                    {"name": "two", "each": {"items": "[1, 2]", "custom_workflow": "echo"}},
                ]
            }
        },
        graph_workflows={"net": {"nodes": [{"name": "one", "custom_workflow": "echo"}]}},
        custom_workflows={
            "echo": custom(tmp_path, "Echo"),
            "wraps": custom(
                tmp_path,
                "Wraps",
                agents=[],
                linear_workflows=["line"],
                graph_workflows=["net"],
                custom_workflows=["echo"],
            ),
        },
        max_workers=1,
    )
    assert (await suite.result("line", "a")).output == '["echo: 1", "echo: 2"]'
    assert (await suite.result("net", "a")).output == "echo: a"
    told = [each.tool_call_completed for each in await suite.story("boss", "a")]
    assert [each.text for each in told if each.text] == ["echo: go"]
    assert (await suite.result("wraps", "echo")).output == "echo: inner"
    assert (await suite.result("wraps", "net")).output == "echo: inner"
    error = (await suite.result("wraps", "nothing")).error
    assert "its config names linear workflow line, graph workflow net, custom workflow echo" in error.message


async def test_budget_and_depth_hold_for_what_code_asks_for(opened: OpenSuite, tmp_path: Path) -> None:
    many = custom(tmp_path, "Counts", mcp_servers=["tools"], budget={"max_tool_calls": 2})
    wraps = custom(tmp_path, "Wraps", agents=[], custom_workflows=["echo"])
    suite = await opened_with(
        opened, tmp_path, ["Echo"], others={"counts": many, "wraps": wraps}, max_depth=0
    )
    error = (await suite.result("counts", "x")).error
    assert error.reason == pb.ERROR_REASON_BUDGET_EXCEEDED
    assert len(suite.notes()) == 2
    error = (await suite.result("wraps", "echo")).error
    assert error.reason == pb.ERROR_REASON_RUN_DEPTH_EXCEEDED


async def test_the_next_worker_is_there_already(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path, ["Counts"], workers_ahead=2)
    for _ in range(3):
        assert (await suite.result("counts", "x")).state == run_pb2.RUN_STATE_SUCCEEDED
    # Each was used once.
    assert len({each["pid"] for each in lines(tmp_path / "ran")}) == 3
    assert os.getpid() not in {each["pid"] for each in lines(tmp_path / "ran")}
