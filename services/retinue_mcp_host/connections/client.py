"""The HTTP client of a connection to a server elsewhere: headers, TLS, address, what it tells and bounds."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import httpx2

from retinue.errors import ComponentInvalidError
from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.pinning import Pin, PinnedTransport, look_up
from retinue_mcp_host.connections.session import Wire
from retinue_mcp_host.connections.tls import tls_context
from retinue_mcp_host.model import HttpTransport, ServerSpec, SseTransport, TlsFiles

HTTP_CONNECT_S = 10.0
"""For one TCP and TLS connection; the whole of a request is bounded by the call's own timeout."""
HTTP_WRITE_S = 30.0

NOT_THERE = frozenset({502, 503, 504})
"""What a proxy answers for a server that is not there."""
TOO_LONG = "more bytes than a message may have"
"""How reading an answer ends that is too long."""


async def http_client(
    spec: ServerSpec,
    transport: HttpTransport | SseTransport,
    name: str,
    wire: Wire,
    notices: Notices,
    on_failure: Callable[[httpx2.TransportError], None],
    on_response: Callable[[httpx2.Response], Awaitable[None]] | None = None,
) -> httpx2.AsyncClient:
    """The client of one connection; `name` is the transport's in the component, `wire` what it is for.

    It tells of POSTs that did not reach the server, and of each answer as it begins. Raises
    ComponentInvalidError, ComponentNotAllowedError, McpServerUnavailableError, McpTimeoutError,
    SecretNotFoundError.
    """
    secrets: list[str] = []
    headers = {
        key: _header(spec, f"{name}.headers.{key}", value, secrets)
        for key, value in transport.headers.items()
    }
    wire.secrets = secrets
    if notices.log is not None:
        notices.log.hide(secrets)
    verify = tls_context(spec, transport.tls) if transport.tls != TlsFiles() else True
    # The environment's proxies and netrc are not config; a redirect could lead past the allowed hosts.
    return httpx2.AsyncClient(
        transport=_WatchedTransport(await look_up(spec, transport.url), on_failure, verify),
        headers=headers,
        timeout=httpx2.Timeout(connect=HTTP_CONNECT_S, write=HTTP_WRITE_S, read=None, pool=None),
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [on_response] if on_response else []},
    )


def _header(spec: ServerSpec, field: str, value: str, secrets: list[str]) -> str:
    resolved = resolve_secret(value, field=field, values=secrets).strip()
    if not (resolved.isascii() and resolved.isprintable()):
        # Said here, without the value: HTTP's own error would show it.
        raise ComponentInvalidError(
            f"{field} of MCP server {spec.name} has characters that no HTTP header can carry",
            kind="mcp_server",
            name=spec.name,
        )
    return resolved


class _WatchedTransport(PinnedTransport):
    """Notes why a server could not be reached: the SDK ends the connection and says why to no caller."""

    def __init__(
        self,
        pin: Pin | None,
        on_failure: Callable[[httpx2.TransportError], None],
        verify: ssl.SSLContext | bool,
    ) -> None:
        super().__init__(
            pin,
            verify=verify,
            trust_env=False,
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=32),
        )
        self._on_failure = on_failure

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the beginning of its answer."""
        try:
            return await super().handle_async_request(request)
        except httpx2.TransportError as error:
            if request.method == "POST":
                self._on_failure(error)
            raise


class BoundedStream(httpx2.AsyncByteStream):
    """The body of an answer, which the SDK would read however long it is. Raises httpx2.StreamError."""

    def __init__(self, stream: httpx2.SyncByteStream | httpx2.AsyncByteStream, max_bytes: int) -> None:
        assert isinstance(stream, httpx2.AsyncByteStream)  # noqa: S101 - an async client's
        self._stream = stream
        self._left = max_bytes

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._stream:
            self._left -= len(chunk)
            if self._left < 0:
                raise httpx2.StreamError(TOO_LONG)
            yield chunk

    async def aclose(self) -> None:
        """Close the connection or give it back."""
        await self._stream.aclose()
