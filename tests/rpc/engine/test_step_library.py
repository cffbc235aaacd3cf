"""Workflows made of steps by `retinue_workflow`: the same journal and the same events as other workflows."""

import json
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import run_pb2
from retinue.errors import reason_name
from retinue_workflow import Step
from retinue_workflow.execution import delay_s
from tests.rpc.engine.test_custom_workflows import AGENTS, SCRIPT, custom
from tests.rpc.engine.test_linear_workflows import completed, steps_of
from tests.suite import Suite, lines, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


def stepped(folder: Path, name: str) -> dict[str, Any]:
    return custom(folder, name, mcp_servers=["tools"]) | {"entry_point": f"stepped:{name}"}


async def opened_with(opened: OpenSuite, folder: Path, *names: str) -> Suite:
    return await opened(
        SCRIPT,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(folder)},
        custom_workflows={name.lower(): stepped(folder, name) for name in names},
    )


async def test_steps_are_done_once_and_told_as_those_of_other_workflows(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, "Report")
    run = await suite.client.runs.start("report", "bees")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    (asked,) = await suite.asked(run.run_id)
    await suite.client.inputs.provide(asked, value=True)
    events = await suite.watched(run.run_id)
    result = events[-1].run_finished.result
    assert json.loads(result.structured_json) == {"found": "gold", "approved": True}, result.error
    told = steps_of(events)
    assert told[:3] == [("started", "find"), ("completed", "find"), ("started", "drafts")]
    assert set(told[3:7]) == {
        ("started", "one"),
        ("started", "two"),
        ("completed", "one"),
        ("completed", "two"),
    }
    assert told[7:] == [
        ("completed", "drafts"),
        ("skipped", "never"),
        ("started", "length"),
        ("completed", "length"),
        ("started", "approve"),
        ("completed", "approve"),
    ]
    assert completed(events) == {
        "find": "gold",
        "one": "written: gold",
        "two": "written: gold",
        "drafts": {"one": "written: gold", "two": "written: gold"},
        "length": 4,
        "approve": True,
    }
    assert [(each.step, each.state) for each in result.steps] == [
        ("find", run_pb2.STEP_STATE_COMPLETED),
        ("drafts", run_pb2.STEP_STATE_COMPLETED),
        *((name, run_pb2.STEP_STATE_COMPLETED) for name in ("one", "two")),
        ("never", run_pb2.STEP_STATE_SKIPPED),
        *((name, run_pb2.STEP_STATE_COMPLETED) for name in ("length", "approve")),
    ]
    find = next(event.step_completed for event in events if event.HasField("step_completed"))
    assert find.usage.input_tokens > 0
    assert find.duration.ToMicroseconds() > 0
    # Its code ran twice, that of the steps that were done once.
    assert len(lines(tmp_path / "find")) == 1
    assert lines(tmp_path / "before").count("find") == 1
    assert ["never", "skipped"] not in lines(tmp_path / "after")
    summary = lines(tmp_path / "summary")[-1]
    assert [each["name"] for each in summary["steps"]] == [
        "find", "one", "two", "drafts", "never", "length", "approve",
    ]  # fmt: skip
    assert all(each["ended"] >= each["begun"] > 0 for each in summary["steps"] if each["name"] != "never")
    told_of = {each["name"]: (each["tags"], each["metadata"]) for each in summary["steps"]}
    assert summary["tags"] == ["nightly"]
    assert (told_of["find"], told_of["length"]) == ((["a"], {}), ([], {"unit": "characters"}))
    (emitted,) = [event.custom_event for event in events if event.HasField("custom_event")]
    assert emitted.name == "summary"
    # The hook that failed broke nothing.
    output = "".join(event.worker_output.text for event in events if event.HasField("worker_output"))
    assert "the hook after_step failed" in output


