"""The logs of engine and host: which run a line belongs to, and which trace."""

from pathlib import Path
from typing import Any

from retinue.client import Access, open_client
from tests.suite import lines, open_processes, stdio_server, until

TRACE_ID = "0af7651916cd43dd8448eb211c80319c"
TRACEPARENT = f"00-{TRACE_ID}-b7ad6b7169203331-01"
SCRIPT = {
    "rules": [{"when": {"user_contains": "fail"}, "error": {"status": 400}}],
    "turns": [{"tool_calls": [{"name": "tools__count"}]}, {"text": "done"}],
}


def told(log: Path, event: str) -> list[dict[str, Any]]:
    """The lines of a log that say something."""
    return [line for line in lines(log) if line["event"] == event]


async def test_a_runs_lines_carry_its_id_and_its_callers_trace_through_both_services(tmp_path: Path) -> None:
    env = {"RETINUE_LOG_LEVEL": "debug", "RETINUE_LOG_FORMAT": "json"}
    more = {"agents": {"b": {"mcp_servers": ["tools"]}}, "mcp_servers": {"tools": stdio_server(tmp_path)}}
    async with open_processes(tmp_path, SCRIPT, env=env, **more) as suite:
        access = Access(trace=lambda: TRACEPARENT)
        async with open_client(suite.engine, access=access) as client:
            run = await client.runs.start("b", "hi", session_id="s")
            behind = await suite.client.runs.start("b", "fail", session_id="s")
        await suite.ended(run.run_id)
        await suite.ended(behind.run_id)
        engine, host = suite.engine_process.log, suite.host_process.log
        await until(lambda: len(told(engine, "run ended")) == 2, "both runs are told of")
    ended = {line["run_id"]: line for line in told(engine, "run ended")}
    first, second = ended[run.run_id], ended[behind.run_id]
    assert (first["state"], first["level"], first["trace_id"]) == ("RUN_STATE_SUCCEEDED", "debug", TRACE_ID)
    # The run behind it is of another caller, whoever let it begin.
    assert (second["state"], second["level"]) == ("RUN_STATE_FAILED", "info")
    assert second["reason"] == "LLM_INVALID_REQUEST"
    assert "trace_id" not in second
    (call,) = told(host, "tool call ended")
    assert (call["run_id"], call["trace_id"], call["tool"]) == (run.run_id, TRACE_ID, "count")
