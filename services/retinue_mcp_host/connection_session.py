"""A negotiated MCP session: lists tools, calls them, and turns MCP's failures into Retinue's errors."""

import asyncio
import contextlib
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from importlib import metadata
from typing import Any, Protocol

import orjson
from mcp.client.session import ClientSession, MessageHandlerFnT
from mcp.client.subscriptions import SubscriptionLost, listen
from mcp.shared.dispatcher import Dispatcher
from mcp.shared.exceptions import MCPError
from mcp_types import (
    CONNECTION_CLOSED,
    METHOD_NOT_FOUND,
    REQUEST_TIMEOUT,
    UNSUPPORTED_PROTOCOL_VERSION,
    ClientCapabilities,
    ElicitationCapability,
    FormElicitationCapability,
    Implementation,
    RootsCapability,
    SamplingCapability,
)
from pydantic import ValidationError

from retinue.errors import (
    McpProtocolError,
    McpRequestRefusedError,
    McpServerUnavailableError,
    PayloadTooLargeError,
    RetinueError,
)
from retinue_mcp_host.connection_rpc import ANSWER_TOO_LARGE, NO_RESULT
from retinue_mcp_host.failures import SessionLostError, call_timeout, unavailable
from retinue_mcp_host.input_rounds import answer_rounds
from retinue_mcp_host.model import OnProgress, ServerSpec, Tool, ToolResult
from retinue_mcp_host.offer import Offer
from retinue_mcp_host.results import result_from_json, tool_from_json
from retinue_mcp_host.server_requests import Caller

CLIENT_INFO = Implementation(name="retinue", version=metadata.version("retinue"))
"""Who we are, for servers."""

MAX_PAGES = 100
"""Of one list of tools."""
MAX_TOOLS = 10_000
"""Of one server."""

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

    def gone(self) -> str | None:
        """Why the server can answer no more; None while it can."""

    def stderr(self, max_bytes: int) -> str:
        """The last lines of the server's stderr; empty where it has none."""


def offered_capabilities(offer: Offer) -> ClientCapabilities:
    """What servers are told that they may ask: forms for people, roots (none), sampling by config."""
    return ClientCapabilities(
        elicitation=ElicitationCapability(form=FormElicitationCapability()),
        roots=RootsCapability(),
        sampling=SamplingCapability() if offer.has_sampling else None,
    )


class OfferingSession(ClientSession):
    """The SDK's session, which would derive what is offered from callbacks that are not used here."""

    def __init__(
        self, offer: Offer, dispatcher: Dispatcher[Any], on_message: MessageHandlerFnT | None = None
    ) -> None:
        super().__init__(dispatcher=dispatcher, client_info=CLIENT_INFO, message_handler=on_message)
        self._offered = offered_capabilities(offer)

    def _build_capabilities(self, version: str) -> ClientCapabilities:
        del version
        return self._offered


async def negotiate(stack: AsyncExitStack, session: ClientSession) -> None:
    """Agree on a revision: by the handshake, or by `server/discover` where the server is too new for it.

    See ADR 0004 for the order. Raises MCPError, ValidationError, RuntimeError.
    """
    try:
        await session.initialize()
    except MCPError as refused:
        if refused.code not in (UNSUPPORTED_PROTOCOL_VERSION, METHOD_NOT_FOUND):
            raise
        try:
            await session.discover()
        except MCPError:
            raise refused from None
        await _follow_tools(stack, session)


async def _follow_tools(stack: AsyncExitStack, session: ClientSession) -> None:
    # From 2026-07-28 on a server says only to who listens that its list changed. One that lets nobody listen
    # is used all the same.
    tools = session.server_capabilities.tools if session.server_capabilities else None
    if tools is not None and tools.list_changed:
        with contextlib.suppress(MCPError, SubscriptionLost):
            await stack.enter_async_context(listen(session, tools_list_changed=True))


class Session:
    """What a connection does with its server once they have agreed."""

    def __init__(self, spec: ServerSpec, wire: Wire, offer: Offer, max_result_bytes: int) -> None:
        self._spec = spec
        self._wire = wire
        self._offer = offer
        self._max_result_bytes = max_result_bytes

    async def list_tools(self) -> dict[str, Tool]:
        """The server's tools by name, in its order. Raises RetinueError."""
        try:
            async with asyncio.timeout(self._spec.call_timeout_s):
                return await self._list_tools()
        except TimeoutError:
            raise call_timeout(self._spec, "tools/list") from None
        except (MCPError, ValidationError) as error:
            raise self.error(error) from error

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
        return McpProtocolError(f"MCP server {name} broke the protocol: {_first_line(error)}", server=name)
    if error.code == SESSION_LOST:
        return SessionLostError(f"MCP server {name} {error.message}", server=name, namespace=spec.namespace)
    gone = wire.gone()
    if gone is not None or error.code == CONNECTION_CLOSED:
        why = gone if gone is not None else f"is not connected any more: {error.message}"
        return unavailable(spec, why, wire.stderr)
    if error.code == REQUEST_TIMEOUT:
        return call_timeout(spec, "a request")
    if error.code in _OWN_CODES:
        return _OWN_CODES[error.code](f"MCP server {name}: {error.message}", server=name)
    refusal = error.message[:MAX_REFUSAL_CHARS]
    return McpRequestRefusedError(
        f"MCP server {name} refused the request: {refusal}", server=name, code=error.code
    )


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0][:200]