async def test_a_step_that_fails_is_tried_again_and_its_handler_or_the_workflows_takes_its_place(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, "Handled")
    events = await suite.story("handled", "{}")
    result = events[-1].run_finished.result
    # What a try sets that fails is gone.
    assert result.output == "x", result.error
    assert steps_of(events) == [
        ("started", "broken"),
        ("retrying", "broken"),
        ("started", "broken"),
        ("retrying", "broken"),
        ("started", "broken"),
        ("failed", "broken"),
        ("completed", "broken"),
        ("started", "late"),
        ("retrying", "late"),
        ("started", "late"),
        ("failed", "late"),
        ("completed", "late"),
        ("started", "plain"),
        ("failed", "plain"),
        ("completed", "plain"),
        ("skipped", "left_out"),
        ("started", "own"),
        ("completed", "own"),
        ("started", "last"),
        ("completed", "last"),
    ]
    assert completed(events) == {
        "broken": "written: out of luck",
        "late": "late: StepTimeoutError",
        "plain": "WorkflowCodeFailedError of x",
        "own": "own x",
        "last": "x",
    }
    delays = [
        event.step_retrying.delay.ToMilliseconds() for event in events if event.HasField("step_retrying")
    ]
    assert delays == [10, 20, 10]
    # Three of the step broken, and that of the step plain.
    assert len(lines(tmp_path / "tries")) == 4
    (summary,) = lines(tmp_path / "summary")
    assert (summary["hook_errors"], summary["metadata"]) == (1, {"team": "bees"})
    output = "".join(event.worker_output.text for event in events if event.HasField("worker_output"))
    assert "the hook before_workflow failed" in output


@pytest.mark.parametrize(
    ("name", "message", "reason", "said"),
    [
        ("Unhandled", "{}", "WORKFLOW_CODE_FAILED", "the step broken failed: ValueError: out of luck"),
        ("NoTool", "{}", "MCP_TOOL_NOT_FOUND", "needs the tools tools.nowhere"),
        ("NoPlan", '{"topic": "x"}', "WORKFLOW_CODE_FAILED", "the step one requires found"),
        ("WrongValue", "{}", "WORKFLOW_CODE_FAILED", "ValidationError"),
        ("Report", "{}", "INVALID_ARGUMENT", "lacks topic"),
        ("Report", '{"topic": 4}', "INVALID_ARGUMENT", "should be a valid string"),
        ("Report", '{"topics": "x"}', "INVALID_ARGUMENT", "'topics' is not declared"),
    ],
)
async def test_what_does_not_fit_is_said_before_the_first_step_or_where_it_happens(
    opened: OpenSuite, tmp_path: Path, name: str, message: str, reason: str, said: str
) -> None:
    suite = await opened_with(opened, tmp_path, name)
    events = await suite.story(name.lower(), message)
    error = events[-1].run_finished.result.error
    assert reason_name(error.reason) == reason, error
    assert said in error.message
    if name in ("NoTool", "NoPlan", "Report"):
        assert not steps_of(events)


async def test_a_retry_goes_on_at_the_step_that_failed(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path, "Mended")
    failed = (await suite.story("mended", "bees"))[-1]
    assert failed.run_finished.result.error.reason == pb.ERROR_REASON_WORKFLOW_CODE_FAILED
    (tmp_path / "mended").touch()
    again = await suite.client.runs.retry(failed.run_id)
    events = await suite.watched(again.run_id)
    assert events[-1].run_finished.result.output == "gold gold"
    assert len(lines(tmp_path / "find")) == 1
    restored = [event.step_completed.step for event in events if event.step_completed.restored]
    assert restored == ["find"]


async def test_a_workflow_of_steps_whose_engine_is_killed_does_each_step_once(tmp_path: Path) -> None:
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        custom_workflows={"slow": stepped(tmp_path, "Slow")},
    ) as suite:
        run = await suite.client.runs.start("slow", "{}")
        for calls in (1, 3):
            await until(lambda calls=calls: len(suite.notes()) >= calls, f"{calls} calls", 30)
            await suite.engine_process.kill()
            await suite.engine_process.start()
        assert (await suite.ended(run.run_id, 30)).state == run_pb2.RUN_STATE_SUCCEEDED
        events = await suite.watched(run.run_id)
        assert completed(events) == {f"step_{n}": n for n in range(4)}
        done = Counter(event.step_completed.step for event in events if event.HasField("step_completed"))
        assert set(done.values()) == {1}
        assert {each["arguments"]["n"] for each in suite.notes()} == {0, 1, 2, 3}


def test_a_step_that_does_nothing_is_refused_when_it_is_made() -> None:
    with pytest.raises(TypeError, match="the step idle does nothing: give it `does`"):
        Step("idle")


def test_a_step_is_tried_four_times_of_a_minute_with_waits_that_double_where_it_says_nothing() -> None:
    step = Step("any", lambda _: None)
    assert (step.max_retries, step.backoff_s, step.timeout_s) == (3, 1.0, 60.0)
    assert [delay_s(step, failed) for failed in (1, 2, 3)] == [1.0, 2.0, 4.0]
