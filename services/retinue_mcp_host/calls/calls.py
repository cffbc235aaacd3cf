"""Calls and lists of tools: from a server's name to its connection to the answer."""

import asyncio
import time
from collections.abc import Sequence

import orjson
import structlog

from retinue.errors import InternalError, InvalidArgumentError, RequestTooLargeError, RetinueError, Violation
from retinue_kit.tracing import enter_trace
from retinue_mcp_host.calls.access import check_access
from retinue_mcp_host.calls.counts import CallCounts
from retinue_mcp_host.calls.server_requests import Caller, ServerRequests
from retinue_mcp_host.failures import SessionLostError
from retinue_mcp_host.model import (
    NO_SCOPE,
    CallerScope,
    OnProgress,
    OnRequest,
    Tool,
    ToolCall,
    ToolResult,
)
from retinue_mcp_host.servers.routes import Routes

log = structlog.get_logger()


class ToolCalls:
    """Finds the connection that a call goes to, and makes it."""

    def __init__(
        self,
        routes: Routes,
        requests: ServerRequests,
        counts: CallCounts,
        max_arguments_bytes: int,
    ) -> None:
        self._routes = routes
        self._requests = requests
        self._counts = counts
        self._max_arguments_bytes = max_arguments_bytes

    async def call(self, call: ToolCall, on_progress: OnProgress | None, on_request: OnRequest) -> ToolResult:
        """Call a tool. Raises RetinueError. Cancelling the task cancels the request at the server.

        `on_request` is told what the server asks meanwhile; the answers come by `ServerRequests.answer`.
        """
        # Each call has a task of its own: what is logged in it is the call's.
        if call.traceparent:
            enter_trace(call.traceparent)
        if call.run_id:
            structlog.contextvars.bind_contextvars(run_id=call.run_id)
        start = time.perf_counter()
        try:
            result = await self._call(call, on_progress, on_request)
        except BaseException as error:
            self._counts.failed(call, error, start)
            raise
        self._counts.answered(call, result, start)
        return result

    async def _call(
        self, call: ToolCall, on_progress: OnProgress | None, on_request: OnRequest
    ) -> ToolResult:
        check_access(call.access, call.server, call.tool)
        arguments = self._arguments(call.arguments_json)
        server = (call.namespace, call.server, call.version, call.scope)
        connection = await self._routes.connection(*server)
        caller = Caller(call, self._requests, on_request)
        try:
            return await connection.call_tool(call.tool, arguments, caller, on_progress)
        except SessionLostError:
            connection = await self._routes.connection(*server)
            return await connection.call_tool(call.tool, arguments, caller, on_progress)

    async def list_tools(
        self, namespace: str, server: str, version: int, scope: CallerScope = NO_SCOPE
    ) -> dict[str, Tool]:
        """The tools of a server by name, in its order. Raises RetinueError."""
        connection = await self._routes.connection(namespace, server, version, scope)
        try:
            return await connection.tools()
        except SessionLostError:
            connection = await self._routes.connection(namespace, server, version, scope)
            return await connection.tools()

    async def list_servers(
        self, namespace: str, servers: Sequence[tuple[str, int]], scope: CallerScope = NO_SCOPE
    ) -> list[dict[str, Tool] | RetinueError]:
        """The tools of each server, read side by side; of one that can not be listed its error."""

        async def one(server: str, version: int) -> dict[str, Tool] | RetinueError:
            try:
                return await self.list_tools(namespace, server, version, scope)
            except RetinueError as error:
                return error
            except Exception:
                log.exception("list failed by a bug", server=server)
                return InternalError("internal error; the MCP host's log has the details")

        async with asyncio.TaskGroup() as tasks:
            listing = [tasks.create_task(one(server, version)) for server, version in servers]
        return [each.result() for each in listing]

    def close_scope(self, namespace: str, scope: str) -> None:
        """Close the connections of a session or run tree that is over."""
        self._routes.close_scope(namespace, scope)

    def _arguments(self, text: str) -> bytes:
        """The arguments as one line. Raises InvalidArgumentError, RequestTooLargeError."""
        if not text:
            return b"{}"
        data = text.encode()
        if len(data) > self._max_arguments_bytes:
            raise RequestTooLargeError(
                f"the arguments have {len(data)} bytes and the MCP host takes {self._max_arguments_bytes}: "
                "send less, or raise RETINUE_MAX_REQUEST_BYTES where it is started",
                size_bytes=len(data),
                limit_bytes=self._max_arguments_bytes,
            )
        try:
            what = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise _bad_arguments(f"is not JSON: {error}") from None
        if type(what) is not dict:
            raise _bad_arguments("is JSON but not an object")
        # Line ends can only stand between tokens here, and would end the message on a pipe.
        return data.replace(b"\n", b" ").replace(b"\r", b" ") if b"\n" in data or b"\r" in data else data


def _bad_arguments(how: str) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"arguments_json {how}: send a JSON object",
        violations=[Violation("call.arguments_json", "must be a JSON object")],
    )
