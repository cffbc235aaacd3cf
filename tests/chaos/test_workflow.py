"""A workflow whose engine is killed at one of its events after another ends, with each step done once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from retinue.engine.v1 import run_pb2
from tests.chaos.callers import Callers
from tests.chaos.test_chaos import SEED
from tests.chaos.test_tree import follow_and_kill
from tests.suite import open_processes, stdio_server

pytestmark = pytest.mark.xdist_group("chaos")

SCRIPT: dict[str, Any] = {
    "rules": [
        {"when": {"last_role": "tool"}, "text": "looked", "delay_ms": 20},
        {
            "when": {"system_contains": "finder"},
            "tool_calls": [{"name": "tools__look", "arguments": {"ms": 20}, "id": "l"}],
        },
    ],
    "default": {"text": "written: {last_user}", "chunk_size": 4, "chunk_delay_ms": 20},
}


def tool(name: str, **arguments: Any) -> dict[str, Any]:
    return {"server": "tools", "tool": name, "arguments": {"ms": 20, **arguments}}


FLOW = {
    "steps": [
        {"name": "count", "tool": tool("count_again", n=1)},
        {"name": "find", "agent": "finder", "input": "{{ input }}"},
        {"name": "left_out", "agent": "finder", "condition": "steps.find.output == 'nothing'"},
        {"name": "inner", "linear_workflow": "inner"},
        {"name": "broken", "tool": tool("fail"), "on_error": "fallback", "fallback": {"agent": "writer"}},
    ]
}
INNER = {
    "steps": [
        {"name": "again", "tool": tool("count_again", n=2)},
        {"name": "write", "agent": "writer", "input": "{{ input }}"},
    ]
}


async def test_a_workflow_that_is_killed_at_one_event_after_another_does_each_step_once(
    tmp_path: Path,
) -> None:
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents={"finder": {"system_prompt": "finder", "mcp_servers": ["tools"]}, "writer": {}},
        mcp_servers={"tools": stdio_server(tmp_path)},
        linear_workflows={"flow": FLOW, "inner": INNER},
    ) as suite:
        run = await suite.client.runs.start("flow", "gold")
        story, kills = await follow_and_kill(suite, Callers([suite.client], SEED), run.run_id)
        assert kills
        assert [event.sequence for event in story] == list(range(1, len(story) + 1))
        result = story[-1].run_finished.result
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
        done = [
            (event.run_id, event.step_completed.step) for event in story if event.HasField("step_completed")
        ]
        assert [step for _, step in done] == ["count", "find", "again", "write", "inner", "broken"]
        assert len(set(done)) == len(done)
        outputs = [
            json.loads(each.step_completed.output_json) for each in story if each.HasField("step_completed")
        ]
        assert outputs[1:5] == ["looked", "ok", "written: looked", "written: looked"]
        assert result.output == "written: written: looked"
        # A call that was under way is made again with its key; one that had ended never is.
        keys = Counter(each["key"] for each in suite.notes() if each["tool"] == "count_again")
        assert set(keys) == {
            event.tool_call_started.idempotency_key
            for event in story
            if event.HasField("tool_call_started") and event.tool_call_started.tool == "count_again"
        }
        assert len(keys) == 2
        ended = [
            event.tool_call_completed.call_id for event in story if event.HasField("tool_call_completed")
        ]
        places = [event.run_id for event in story if event.HasField("tool_call_completed")]
        assert len(set(zip(places, ended, strict=True))) == len(ended)
        # The tool that fails may have been under way, and is not repeatable: its step fails all the same.
        assert len(ended) in {3, 4}
        # Each run of an agent has one answer for each of its turns.
        answers = Counter((each.run_id, each.path) for each in story if each.HasField("message_completed"))
        assert set(answers.values()) == {1}


COUNT = {
    "items": "[1, 2]",
    "tool": tool("count_again", n="{{ item }}"),
    "concurrency": 2,
}
FORK = {
    "nodes": [
        {"name": "plan", "transform": {"expression": "'plan'"}, "set": {"seen": "['plan']"}},
        {"name": "all", "each": COUNT, "set": {"seen": "state.seen + ['all']"}},
        {"name": "write", "agent": "writer", "set": {"seen": "state.seen + ['write']"}},
        {"name": "keep", "memory_write": {"text": "bees {{ input }}"}, "join": {"mode": "all"}},
        {"name": "find", "memory_read": {"query": "bees"}, "output": "size(result.structured)"},
    ],
    "edges": [
        {"source": "plan", "target": "all"},
        {"source": "plan", "target": "write", "when": "'plan' in state.seen"},
        {"source": "all", "target": "keep"},
        {"source": "write", "target": "keep"},
        {"source": "keep", "target": "find"},
    ],
    "on_conflict": "last",
    "output": "[string(steps.find.output), string(size(state.seen))]",
}


async def test_a_fork_that_is_killed_at_one_event_after_another_tells_each_branch_once(
    tmp_path: Path,
) -> None:
    async with open_processes(
        tmp_path,
        SCRIPT,
        agents={"writer": {}},
        mcp_servers={"tools": stdio_server(tmp_path)},
        graph_workflows={"fork": FORK},
    ) as suite:
        run = await suite.client.runs.start("fork", "gold")
        story, kills = await follow_and_kill(suite, Callers([suite.client], SEED), run.run_id)
        assert kills
        result = story[-1].run_finished.result
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
        assert json.loads(result.output)[0] == "1"
        assert [each.text async for each in suite.client.memories.list()] == ["bees gold"]
        told = [
            (which, getattr(event, which).step, getattr(event, which).branch)
            for event in story
            if (which := event.WhichOneof("event") or "").startswith("branch_")
        ]
        assert sorted(told) == [
            ("branch_joined", "all", "item:1"),
            ("branch_joined", "all", "item:2"),
            ("branch_joined", "keep", "all"),
            ("branch_joined", "keep", "write"),
            ("branch_opened", "all", "item:1"),
            ("branch_opened", "all", "item:2"),
            ("branch_opened", "plan", "all"),
            ("branch_opened", "plan", "write"),
        ]
        assert sum(event.HasField("memory_written") for event in story) == 1
        done = [event.step_completed.step for event in story if event.HasField("step_completed")]
        assert sorted(done) == ["all", "find", "keep", "plan", "write"]
