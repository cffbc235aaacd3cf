"""A session with a server elsewhere that speaks streamable HTTP."""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.abc
import httpx2
import orjson
from mcp.client.session import ClientSession, IncomingMessage
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import DispatchContext, OnNotify, OnNotifyIntercept, OnRequest
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    CallToolRequest,
    PaginatedRequestParams,
    ToolListChangedNotification,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import TypeAdapter, ValidationError

from retinue.errors import ComponentInvalidError
from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connection_session import (
    SESSION_LOST,
    OfferingSession,
    Session,
    error_from_mcp,
    negotiate,
)
from retinue_mcp_host.failures import connect_timeout
from retinue_mcp_host.model import HttpTransport, Limits, OnProgress, Progress, ServerSpec
from retinue_mcp_host.offer import Offer, current_caller
from retinue_mcp_host.server_requests import Outcome, RefusedError

HTTP_CONNECT_S = 10.0
"""For one TCP and TLS connection; the whole of a request is bounded by the call's own timeout."""
HTTP_WRITE_S = 30.0

_NOT_TAKEN = frozenset({INVALID_REQUEST, METHOD_NOT_FOUND, -32001})
"""Codes that come with a 404 for a session that the server has forgotten, as SDKs put it."""
_ERROR_STATUS = "Server returned an error response"
"""The SDK's words for any other status."""
_NOT_THERE = frozenset({502, 503, 504})
"""What a proxy answers for a server that is not there."""
_ANY_RESULT: TypeAdapter[Any] = TypeAdapter(dict[str, Any])


async def open_http(
    stack: AsyncExitStack,
    spec: ServerSpec,
    transport: HttpTransport,
    limits: Limits,
    *,
    on_tools_changed: Callable[[], None],
    on_gone: Callable[[], None],
) -> Session:
    """Reach a server and agree with it. A server that can not be reached fails the stack as it is left.

    Raises McpTimeoutError, McpProtocolError, McpRequestRefusedError, SecretNotFoundError.
    """
    headers = {name: _header(spec, name, value) for name, value in transport.headers.items()}
    offer = Offer(spec, limits.max_result_bytes)
    wire = HttpWire(on_gone)
    # The environment's proxies and netrc are not config; a redirect could lead past the allowed hosts.
    client = httpx2.AsyncClient(
        transport=_WatchedTransport(wire),
        headers=headers,
        timeout=httpx2.Timeout(connect=HTTP_CONNECT_S, write=HTTP_WRITE_S, read=None, pool=None),
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [wire.note_status]},
    )

    async def on_message(message: IncomingMessage) -> None:
        if isinstance(message, ToolListChangedNotification):
            on_tools_changed()

    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            await stack.enter_async_context(client)
            read, write = await stack.enter_async_context(
                streamable_http_client(
                    transport.url, http_client=client, max_sse_event_size=limits.max_server_message_bytes
                )
            )
            dispatcher = _OfferingDispatcher(read, write)
            dispatcher.offer = offer
            session = await stack.enter_async_context(OfferingSession(offer, dispatcher, on_message))
            wire.speak(session, dispatcher)
            await negotiate(stack, session)
    except TimeoutError:
        raise connect_timeout(spec) from None
    except (MCPError, ValidationError, RuntimeError) as error:
        known = wire.explained(error) if isinstance(error, MCPError) else error
        raise error_from_mcp(spec, known, wire) from error
    return Session(spec, wire, offer, limits.max_result_bytes)


def _call_request(params: dict[str, Any]) -> CallToolRequest:
    """A call as the SDK's session takes it. Raises MCPError for answers that are not as MCP has them."""
    try:
        return CallToolRequest.model_validate({"params": params}, by_name=False)
    except ValidationError as error:
        what = f"an answer to what the server asked is out of shape: {error.errors()[0]['msg']}"
        raise MCPError(INVALID_PARAMS, what) from None


def _header(spec: ServerSpec, name: str, value: str) -> str:
    field = f"streamable_http.headers.{name}"
    resolved = resolve_secret(value, field=field).strip()
    if not (resolved.isascii() and resolved.isprintable()):
        # Said here, without the value: HTTP's own error would show it.
        raise ComponentInvalidError(
            f"{field} of MCP server {spec.name} has characters that no HTTP header can carry",
            kind="mcp_server",
            name=spec.name,
        )
    return resolved


