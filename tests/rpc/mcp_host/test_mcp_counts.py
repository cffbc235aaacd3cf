"""What is counted and logged of tool calls."""

from typing import Any

import pytest
from prometheus_client import REGISTRY
from structlog.testing import capture_logs

from retinue import errors
from retinue_mcp_host.calls import counts
from retinue_mcp_host.calls.counts import CallCounts
from retinue_mcp_host.model import ToolCall, ToolResult

from .hosting import Host


def number(name: str, **labels: str) -> float:
    """A metric as it stands."""
    return REGISTRY.get_sample_value(name, {"namespace": "default", **labels}) or 0.0


async def test_each_call_is_a_metric_and_a_line_without_what_it_says(host: Host) -> None:
    host.stdio("counted", "raw_server.py")
    with capture_logs() as lines:
        await host.call("counted", "echo", '{"text": "s3cret"}')
        with pytest.raises(errors.McpRequestRefusedError):
            await host.call("counted", "refuse", '{"text": "s3cret"}')
        with pytest.raises(errors.ComponentNotFoundError):
            await host.call("nobody", "echo", '{"text": "s3cret"}')
    total = "retinue_mcp_tool_calls_total"
    assert number(total, server="counted", outcome="ok") == 1
    assert number(total, server="counted", outcome="MCP_REQUEST_REFUSED") == 1
    assert not number(total, server="nobody", outcome="COMPONENT_NOT_FOUND")
    assert number("retinue_mcp_tool_call_seconds_count", server="counted") == 2
    assert number("retinue_mcp_tool_result_bytes_total", server="counted") == len("s3cret")
    ended: list[Any] = [line for line in lines if line["event"] == "tool call ended"]
    assert [line["log_level"] for line in ended] == ["debug", "info", "info"]
    first = ended[0]
    assert (first["server"], first["tool"], first["outcome"]) == ("counted", "echo", "ok")
    assert (first["size_bytes"], first["duration_ms"] > 0) == (6, True)
    assert first["caller"].startswith("ipv")
    assert "s3cret" not in repr(lines)


def test_no_more_servers_than_the_limit_have_numbers_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "MAX_SERVERS", 2)
    counted = CallCounts()
    for name in ("a1", "a2", "a3", "a4"):
        counted.answered(ToolCall("many", name, 0, "t", ""), ToolResult((), "", False, 0), 0.0)
    name = "retinue_mcp_tool_calls_total"
    for server, namespace in (("a1", "many"), ("a2", "many")):
        labels = {"namespace": namespace, "server": server, "outcome": "ok"}
        assert REGISTRY.get_sample_value(name, labels) == 1
    labels = {"namespace": "other", "server": "other", "outcome": "ok"}
    assert REGISTRY.get_sample_value(name, labels) == 2
