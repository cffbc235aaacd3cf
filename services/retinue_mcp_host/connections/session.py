"""A negotiated MCP session: asks, calls tools, and turns MCP's failures into Retinue's errors."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, Protocol

import orjson
import structlog
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from retinue.errors import (
    McpProtocolError,
    McpRequestRefusedError,
    McpServerUnavailableError,
    PayloadTooLargeError,
    RetinueError,
)
from retinue_kit.secrets import hide_values
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.calls.server_requests import Caller
from retinue_mcp_host.connections.input_rounds import answer_rounds
from retinue_mcp_host.connections.login_wanted import LOGIN_WANTED
from retinue_mcp_host.connections.negotiation import OfferingSession, listen_to, server_info
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.connections.output_schemas import OutputSchemas
from retinue_mcp_host.connections.results import result_from_json, tool_from_json
from retinue_mcp_host.connections.rpc import ANSWER_TOO_LARGE, NO_RESULT
from retinue_mcp_host.connections.subscriptions import Subscriptions, Watcher
from retinue_mcp_host.failures import SessionLostError, Stderr, call_timeout, login_required, unavailable
from retinue_mcp_host.model import Limits, OnProgress, ServerInfo, ServerSpec, Tool, ToolResult

log = structlog.get_logger()

MAX_PAGES = 100
"""Of one list of tools."""
MAX_TOOLS = 10_000
"""Of one server."""

UNSUBSCRIBE_S = 5.0
"""For saying that a resource is watched no more."""

SESSION_LOST = -32096
"""Our own code for a request that a server did not take because it has forgotten the session."""

MAX_REFUSAL_CHARS = 600
"""Of what a server says when it refuses; the rest is cut."""

_OWN_CODES: dict[int, type[RetinueError]] = {
    ANSWER_TOO_LARGE: PayloadTooLargeError,
    NO_RESULT: McpProtocolError,
}

IDEMPOTENCY_KEY = "retinue/idempotencyKey"
"""Where a call's idempotency key stands in its `_meta`."""


class Wire(Protocol):
    """What a transport does for a session."""

    secrets: Sequence[str]
    """Values that the server was given, and that no error repeats."""

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and return the result as it came. Raises MCPError."""

    async def call_tool(
        self,
        name: str,
        arguments_json: bytes,
        meta: Mapping[str, Any],
        on_progress: OnProgress | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call a tool, with `more` params, and return the result as it came. Raises MCPError."""

    def log_from(self, level: str) -> None:
        """Ask with each request, as revisions from 2026-07-28 on have it, for log messages of a level."""

    @property
    def gone(self) -> Callable[[], str | None]:
        """Says why the server can answer no more; None while it can."""

    @property
    def stderr(self) -> Stderr:
        """Gives the last lines of the server's stderr; empty where it has none."""


async def open_session_on(
    stack: AsyncExitStack,
    session: OfferingSession,
    spec: ServerSpec,
    wire: Wire,
    offer: Offer,
    notices: Notices,
    limits: Limits,
) -> "Session":
    """What is used once both have agreed; it ends before the connection as the stack is left."""
    tasks = await stack.enter_async_context(open_task_group())
    opened = Session(spec, wire, offer, limits.max_result_bytes, server_info(session), tasks)
    if opened.info.revision in MODERN_PROTOCOL_VERSIONS:
        subscriptions = Subscriptions(tasks, partial(listen_to, session))
    else:
        subscriptions = Subscriptions(tasks, opened.subscribe)
    opened.subscriptions = subscriptions
    notices.on_resource = subscriptions.changed
    stack.callback(opened.close)
    if opened.info.logging and notices.log is not None:
        opened.log_from(notices.log.level)
        notices.log.listen(opened.log_from)
        stack.callback(notices.log.unlisten, opened.log_from)
    return opened


