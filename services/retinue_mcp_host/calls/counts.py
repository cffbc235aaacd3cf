"""What tool calls come to: a metric and a line in the log for each; never arguments, results or secrets."""

import time
from typing import NamedTuple

import structlog
from prometheus_client import Counter, Histogram

from retinue.errors import ComponentNotFoundError, RetinueError, reason_name
from retinue_mcp_host.model import ToolCall, ToolResult

log = structlog.get_logger()

CALLS = Counter(
    "retinue_mcp_tool_calls_total",
    "Tool calls that have ended; outcome is ok, tool_error or the reason of the error.",
    ["namespace", "server", "outcome"],
)
CALL_SECONDS = Histogram(
    "retinue_mcp_tool_call_seconds",
    "How long tool calls took, with waiting for a connection and a turn.",
    ["namespace", "server"],
    buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300),
)
RESULT_BYTES = Counter(
    "retinue_mcp_tool_result_bytes_total", "Bytes of tool results, as passed on.", ["namespace", "server"]
)

MAX_SERVERS = 1000
"""That have numbers of their own; what is beyond is counted as OTHER."""
OTHER = "other"
UNKNOWN = ""
"""Where the registry has no such server: callers could name any number of them."""

OK, TOOL_ERROR, CANCELLED = "ok", "tool_error", "CANCELLED"


class _Server(NamedTuple):
    labels: tuple[str, str]
    seconds: Histogram
    bytes: Counter
    outcomes: dict[str, Counter]


class CallCounts:
    """The counts of one host. Tools are no label: a server may list any number of them."""

    def __init__(self) -> None:
        self._servers: dict[tuple[str, str], _Server] = {}

    def answered(self, call: ToolCall, result: ToolResult, start: float) -> None:
        """Count a call that has its answer; `start` is of time.perf_counter."""
        self._count(call, TOOL_ERROR if result.is_error else OK, start, result.size_bytes)

    def failed(self, call: ToolCall, error: BaseException, start: float) -> None:
        """Count a call that has none."""
        if isinstance(error, RetinueError):
            known = not isinstance(error, ComponentNotFoundError)
            self._count(call, reason_name(error.reason), start, 0, known=known)
        elif isinstance(error, Exception):
            self._count(call, "INTERNAL", start, 0)
        else:
            self._count(call, CANCELLED, start, 0)

    def _count(self, call: ToolCall, outcome: str, start: float, size: int, *, known: bool = True) -> None:
        seconds = time.perf_counter() - start
        server = self._server(call.namespace, call.server) if known else self._server(UNKNOWN, UNKNOWN)
        counter = server.outcomes.get(outcome)
        if counter is None:
            counter = server.outcomes[outcome] = CALLS.labels(*server.labels, outcome)
        counter.inc()
        server.seconds.observe(seconds)
        if size:
            server.bytes.inc(size)
        # Only what went wrong is worth a line where calls are many; the run is in the log's context.
        tell = log.debug if outcome in (OK, TOOL_ERROR, CANCELLED) else log.info
        tell(
            "tool call ended",
            caller=call.caller or None,
            root_run_id=call.scope.root_run_id or None,
            session_id=call.scope.session_id or None,
            namespace=call.namespace,
            server=call.server,
            tool=call.tool,
            outcome=outcome,
            duration_ms=round(seconds * 1000, 3),
            size_bytes=size,
        )

    def _server(self, namespace: str, server: str) -> _Server:
        found = self._servers.get((namespace, server))
        if found is None:
            key = (namespace, server)
            if len(self._servers) >= MAX_SERVERS:
                key = (OTHER, OTHER)
            found = self._servers.get(key)
        if found is None:
            found = _Server(key, CALL_SECONDS.labels(*key), RESULT_BYTES.labels(*key), {})
            self._servers[key] = found
        return found
