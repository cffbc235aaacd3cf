"""Custom workflows that wait, are paused, retried or taken over: their code runs anew over the journal."""

import asyncio
import json
import os
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.rpc.engine.test_custom_workflows import AGENTS, SCRIPT, called, custom, gone, opened_with
from tests.suite import Suite, lines, open_processes, stdio_server, until

OpenSuite = Callable[..., Awaitable[Suite]]


def outcomes(events: list[event_pb2.RunEvent]) -> list[int]:
    """How the workers ended, in order."""
    return [event.worker_ended.outcome for event in events if event.HasField("worker_ended")]


async def answer(suite: Suite, run_id: str, **values: Any) -> None:
    """Answer the questions of a run, each by its text."""
    for request in await suite.asked(run_id, len(values)):
        value = values[request.question.text.rstrip("?").replace(" ", "_")]
        await suite.client.inputs.provide(request, value)


async def test_a_worker_that_waits_for_input_ends_and_its_code_runs_again_over_the_journal(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Asks"])
    run = await suite.client.runs.start("asks", "look")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    (first,) = lines(tmp_path / "ran")
    await until(lambda: gone(first["pid"]), "the worker ends")
    await answer(suite, run.run_id, How_many=3)
    events = await suite.watched(run.run_id)
    assert events[-1].run_finished.result.output == "gold: 4"
    assert outcomes(events) == [event_pb2.WORKER_OUTCOME_WAITING, event_pb2.WORKER_OUTCOME_DONE]
    assert len(lines(tmp_path / "ran")) == 2
    assert len(suite.model.requests) == 1
    assert called(events) == {"agent:finder#1": "gold", "input#1": 3}


async def test_an_answer_that_is_not_enough_starts_no_worker_too_many(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["AsksTwice"])
    run = await suite.client.runs.start("askstwice", "x")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    asked = {each.question.text: each for each in await suite.asked(run.run_id, 2)}
    await suite.client.inputs.provide(asked["two?"], 2)
    await until(lambda: len(lines(tmp_path / "ran")) == 2, "the code runs with the first answer")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await suite.client.inputs.provide(asked["one?"], 1)
    result = (await suite.ended(run.run_id)).result
    assert json.loads(result.structured_json) == [1, 2]
    assert len(lines(tmp_path / "ran")) == 3


async def test_a_long_sleep_holds_no_worker_and_a_short_one_keeps_it(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Sleeps"])
    events = await suite.story("sleeps", "0.1")
    assert outcomes(events) == [event_pb2.WORKER_OUTCOME_DONE]
    events = await suite.story("sleeps", "5.5")
    assert events[-1].run_finished.result.output == "awake"
    assert outcomes(events) == [event_pb2.WORKER_OUTCOME_WAITING, event_pb2.WORKER_OUTCOME_DONE]
    assert sum(event.HasField("run_suspended") for event in events) == 1


async def test_a_workflow_that_sleeps_or_asks_inside_another_goes_on_while_the_rest_works(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened(
        SCRIPT,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        graph_workflows={
            "net": {
                "nodes": [
                    {"name": "held", "tool": {"server": "tools", "tool": "hold"}},
                    {"name": "slept", "custom_workflow": "sleeps", "input": "5.5"},
                    {"name": "asked", "custom_workflow": "asks"},
                ]
            }
        },
        custom_workflows={"sleeps": custom(tmp_path, "Sleeps"), "asks": custom(tmp_path, "Asks")},
    )
    run = await suite.client.runs.start("net", "x")
    await answer(suite, run.run_id, How_many=1)

    async def done() -> set[str]:
        seen: set[str] = set()
        async for event in suite.client.runs.events(run.run_id, event_types=["step_completed"]):
            seen.add(event.step_completed.step)
        return seen if len(seen) == 2 else set()

    assert await until(done, "both go on while a tool is held", 20) == {"slept", "asked"}
    (tmp_path / "release").touch()
    assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_code_that_asks_for_something_else_when_it_runs_again_fails(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Chance"])
    run = await suite.client.runs.start("chance", "x")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    await answer(suite, run.run_id, Go_on=True)
    error = (await suite.ended(run.run_id)).result.error
    assert error.reason == pb.ERROR_REASON_NON_DETERMINISTIC
    assert error.metadata["key"] == "agent:writer#1"


async def test_a_pause_lets_what_is_under_way_end_and_begins_nothing_new(
    opened: OpenSuite, tmp_path: Path
) -> None:
    flow = custom(tmp_path, "Counts", mcp_servers=["tools"])
    script = {"rules": [{"when": {"system_contains": "finder"}, "text": "gold"}], "default": {"text": "w"}}
    suite = await opened(
        script,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        custom_workflows={"counts": flow, "holds": custom(tmp_path, "Holds", mcp_servers=["tools"])},
    )
    run = await suite.client.runs.start("holds", "x")
    await until(lambda: len(suite.notes()) == 1, "the tool is called")
    await suite.client.runs.pause(run.run_id)
    (tmp_path / "release").touch()
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_PAUSED)
    assert not suite.model.requests
    await suite.client.runs.resume(run.run_id)
    events = await suite.watched(run.run_id)
    assert events[-1].run_finished.result.output == "released, w"
    assert outcomes(events) == [event_pb2.WORKER_OUTCOME_PAUSED, event_pb2.WORKER_OUTCOME_DONE]
    assert len(suite.notes()) == 1


async def test_a_retry_goes_on_behind_the_calls_that_were_done(opened: OpenSuite, tmp_path: Path) -> None:
    suite = await opened_with(opened, tmp_path, ["FailsUntil"])
    failed = (await suite.story("failsuntil", "x"))[-1]
    assert failed.run_finished.result.error.reason == pb.ERROR_REASON_WORKFLOW_CODE_FAILED
    again = await suite.client.runs.retry(failed.run_id)
    assert (await suite.ended(again.run_id)).state == run_pb2.RUN_STATE_FAILED
    (tmp_path / "mended").touch()
    last = await suite.client.runs.retry(again.run_id)
    events = await suite.watched(last.run_id)
    assert events[-1].run_finished.result.output == "ok 2"
    restored = [event.call_completed.key for event in events if event.call_completed.restored]
    # The second run had made one more call than the first before it failed.
    assert restored == ["tool:tools.count_again#1", "tool:tools.count_again#2"]
    assert len(suite.notes()) == 2


@pytest.mark.parametrize("killed", ["engine", "worker"])
async def test_a_workflow_killed_between_two_calls_is_resumed_with_each_call_made_once(
    tmp_path: Path, killed: str
) -> None:
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents=AGENTS,
        mcp_servers={"tools": stdio_server(tmp_path)},
        custom_workflows={"counts": custom(tmp_path, "Counts", mcp_servers=["tools"])},
    ) as suite:
        run = await suite.client.runs.start("counts", "x")
        await until(lambda: len(lines(tmp_path / "between")) == 2, "the second call is done", 30)
        (first,) = lines(tmp_path / "ran")
        if killed == "worker":
            os.kill(first["pid"], 9)
            error = (await suite.ended(run.run_id)).result.error
            assert error.reason == pb.ERROR_REASON_WORKER_EXITED
            run = await suite.client.runs.retry(run.run_id)
        else:
            await suite.engine_process.kill()
            await until(lambda: gone(first["pid"]), "the worker ends with its engine")
            await suite.engine_process.start()
        assert (await suite.ended(run.run_id, 30)).state == run_pb2.RUN_STATE_SUCCEEDED
        events = await suite.watched(run.run_id)
        assert [event.sequence for event in events] == list(range(1, len(events) + 1))
        assert len(lines(tmp_path / "ran")) == 2
        done = [event.call_completed.key for event in events if event.HasField("call_completed")]
        assert Counter(done) == dict.fromkeys(
            [*(f"tool:tools.count_again#{n}" for n in (1, 2, 3)), "agent:writer#1"], 1
        )
        numbers = [each["arguments"]["n"] for each in suite.notes()]
        # The third may have been under way.
        assert numbers[:2] == [0, 1]
        assert set(numbers[2:]) == {2}
        assert len(numbers) <= 4


async def test_two_runs_of_one_workflow_do_not_see_each_others_state(
    opened: OpenSuite, tmp_path: Path
) -> None:
    suite = await opened_with(opened, tmp_path, ["Keeps"])
    results = await asyncio.gather(*(suite.result("keeps", str(n)) for n in range(8)))
    assert [each.output for each in results] == [f"{n}, nothing" for n in range(8)]


async def test_a_call_that_waits_for_a_person_ends_when_its_time_is_over(
    opened: OpenSuite, tmp_path: Path
) -> None:
    asks = {"tool_calls": [{"name": "ask_user", "arguments": {"question": "Well?"}}]}
    suite = await opened(
        {"rules": [{"when": {"system_contains": "asker"}, **asks}]},
        agents={"asker": {"system_prompt": "asker", "ask_user": True}},
        custom_workflows={"impatient": custom(tmp_path, "Impatient", agents=["asker"])},
    )
    run = await suite.client.runs.start("impatient", "x")
    await suite.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
    assert (await suite.ended(run.run_id)).result.output == "StepTimeoutError"
    assert not [each async for each in suite.client.inputs.list(run.run_id)]