class _OfferingDispatcher(JSONRPCDispatcher[TransportContext]):
    """Lets the offer answer what a server asks, instead of the session's callbacks: they know no call."""

    offer: Offer

    async def run(
        self,
        on_request: OnRequest,  # noqa: ARG002 - the offer answers
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read what comes, until the connection ends."""
        await super().run(self._answer, on_notify, on_notify_intercept, task_status=task_status)

    async def _answer(
        self,
        context: DispatchContext[TransportContext],  # noqa: ARG002 - the SDK's signature
        method: str,
        params: Mapping[str, Any] | None,
    ) -> Outcome:
        try:
            # What comes on the stream of a POST is read in the context of the call that sent it.
            return await self.offer.ask(method, params, current_caller())
        except RefusedError as refused:
            raise MCPError(refused.code, refused.message) from None


class _WatchedTransport(httpx2.AsyncHTTPTransport):
    """Notes why a server could not be reached: the SDK ends the connection and says why to no caller."""

    def __init__(self, wire: "HttpWire") -> None:
        super().__init__(
            trust_env=False, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32)
        )
        self._wire = wire

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the beginning of its answer."""
        try:
            return await super().handle_async_request(request)
        except httpx2.TransportError as error:
            if request.method == "POST":
                self._wire.note_failure(error)
            raise


class HttpWire:
    """Requests over streamable HTTP."""

    def __init__(self, on_gone: Callable[[], None]) -> None:
        self._on_gone = on_gone
        self._session: ClientSession | None = None
        self._dispatcher: JSONRPCDispatcher[TransportContext] | None = None
        self._gone: str | None = None
        self._failed_status = 0
        self._session_lost = False

    def speak(self, session: ClientSession, dispatcher: JSONRPCDispatcher[TransportContext]) -> None:
        """Use a session, and the dispatcher below it."""
        self._session, self._dispatcher = session, dispatcher

    async def note_status(self, response: httpx2.Response) -> None:
        """Remember what the SDK does not say: the status of a request that failed."""
        if response.status_code < 400 or response.request.method != "POST":  # noqa: PLR2004 - the first of HTTP's failures
            return
        self._failed_status = response.status_code
        if response.status_code == 404 and "mcp-session-id" in response.request.headers:  # noqa: PLR2004 - not found
            self._session_lost = True
            self._gone = "has forgotten the session: it was started anew"

    def note_failure(self, error: httpx2.TransportError) -> None:
        """Remember why the server could not be reached; the SDK ends the connection by itself."""
        self._gone = f"cannot be reached: {type(error).__name__}: {error}"
        self._on_gone()

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and return the result as it came. Raises MCPError."""
        assert self._session is not None and self._dispatcher is not None  # noqa: S101, PT018 - spoken before
        try:
            if self._session.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                return await self._dispatcher.send_raw_request(method, params)
            # From 2026-07-28 on the session must see the list: arguments may travel as headers by it.
            page = await self._session.list_tools(params=PaginatedRequestParams(cursor=params.get("cursor")))
            return page.model_dump(by_alias=True, mode="json", exclude_none=True)
        except MCPError as error:
            raise self.explained(error) from None

    async def call_tool(
        self,
        name: str,
        arguments_json: bytes,
        meta: Mapping[str, Any],
        on_progress: OnProgress | None,
        more: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call a tool and return the result as it came. Raises MCPError."""
        assert self._session is not None and self._dispatcher is not None  # noqa: S101, PT018 - spoken before
        params = {
            "name": name,
            "arguments": orjson.loads(arguments_json),
            "_meta": dict(meta),
            **(more or {}),
        }

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            if on_progress is not None:
                on_progress(Progress(progress, total, message or ""))

        try:
            if self._session.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                return await self._dispatcher.send_raw_request("tools/call", params, {"on_progress": tell})
            request = _call_request(params)
            result: dict[str, Any] = await self._session.send_request(
                request, _ANY_RESULT, progress_callback=tell
            )
            return result  # noqa: TRY300 - as the other return
        except MCPError as error:
            raise self.explained(error) from None

    def explained(self, error: MCPError) -> MCPError:
        """The error with what the SDK leaves out: the HTTP status, and whether the session is over."""
        if self._session_lost and error.code in _NOT_TAKEN:
            # Only now: the owner's leaving would take the place of this answer.
            self._on_gone()
            return MCPError(SESSION_LOST, self._gone or "")
        if error.message == _ERROR_STATUS and self._failed_status:
            code = CONNECTION_CLOSED if self._failed_status in _NOT_THERE else error.code
            return MCPError(code, f"HTTP status {self._failed_status}")
        return error

    def gone(self) -> str | None:
        """Why the server can not answer; None while it can."""
        return self._gone

    def stderr(self, max_bytes: int) -> str:
        """Nothing: it runs elsewhere."""
        del max_bytes
        return ""
