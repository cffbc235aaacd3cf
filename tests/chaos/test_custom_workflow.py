"""A custom workflow whose engine is killed at one event after another ends, with each call made once."""

import json
from collections import Counter
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from tests.chaos.callers import Callers
from tests.chaos.engines import open_engines
from tests.chaos.test_chaos import SEED
from tests.chaos.test_tree import follow_and_kill
from tests.chaos.test_workflow import SCRIPT
from tests.rpc.engine.test_custom_workflows import custom, gone
from tests.suite import lines, open_processes, stdio_server, until

pytestmark = pytest.mark.xdist_group("chaos")


async def test_a_custom_workflow_that_is_killed_at_one_event_after_another_makes_each_call_once(
    tmp_path: Path,
) -> None:
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents={"finder": {"system_prompt": "finder", "mcp_servers": ["tools"]}, "writer": {}},
        mcp_servers={"tools": stdio_server(tmp_path)},
        linear_workflows={"line": {"steps": [{"name": "inner", "custom_workflow": "inner"}]}},
        custom_workflows={
            "outer": custom(tmp_path, "Outer", linear_workflows=["line"], mcp_servers=["tools"]),
            "inner": custom(tmp_path, "CountsOnce", mcp_servers=["tools"]),
        },
    ) as suite:
        run = await suite.client.runs.start("outer", "gold")
        story, kills = await follow_and_kill(suite, Callers([suite.client], SEED), run.run_id)
        assert kills
        assert [event.sequence for event in story] == list(range(1, len(story) + 1))
        result = story[-1].run_finished.result
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
        done = Counter(
            (event.run_id, event.call_completed.key) for event in story if event.HasField("call_completed")
        )
        assert set(done.values()) == {1}
        assert len(done) == 4
        assert json.loads(result.structured_json)["found"] == "looked"
        # A call that was under way is made again with its key; one that had ended never is.
        keys = {each["key"] for each in suite.notes() if each["tool"] == "count_again"}
        started = [event.tool_call_started for event in story if event.HasField("tool_call_started")]
        assert keys == {each.idempotency_key for each in started if each.tool == "count_again"}
        assert len(keys) == 2
        answers = Counter((each.run_id, each.path) for each in story if each.HasField("message_completed"))
        assert set(answers.values()) == {1}
        # No worker outlives its engine.
        for each in lines(tmp_path / "ran"):
            await until(lambda pid=each["pid"]: gone(pid), f"{each['pid']} is gone")


async def test_the_other_engine_goes_on_with_a_custom_workflow_and_with_its_answer(tmp_path: Path) -> None:
    async with open_engines(
        tmp_path,
        SCRIPT,
        mcp_servers={"tools": stdio_server(tmp_path)},
        custom_workflows={"counts": custom(tmp_path, "CountsAndAsks", agents=[], mcp_servers=["tools"])},
    ) as engines:
        first, second = engines.suites
        run = await first.client.runs.start("counts", "x")
        await until(lambda: len(lines(tmp_path / "between")) == 1, "the first call is done", 30)
        await engines.processes[0].kill()
        (asked,) = await second.asked(run.run_id)
        await second.reaches(run.run_id, run_pb2.RUN_STATE_WAITING)
        await engines.processes[0].start()
        await second.client.inputs.provide(asked, 5)
        ended = await second.ended(run.run_id, 30)
        assert (ended.state, ended.result.output) == (run_pb2.RUN_STATE_SUCCEEDED, "5"), ended.result
        story = await second.watched(run.run_id)
        assert [event.sequence for event in story] == list(range(1, len(story) + 1))
        done = Counter(event.call_completed.key for event in story if event.HasField("call_completed"))
        assert done == {"tool:tools.count_again#1": 1, "tool:tools.count_again#2": 1, "input#1": 1}