class Session:
    """What a connection does with its server once they have agreed."""

    subscriptions: Subscriptions
    process_id = 0
    """Of the server; 0 where it runs elsewhere."""

    def __init__(
        self,
        spec: ServerSpec,
        wire: Wire,
        offer: Offer,
        max_result_bytes: int,
        info: ServerInfo,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self.info = info
        self._spec = spec
        self._wire = wire
        self._offer = offer
        self._max_result_bytes = max_result_bytes
        self._tasks = tasks
        self._telling: set[asyncio.Task[None]] = set()
        """What the server is told aside."""
        self._closing = False
        self._outputs = OutputSchemas(spec.name, {})

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and return the result as it came. Raises RetinueError."""
        try:
            async with asyncio.timeout(self._spec.call_timeout_s):
                return await self._wire.request(method, params)
        except TimeoutError:
            raise call_timeout(self._spec, method) from None
        except (MCPError, ValidationError) as error:
            raise self.error(error) from error

    def watch(self, uri: str) -> AbstractAsyncContextManager[Watcher]:
        """Be told of changes of a resource. Entering raises RetinueError."""
        return self._watch(uri)

    @asynccontextmanager
    async def _watch(self, uri: str) -> AsyncIterator[Watcher]:
        try:
            async with asyncio.timeout(self._spec.call_timeout_s):
                watcher = await self.subscriptions.add(uri)
        except TimeoutError:
            raise call_timeout(self._spec, "a subscription") from None
        except SubscriptionLost as lost:
            raise self._broken(str(lost)) from lost
        except (MCPError, ValidationError) as error:
            raise self.error(error) from error
        try:
            yield watcher
        finally:
            self.subscriptions.remove(watcher)

    async def subscribe(self, uri: str, stands: Callable[[], None]) -> None:
        """Be told of a resource until cancelled, as revisions before 2026-07-28 have it. Raises MCPError."""
        await self._wire.request("resources/subscribe", {"uri": uri})
        stands()
        try:
            await asyncio.Event().wait()
        finally:
            if not (self._closing or self.is_gone):
                async with asyncio.timeout(UNSUBSCRIBE_S):
                    await self._wire.request("resources/unsubscribe", {"uri": uri})

    def log_from(self, level: str) -> None:
        """Ask the server for log messages of a level and graver ones; it is told soon."""
        if self.info.revision in MODERN_PROTOCOL_VERSIONS:
            self._wire.log_from(level)
        else:
            task = self._tasks.create_task(self._set_log_level(level))
            self._telling.add(task)
            task.add_done_callback(self._telling.discard)

    async def _set_log_level(self, level: str) -> None:
        try:
            await self.request("logging/setLevel", {"level": level})
        except RetinueError as error:
            log.debug("server took no log level", server=self._spec.name, error=error.message)

    def close(self) -> None:
        """End what runs beside the calls. The server is told no more: its connection ends."""
        self._closing = True
        for task in self._telling:
            task.cancel()
        self.subscriptions.close()

    async def list_tools(self) -> dict[str, Tool]:
        """The server's tools by name, in its order. Raises RetinueError."""
        try:
            async with asyncio.timeout(self._spec.call_timeout_s):
                tools = await self._list_tools()
        except TimeoutError:
            raise call_timeout(self._spec, "tools/list") from None
        except (MCPError, ValidationError) as error:
            raise self.error(error) from error
        self._outputs = OutputSchemas(self._spec.name, tools)
        return tools

    async def _list_tools(self) -> dict[str, Tool]:
        tools: dict[str, Tool] = {}
        cursors: set[str] = set()
        cursor = ""
        for _ in range(MAX_PAGES):
            try:
                page = await self._wire.request("tools/list", {"cursor": cursor} if cursor else {})
            except MCPError as error:
                if error.code == METHOD_NOT_FOUND and not cursor:
                    return {}  # a server without tools
                raise
            items = page.get("tools")
            if not isinstance(items, list):
                raise self._broken("its list of tools is no list")
            for item in items:
                tool = tool_from_json(item)
                if tool is not None:
                    tools.setdefault(tool.name, tool)
            if len(tools) > MAX_TOOLS:
                raise self._broken(f"it lists more than {MAX_TOOLS} tools")
            cursor = page.get("nextCursor") or ""
            if not cursor:
                return tools
            if not isinstance(cursor, str) or cursor in cursors:
                raise self._broken("its list of tools goes in a circle")
            cursors.add(cursor)
        raise self._broken(f"its list of tools has more than {MAX_PAGES} pages")

    async def call_tool(
        self, name: str, arguments_json: bytes, caller: Caller, on_progress: OnProgress | None
    ) -> ToolResult:
        """Call a tool. Raises RetinueError. Cancelling the task cancels the request."""
        key = caller.call.idempotency_key
        meta = {IDEMPOTENCY_KEY: key} if key else {}
        try:
            async with asyncio.timeout(self._spec.call_timeout_s) as clock:
                self._offer.begin(caller, clock)
                try:
                    raw = await self._wire.call_tool(name, arguments_json, meta, on_progress)
                    if raw.get("resultType", "complete") != "complete":
                        again = partial(self._wire.call_tool, name, arguments_json, meta, on_progress)
                        raw = await answer_rounds(raw, self._spec.name, name, self._offer, caller, again)
                finally:
                    self._offer.end(caller)
        except TimeoutError:
            raise call_timeout(self._spec, f"tool {name}") from None
        except (MCPError, ValidationError) as error:
            raise self.error(error) from error
        self._outputs.check(name, raw)
        try:
            return result_from_json(raw, self._spec.name, self._max_result_bytes)
        except orjson.JSONEncodeError as error:
            raise self._broken(f"tool {name} sent a result that is no JSON: {error}") from None

    @property
    def is_gone(self) -> bool:
        """Whether the server can answer no more."""
        return self._wire.gone() is not None

    def gone_error(self) -> McpServerUnavailableError:
        """Why the server can answer no more."""
        return unavailable(self._spec, self._wire.gone() or "closed the connection", self._wire.stderr)

    def _broken(self, how: str) -> McpProtocolError:
        return McpProtocolError(f"MCP server {self._spec.name}: {how}", server=self._spec.name)

    def error(self, error: MCPError | ValidationError) -> RetinueError:
        """The error of a request that failed."""
        return error_from_mcp(self._spec, error, self._wire)


def error_from_mcp(spec: ServerSpec, error: Exception, wire: Wire) -> RetinueError:
    """The error of a request that failed: the one place from MCP's codes to Retinue's errors."""
    name = spec.name
    if not isinstance(error, MCPError):
        what = hide_values(_first_line(error), wire.secrets)
        return McpProtocolError(f"MCP server {name} broke the protocol: {what}", server=name)
    if error.code == LOGIN_WANTED:
        missing = error.data if isinstance(error.data, str) else ""
        return login_required(spec, hide_values(missing, wire.secrets))
    return _from_code(spec, error, wire)


def _from_code(spec: ServerSpec, error: MCPError, wire: Wire) -> RetinueError:
    name = spec.name
    said = hide_values(error.message, wire.secrets)
    if error.code == SESSION_LOST:
        return SessionLostError(f"MCP server {name} {error.message}", server=name, namespace=spec.namespace)
    gone = wire.gone()
    if gone is not None or error.code == CONNECTION_CLOSED:
        why = gone if gone is not None else f"is not connected any more: {said}"
        return unavailable(spec, why, wire.stderr)
    if error.code == REQUEST_TIMEOUT:
        return call_timeout(spec, "a request")
    if error.code in _OWN_CODES:
        return _OWN_CODES[error.code](f"MCP server {name}: {said}", server=name)
    return McpRequestRefusedError(
        f"MCP server {name} refused the request: {said[:MAX_REFUSAL_CHARS]}", server=name, code=error.code
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
