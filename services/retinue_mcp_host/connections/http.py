"""A session with a server elsewhere that speaks streamable HTTP."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from typing import Any

import anyio
import anyio.abc
import httpx2
import orjson
from mcp.client.streamable_http import streamable_http_client
from mcp.shared.dispatcher import (
    DispatchContext,
    OnNotify,
    OnNotifyIntercept,
    OnRequest,
    run_notify_intercept,
)
from mcp.shared.exceptions import MCPError
from mcp.shared.jsonrpc_dispatcher import JSONRPCDispatcher
from mcp.shared.transport_context import TransportContext
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_PARAMS,
    INVALID_REQUEST,
    LOG_LEVEL_META_KEY,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    CallToolRequest,
)
from mcp_types.version import MODERN_PROTOCOL_VERSIONS
from pydantic import ValidationError

from retinue_mcp_host.calls.server_requests import Outcome, RefusedError
from retinue_mcp_host.connections.bounded import TOO_LONG, BoundedStream
from retinue_mcp_host.connections.client import NOT_THERE, http_client, refused_with
from retinue_mcp_host.connections.negotiation import OfferingSession, negotiate
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer, current_caller
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.connections.rpc import ANSWER_TOO_LARGE
from retinue_mcp_host.connections.session import (
    SESSION_LOST,
    Session,
    error_from_mcp,
    open_session_on,
)
from retinue_mcp_host.failures import connect_timeout, no_stderr, why_unreachable
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import (
    HttpTransport,
    Limits,
    OnProgress,
    Progress,
    ServerSpec,
)

_NOT_TAKEN = frozenset({INVALID_REQUEST, METHOD_NOT_FOUND, -32001})
"""Codes that come with a 404 for a session that the server has forgotten, as SDKs put it."""
_ERROR_STATUS = "Server returned an error response"
"""The SDK's words for any other status."""


async def open_http(
    stack: AsyncExitStack,
    spec: ServerSpec,
    transport: HttpTransport,
    limits: Limits,
    notices: Notices,
    revisions: Revisions,
    logins: Logins,
) -> Session:
    """Reach a server and agree with it. A server that can not be reached fails the stack as it is left.

    Raises McpTimeoutError, McpProtocolError, McpRequestRefusedError, McpLoginRequiredError,
    SecretNotFoundError.
    """
    offer = Offer(spec, limits.max_result_bytes)
    wire = HttpWire(notices.on_gone, limits.max_server_message_bytes)
    client = await http_client(
        spec, transport, "streamable_http", wire, notices, logins, wire.note_failure, wire.note_status
    )
    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            await stack.enter_async_context(client)
            read, write = await stack.enter_async_context(
                streamable_http_client(
                    transport.url, http_client=client, max_sse_event_size=limits.max_server_message_bytes
                )
            )
            dispatcher = _OfferingDispatcher(read, write)
            dispatcher.offer, dispatcher.notices = offer, notices
            session = await stack.enter_async_context(OfferingSession(offer, dispatcher))
            wire.speak(session, dispatcher)
            await negotiate(stack, session, spec, revisions)
    except TimeoutError:
        raise connect_timeout(spec) from None
    except (MCPError, ValidationError, RuntimeError) as error:
        known = wire.explained(error) if isinstance(error, MCPError) else error
        raise error_from_mcp(spec, known, wire) from error
    return await open_session_on(stack, session, spec, wire, offer, notices, limits)


def _check_answers(params: dict[str, Any]) -> None:
    """Raises MCPError for answers to what a server asked that are not as MCP has them."""
    try:
        CallToolRequest.model_validate({"params": params}, by_name=False)
    except ValidationError as error:
        what = f"an answer to what the server asked is out of shape: {error.errors()[0]['msg']}"
        raise MCPError(INVALID_PARAMS, what) from None


