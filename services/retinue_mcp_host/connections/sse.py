"""A session with a server elsewhere that speaks HTTP+SSE, as MCP's revision 2024-11-05 had it.

What the server says comes as events of one GET; what it is told is POSTed to the address that its first event
names.
"""

import asyncio
from contextlib import AsyncExitStack

import httpx2
from mcp.shared.exceptions import MCPError
from mcp_types import CONNECTION_CLOSED, INTERNAL_ERROR
from pydantic import ValidationError

from retinue_kit.tasks import open_task_group
from retinue_mcp_host.connections.client import (
    HTTP_CONNECT_S,
    HTTP_WRITE_S,
    NOT_THERE,
    http_client,
    refused_with,
)
from retinue_mcp_host.connections.login_wanted import LOGIN_WANTED, wanted_scopes
from retinue_mcp_host.connections.negotiation import OfferingSession, negotiate
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.offer import Offer
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.connections.rpc import JsonRpc
from retinue_mcp_host.connections.session import SESSION_LOST, Session, error_from_mcp, open_session_on
from retinue_mcp_host.connections.sse_events import SseEvents
from retinue_mcp_host.connections.wire import RpcWire
from retinue_mcp_host.failures import connect_timeout, why_unreachable
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import Limits, ServerSpec, SseTransport

POST_S = 30.0
"""From a POST's last byte to its answer, which says no more than that it was taken."""
MAX_POSTS = 64
"""Under way at a time; further requests wait."""

_NOT_FOUND = 404
_NOT_SSE = frozenset({_NOT_FOUND, 405, 406})
"""What a server answers that speaks another transport at this address."""


async def open_sse(
    stack: AsyncExitStack,
    spec: ServerSpec,
    transport: SseTransport,
    limits: Limits,
    notices: Notices,
    revisions: Revisions,
    logins: Logins,
) -> Session:
    """Reach a server and agree with it.

    Raises McpServerUnavailableError, McpTimeoutError, McpProtocolError, McpRequestRefusedError,
    McpLoginRequiredError, ComponentInvalidError, ComponentNotAllowedError, SecretNotFoundError.
    """
    offer = Offer(spec, limits.max_result_bytes)
    rpc = SseRpc(transport.url, offer, notices, limits.max_server_message_bytes)
    wire = RpcWire(rpc, rpc.why_gone)
    client = await http_client(spec, transport, "sse", wire, notices, logins, rpc.note_failure)
    try:
        async with asyncio.timeout(spec.connect_timeout_s):
            await stack.enter_async_context(client)
            tasks = await stack.enter_async_context(open_task_group())
            stack.callback(rpc.stop)
            await rpc.start(client, tasks)
            session = await stack.enter_async_context(OfferingSession(offer, rpc))
            stack.callback(rpc.close)
            await negotiate(stack, session, spec, revisions)
    except TimeoutError:
        raise connect_timeout(spec) from None
    except (MCPError, ValidationError, RuntimeError) as error:
        raise error_from_mcp(spec, error, wire) from error
    wire.speak(session)
    return await open_session_on(stack, session, spec, wire, offer, notices, limits)


