"""Kill -9 at a chosen instruction: the run goes on from its last finished piece of work."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from retinue.common.v1 import error_pb2 as pb
from retinue.engine.v1 import event_pb2, run_pb2
from tests.chaos.engines import standing_still
from tests.suite import SOON_S, Processes, check_story, kinds, open_processes, stdio_server, until

pytestmark = pytest.mark.xdist_group("chaos")


def with_tool(folder: Path, name: str, **agent: Any) -> dict[str, Any]:
    """A script that calls a tool and then tells its result, and the project that goes with it."""
    return {
        "script": {"turns": [{"tool_calls": [{"name": f"tools__{name}"}]}, {"text": "it said {last_tool}"}]},
        "agents": {"b": {"mcp_servers": ["tools"], **agent}},
        "mcp_servers": {"tools": stdio_server(folder)},
    }


async def watched_over_the_kill(suite: Processes, run_id: str) -> list[event_pb2.RunEvent]:
    events = await suite.watched(run_id)
    check_story(events)
    assert await suite.watched(run_id) == events
    return events


async def test_a_repeatable_call_in_flight_is_made_again_with_its_key(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **with_tool(tmp_path, "hold_again")) as suite:
        run = await suite.client.runs.start("b", "hi")
        watching = asyncio.create_task(suite.watched(run.run_id))
        await until(suite.notes, "the tool is called")
        await suite.engine_process.kill()
        (tmp_path / "release").touch()
        await suite.engine_process.start()
        events = await watching
        check_story(events)
        assert await suite.watched(run.run_id) == events
        result = events[-1].run_finished.result
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED
        started = [event for event in events if event.WhichOneof("event") == "tool_call_started"]
        assert len(started) == 1
        assert {each["key"] for each in suite.notes()} == {started[0].tool_call_started.idempotency_key}
        assert len(suite.notes()) == 2
        assert "run_claimed" in kinds(events)
        assert result.output == "it said released"
        # The model was asked once for each turn.
        assert len(suite.model.requests) == 2


async def test_a_call_in_flight_that_may_not_be_repeated_waits_for_a_word(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **with_tool(tmp_path, "hold")) as suite:
        run = await suite.client.runs.start("b", "hi", session_id="s")
        await until(suite.notes, "the tool is called")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        (request,) = await suite.asked(run.run_id)
        assert request.approval.interrupted
        behind = await suite.client.runs.start("a", "behind", session_id="s")
        assert behind.state == run_pb2.RUN_STATE_QUEUED
        assert len(suite.notes()) == 1
        await suite.client.inputs.deny(request)
        events = await watched_over_the_kill(suite, run.run_id)
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert len(suite.notes()) == 1
        # The session is free again.
        await suite.ended(behind.run_id)


async def test_a_call_in_flight_fails_the_run_where_its_policy_says_so(tmp_path: Path) -> None:
    policies = [{"interrupted": "fail"}]
    async with open_processes(tmp_path, **with_tool(tmp_path, "hold", tool_policies=policies)) as suite:
        run = await suite.client.runs.start("b", "hi", session_id="s")
        await until(suite.notes, "the tool is called")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        events = await watched_over_the_kill(suite, run.run_id)
        error = events[-1].run_finished.result.error
        assert error.reason == pb.ERROR_REASON_TOOL_CALL_INTERRUPTED
        assert error.metadata == {"server": "tools", "tool": "hold"}
        assert len(suite.notes()) == 1
        assert len(suite.model.requests) == 1
        assert await suite.messages("s") == []
        # The session is free.
        assert (await suite.result("a", "hi", session_id="s")).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_an_answer_that_was_cut_off_is_discarded_and_asked_for_again(tmp_path: Path) -> None:
    chunks = [f"word{n} " for n in range(60)]
    async with open_processes(tmp_path, {"default": {"chunks": chunks, "chunk_delay_ms": 20}}) as suite:
        run = await suite.client.runs.start("a", "hi", session_id="s")
        seen: list[event_pb2.RunEvent] = []
        reached = asyncio.Event()

        async def watch() -> None:
            async for event in suite.client.runs.watch(run.run_id):
                seen.append(event)
                if sum(each.WhichOneof("event") == "text_delta" for each in seen) == 5:
                    reached.set()

        watching = asyncio.create_task(watch())
        await asyncio.wait_for(reached.wait(), 10)
        await suite.engine_process.kill()
        await suite.engine_process.start()
        await watching
        check_story(seen)
        assert kinds(seen) == [
            "run_started",
            "turn_started",
            "text_delta",
            "run_claimed",
            "message_discarded",
            "turn_started",
            "text_delta",
            "message_completed",
            "run_finished",
        ]
        discarded = next(event.message_discarded for event in seen if event.HasField("message_discarded"))
        assert discarded.from_sequence == 2
        result = seen[-1].run_finished.result
        assert (result.output, result.turns) == ("".join(chunks), 1)
        assert len(suite.model.requests) == 2
        await until(lambda: len(suite.model.broken) == 1, "the first request is given up")


async def test_a_session_goes_on_over_a_restart(tmp_path: Path) -> None:
    async with open_processes(tmp_path, {"default": {"text": "answer {turn}"}}) as suite:
        await suite.story(message="one", session_id="s")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        await suite.story(message="two", session_id="s")
        assert [each["content"] for each in await suite.messages("s")] == [
            "one",
            "answer 1",
            "two",
            "answer 2",
        ]
        assert len(suite.model.requests[-1]["messages"]) == 3


async def test_queued_and_cancelled_runs_are_taken_up_after_a_kill(tmp_path: Path) -> None:
    script = {
        "rules": [{"when": {"user_contains": "hang"}, "times": 1, "hang": True}],
        "default": {"text": "ok"},
    }
    async with open_processes(tmp_path, script) as suite:
        first = await suite.client.runs.start("a", "hang", session_id="s")
        queued = [await suite.client.runs.start("a", f"q{n}", session_id="s") for n in range(3)]
        await until(lambda: suite.model.requests, "the first is asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        for run in (first, *queued):
            events = await watched_over_the_kill(suite, run.run_id)
            assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert [each["content"] for each in await suite.messages("s")] == [
            "hang",
            "ok",
            *(text for n in range(3) for text in (f"q{n}", "ok")),
        ]


async def test_more_runs_than_one_look_finds_are_all_taken_up(tmp_path: Path) -> None:
    script: dict[str, Any] = {"rules": [{"when": {}, "times": 130, "hang": True}]}
    # None ends before the last is looked for.
    script["default"] = {"text": "ok", "delay_ms": 1500}
    async with open_processes(tmp_path, script) as suite:
        runs = await asyncio.gather(*(suite.client.runs.start("a", "hi") for _ in range(130)))
        await until(lambda: len(suite.model.requests) == 130, "all are asked")
        await suite.engine_process.kill()
        await suite.engine_process.start()
        for run in runs:
            assert (await suite.ended(run.run_id)).state == run_pb2.RUN_STATE_SUCCEEDED


async def test_runs_wait_for_a_host_that_starts_after_the_engine(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **with_tool(tmp_path, "hold_again")) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(suite.notes, "the tool is called")
        await asyncio.gather(suite.engine_process.kill(), suite.host_process.kill())
        (tmp_path / "release").touch()
        await suite.engine_process.start()
        async with asyncio.timeout(SOON_S):
            async for event in suite.client.runs.watch(run.run_id):
                if event.HasField("run_claimed"):
                    break
        await suite.host_process.start()
        events = await watched_over_the_kill(suite, run.run_id)
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert len({each["key"] for each in suite.notes()}) == 1


async def test_a_host_that_dies_in_a_call_is_told_and_the_run_goes_on(tmp_path: Path) -> None:
    async with open_processes(tmp_path, **with_tool(tmp_path, "hold")) as suite:
        run = await suite.client.runs.start("b", "hi")
        await until(suite.notes, "the tool is called")
        await suite.host_process.kill()
        await suite.host_process.start()
        events = await watched_over_the_kill(suite, run.run_id)
        assert events[-1].run_finished.result.state == run_pb2.RUN_STATE_SUCCEEDED
        assert "MCP host broke off" in events[-1].run_finished.result.output
        assert len(suite.notes()) == 1
        (tmp_path / "release").touch()
        assert (await suite.result("b", "again")).output == "it said released"


async def test_a_stop_by_signal_lets_runs_go_and_the_next_engine_takes_them_up(tmp_path: Path) -> None:
    chunks = [f"w{n} " for n in range(40)]
    async with open_processes(tmp_path, {"default": {"chunks": chunks, "chunk_delay_ms": 20}}) as suite:
        runs = await asyncio.gather(*(suite.client.runs.start("a", "hi") for _ in range(20)))
        watching = [asyncio.create_task(suite.watched(run.run_id)) for run in runs]
        await until(lambda: len(suite.model.requests) == 20, "all are asked")
        assert await suite.engine_process.kill(15) == 0
        await suite.engine_process.start()
        for events in await asyncio.gather(*watching):
            check_story(events)
            assert events[-1].run_finished.result.output == "".join(chunks)
        log = suite.engine_process.log.read_text()
        assert "Traceback" not in log, log
        assert "exception" not in log.lower(), log


async def test_an_engine_that_stood_still_goes_on_as_if_nothing_had_been(tmp_path: Path) -> None:
    chunks = [f"w{n} " for n in range(40)]
    script = {"default": {"chunks": chunks, "chunk_delay_ms": 10}}
    async with open_processes(tmp_path, script, env={"RETINUE_LEASE_S": "0.3"}) as suite:
        runs = await asyncio.gather(*(suite.client.runs.start("a", "hi") for _ in range(10)))
        watching = [asyncio.create_task(suite.watched(run.run_id)) for run in runs]
        await until(lambda: len(suite.model.requests) == 10, "all are asked")
        async with standing_still(suite.engine_process):
            # What the model said meanwhile waits to be read.
            await until(lambda: len(suite.model.answered) == 10, "the model has told everything")
        for events in await asyncio.gather(*watching):
            check_story(events)
            assert events[-1].run_finished.result.output == "".join(chunks)
            assert "run_claimed" not in kinds(events)
        assert len(suite.model.requests) == 10