class _OfferingDispatcher(JSONRPCDispatcher[TransportContext]):
    """Lets the offer answer what a server asks, instead of the session's callbacks: they know no call."""

    offer: Offer
    notices: Notices

    async def run(
        self,
        on_request: OnRequest,  # noqa: ARG002 - the offer answers
        on_notify: OnNotify,
        on_notify_intercept: OnNotifyIntercept | None = None,
        *,
        task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        """Read what comes, until the connection ends."""

        def take(method: str, params: Mapping[str, Any] | None) -> bool:
            run_notify_intercept(on_notify_intercept, method, params)
            self.notices.take(method, params)
            return True

        await super().run(self._answer, on_notify, take, task_status=task_status)

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


class HttpWire:
    """Requests over streamable HTTP."""

    def __init__(self, on_gone: Callable[[], None], max_message_bytes: int) -> None:
        self.secrets: Sequence[str] = ()
        self._on_gone = on_gone
        self._max_message_bytes = max_message_bytes
        self._meta: dict[str, Any] = {}
        self._session: OfferingSession | None = None
        self._dispatcher: JSONRPCDispatcher[TransportContext] | None = None
        self._gone: str | None = None
        self._failed_status = 0
        self._session_lost = False

    def speak(self, session: OfferingSession, dispatcher: JSONRPCDispatcher[TransportContext]) -> None:
        """Use a session, and the dispatcher below it."""
        self._session, self._dispatcher = session, dispatcher

    async def note_status(self, response: httpx2.Response) -> None:
        """Remember what the SDK does not say: the status of a request that failed. Bound what it reads."""
        if response.headers.get("content-type", "").lower().startswith("application/json"):
            response.stream = BoundedStream(response.stream, self._max_message_bytes)
        if response.status_code < 400 or response.request.method != "POST":  # noqa: PLR2004 - the first of HTTP's failures
            return
        self._failed_status = response.status_code
        if response.status_code == 404 and "mcp-session-id" in response.request.headers:  # noqa: PLR2004 - not found
            self._session_lost = True
            self._gone = "has forgotten the session: it was started anew"

    def note_failure(self, error: httpx2.TransportError) -> None:
        """Remember why the server could not be reached; the SDK ends the connection by itself."""
        self._gone = why_unreachable(error)
        self._on_gone()

    def log_from(self, level: str) -> None:
        """Ask with each request, as revisions from 2026-07-28 on have it, for log messages of a level."""
        self._meta = {LOG_LEVEL_META_KEY: level}

    async def request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        """Ask and return the result as it came. Raises MCPError."""
        assert self._session is not None  # noqa: S101 - spoken before
        if self._meta:
            params = {**params, "_meta": dict(self._meta)}
        try:
            result = await self._session.ask(method, params)
        except MCPError as error:
            raise self.explained(error) from None
        if method == "tools/list" and self._session.protocol_version in MODERN_PROTOCOL_VERSIONS:
            return self._session.absorb_tools(result)
        return result

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
            "_meta": {**self._meta, **meta},
            **(more or {}),
        }

        async def tell(progress: float, total: float | None, message: str | None) -> None:
            if on_progress is not None:
                on_progress(Progress(progress, total, message or ""))

        try:
            if self._session.protocol_version not in MODERN_PROTOCOL_VERSIONS:
                return await self._dispatcher.send_raw_request("tools/call", params, {"on_progress": tell})
            if more:
                _check_answers(params)
            return await self._session.ask("tools/call", params, tell)
        except MCPError as error:
            raise self.explained(error) from None

    def explained(self, error: MCPError) -> MCPError:
        """The error with what the SDK leaves out: the HTTP status, and whether the session is over."""
        if self._session_lost and error.code in _NOT_TAKEN:
            # Only now: the owner's leaving would take the place of this answer.
            self._on_gone()
            return MCPError(SESSION_LOST, self._gone or "")
        if error.code == PARSE_ERROR and TOO_LONG in error.message:
            text = f"the answer is longer than {self._max_message_bytes} bytes"
            return MCPError(ANSWER_TOO_LARGE, text)
        if error.message == _ERROR_STATUS and self._failed_status:
            code = CONNECTION_CLOSED if self._failed_status in NOT_THERE else error.code
            return MCPError(code, refused_with(self._failed_status))
        return error

    def gone(self) -> str | None:
        """Why the server can not answer; None while it can."""
        return self._gone

    stderr = staticmethod(no_stderr)
    """Nothing: it runs elsewhere."""