class SseRpc(JsonRpc):
    """One JSON-RPC session; its tasks run in the group that it is given, until `stop`."""

    def __init__(self, url: str, offer: Offer, notices: Notices, max_message_bytes: int) -> None:
        super().__init__(offer, notices, max_message_bytes)
        self._url = httpx2.URL(url)
        self._client: httpx2.AsyncClient
        self._tasks: asyncio.TaskGroup
        self._endpoint: asyncio.Future[httpx2.URL]
        self._events = SseEvents(max_message_bytes, self._event, self._oversize)
        self._reading: asyncio.Task[None] | None = None
        self._posts: dict[asyncio.Task[None], int] = {}
        """Those under way, with their sizes in bytes."""
        self._room = asyncio.Semaphore(MAX_POSTS)
        self._why_gone: str | None = None

    async def start(self, client: httpx2.AsyncClient, tasks: asyncio.TaskGroup) -> None:
        """Open the stream of events and wait for the address to POST to. Raises MCPError."""
        self._client, self._tasks = client, tasks
        self._endpoint = asyncio.get_running_loop().create_future()
        self._reading = tasks.create_task(self._read())
        await self._endpoint

    def stop(self) -> None:
        """End the stream and what is being POSTed."""
        for task in (self._reading, *self._posts):
            if task is not None:
                task.cancel()

    def why_gone(self) -> str | None:
        """Why the server can answer no more; None while it can."""
        return self._why_gone

    def note_failure(self, error: httpx2.TransportError) -> None:
        """Take note that the server could not be reached."""
        self._lose(why_unreachable(error))

    def _lose(self, why: str, code: int = CONNECTION_CLOSED) -> None:
        self._why_gone = self._why_gone or why
        if not self._endpoint.done():
            self._endpoint.set_exception(MCPError(code, why))
        self._gone()

    # What comes in.

    async def _read(self) -> None:
        try:
            async with self._client.stream(
                "GET", self._url, headers={"accept": "text/event-stream", "cache-control": "no-store"}
            ) as response:
                if not self._is_stream(response):
                    return
                async for data in response.aiter_bytes():
                    self._events.feed(data)
            self._lose("closed its stream of events")
        except httpx2.HTTPError as error:
            self._lose(why_unreachable(error))

    def _is_stream(self, response: httpx2.Response) -> bool:
        status = response.status_code
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        if status == httpx2.codes.OK and kind == "text/event-stream":
            return True
        if (missing := wanted_scopes(response)) is not None and not self._endpoint.done():
            self._endpoint.set_exception(MCPError(LOGIN_WANTED, "wants a login", missing))
            return False
        what = refused_with(status) if status != httpx2.codes.OK else f"{kind or 'no'} content"
        if status in _NOT_SSE or status == httpx2.codes.OK:
            what += " in place of a stream of events: if it speaks streamable HTTP, use streamable_http"
        if not self._endpoint.done():
            code = CONNECTION_CLOSED if status in NOT_THERE else INTERNAL_ERROR
            self._endpoint.set_exception(MCPError(code, what))
        return False

    def _event(self, kind: str, data: bytes) -> None:
        if kind == "message":
            self._take(data)
        elif kind == "endpoint" and not self._endpoint.done():
            url = self._url.join(data.decode("utf-8", "replace").strip())
            if _origin(url) != _origin(self._url):
                # The headers would go there, and the host that is allowed is another.
                what = f"its endpoint {url.scheme}://{url.netloc.decode()} is not where its events come from"
                self._endpoint.set_exception(MCPError(INTERNAL_ERROR, what))
                return
            self._endpoint.set_result(url)

    # What goes out.

    async def _until_writable(self) -> None:
        async with self._room:
            pass

    def _backlog_bytes(self) -> int:
        return sum(self._posts.values())

    def _write(self, line: bytes, key: int | str | None = None) -> None:
        if self._why_gone is not None:
            return
        # A request overtakes nothing that it does not depend on; a cancel or an answer waits for what is
        # before it.
        before = () if key is not None else tuple(self._posts)
        task = self._tasks.create_task(self._post(line, key, before))
        self._posts[task] = len(line)
        task.add_done_callback(self._posts.pop)

    async def _post(
        self, line: bytes, key: int | str | None, before: tuple["asyncio.Task[None]", ...]
    ) -> None:
        if before:
            await asyncio.wait(before)
        timeout = httpx2.Timeout(connect=HTTP_CONNECT_S, write=HTTP_WRITE_S, read=POST_S, pool=None)
        headers = {"content-type": "application/json"}
        try:
            async with self._room:
                response = await self._client.post(
                    self._endpoint.result(), content=line, headers=headers, timeout=timeout
                )
        except httpx2.HTTPError:
            return  # told by note_failure: all that waits has failed
        status = response.status_code
        missing = wanted_scopes(response)
        if missing is not None and key is not None:
            self._fail(key, MCPError(LOGIN_WANTED, "wants a login", missing))
        elif status == _NOT_FOUND and key is not None:
            self._fail(key, MCPError(SESSION_LOST, "has forgotten the session: it was started anew"))
            self._lose("has forgotten the session: it was started anew")
        elif status >= httpx2.codes.BAD_REQUEST and key is not None:
            code = CONNECTION_CLOSED if status in NOT_THERE else INTERNAL_ERROR
            self._fail(key, MCPError(code, refused_with(status)))


def _origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    port = url.port or {"http": 80, "https": 443}.get(url.scheme)
    return url.scheme, url.host, port
