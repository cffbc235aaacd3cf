"""Steps that remember, in an engine that is killed: what they are told, and what is kept of it, once each."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from pathlib import Path

import pytest

from retinue.engine.v1 import run_pb2
from tests.chaos.callers import Callers
from tests.chaos.engines import database
from tests.chaos.test_chaos import SEED
from tests.chaos.test_tree import follow_and_kill
from tests.chaos.test_workflow import SCRIPT
from tests.suite import Processes, open_processes, stdio_server

pytestmark = pytest.mark.xdist_group("chaos")

STEPS = [{"name": "find", "agent": "finder"}, {"name": "write", "agent": "writer"}]
LEASE_S = 1.0


@asynccontextmanager
async def _opened(folder: Path, store: str) -> AsyncIterator[Processes]:
    given = database(folder / "mongodb") if store == "mongodb" else nullcontext((None, ""))
    with given as (_, uri):
        env = {"RETINUE_STORE": uri} if uri else {}
        async with open_processes(
            folder,
            SCRIPT,
            env={**env, "RETINUE_LEASE_S": str(LEASE_S)},
            agents={"finder": {"system_prompt": "finder", "mcp_servers": ["tools"]}, "writer": {}},
            mcp_servers={"tools": stdio_server(folder)},
            linear_workflows={"flow": {"steps": STEPS}},
        ) as suite:
            yield suite


@pytest.mark.parametrize("store", ["sqlite", "mongodb"])
async def test_steps_that_are_killed_remember_each_run_once(tmp_path: Path, store: str) -> None:
    # Each kill on a shared store costs a lease.
    at = ("tool_call_completed", "child_run_finished") if store == "mongodb" else ()
    async with _opened(tmp_path, store) as suite:
        await suite.result("flow", "one", session_id="s")
        asked = len(suite.model.requests)
        run = await suite.client.runs.start("flow", "two", session_id="s")
        story, kills = await follow_and_kill(suite, Callers([suite.client], SEED), run.run_id, at)
        assert kills
        result = story[-1].run_finished.result
        assert result.state == run_pb2.RUN_STATE_SUCCEEDED, result.error
        known = {
            "finder": ["one", None, "ok", "looked", "two"],
            None: ["looked", "written: looked", "looked"],
        }
        for request in suite.model.requests[asked:]:
            said = [each["content"] for each in request["messages"]]
            agent = said.pop(0) if request["messages"][0]["role"] == "system" else None
            # Asked again after a kill, it is told the same; then comes what it has done itself.
            assert said[: len(known[agent])] == known[agent]
        assert [each["content"] for each in await suite.messages("s:find")] == [
            *("one", None, "ok", "looked"),
            *("two", None, "ok", "looked"),
        ]
        assert [each["content"] for each in await suite.messages("s:write")] == [
            "looked",
            "written: looked",
        ] * 2
        for step, turns in (("find", 4), ("write", 2)):
            session = await suite.client.sessions.get(f"s:{step}")
            assert (session.totals.runs, session.totals.turns) == (2, turns)
            assert session.message_count == 2 * turns
