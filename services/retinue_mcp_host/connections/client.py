"""The HTTP client of a connection to a server elsewhere: headers, TLS, address, what it tells and bounds."""

import ssl
from collections.abc import Awaitable, Callable

import httpx2

from retinue.errors import ComponentInvalidError
from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connections.login_tokens import LoginTokens
from retinue_mcp_host.connections.notices import Notices
from retinue_mcp_host.connections.oauth import OwnTokens, TokenAuth, Tokens
from retinue_mcp_host.connections.oauth_requests import OAuthRequests
from retinue_mcp_host.connections.pinning import Pin, PinnedTransport, look_up
from retinue_mcp_host.connections.session import Wire
from retinue_mcp_host.connections.tls import tls_context
from retinue_mcp_host.logins.login import place_of
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import HttpTransport, ServerSpec, SseTransport, TlsFiles

HTTP_CONNECT_S = 10.0
"""For one TCP and TLS connection; the whole of a request is bounded by the call's own timeout."""
HTTP_WRITE_S = 30.0

NOT_THERE = frozenset({502, 503, 504})
"""What a proxy answers for a server that is not there."""


_UNAUTHORIZED = 401


def refused_with(status: int) -> str:
    """What to say of a status that a request failed with."""
    if status == _UNAUTHORIZED:
        # Nobody logs in by itself: which authorization servers count is for the operator to say.
        return "HTTP status 401: it wants a token; give its config oauth, or the header Authorization"
    return f"HTTP status {status}"


async def http_client(
    spec: ServerSpec,
    transport: HttpTransport | SseTransport,
    name: str,
    wire: Wire,
    notices: Notices,
    logins: Logins,
    on_failure: Callable[[httpx2.TransportError], None],
    on_response: Callable[[httpx2.Response], Awaitable[None]] | None = None,
) -> httpx2.AsyncClient:
    """The client of one connection; `name` is the transport's in the component, `wire` what it is for.

    It tells of POSTs that did not reach the server, and of each answer as it begins. Raises
    ComponentInvalidError, ComponentNotAllowedError, McpLoginRequiredError, McpServerUnavailableError,
    McpTimeoutError, SecretNotFoundError.
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
    auth = await _auth(spec, transport, name, secrets, verify, logins, on_failure)
    # The environment's proxies and netrc are not config; a redirect could lead past the allowed hosts.
    return httpx2.AsyncClient(
        transport=_WatchedTransport(await look_up(spec, transport.url), on_failure, verify),
        headers=headers,
        auth=auth,
        timeout=httpx2.Timeout(connect=HTTP_CONNECT_S, write=HTTP_WRITE_S, read=None, pool=None),
        trust_env=False,
        follow_redirects=False,
        event_hooks={"response": [on_response] if on_response else []},
    )


async def _auth(
    spec: ServerSpec,
    transport: HttpTransport | SseTransport,
    name: str,
    secrets: list[str],
    verify: ssl.SSLContext | bool,
    logins: Logins,
    on_failure: Callable[[httpx2.TransportError], None],
) -> TokenAuth | None:
    if transport.oauth is None:
        return None
    field = f"{name}.oauth"
    requests = OAuthRequests(spec, transport.url, field, transport.oauth, verify)
    tokens: Tokens
    if place := place_of(spec):
        tokens = LoginTokens(spec, place, logins, requests, secrets)
    else:
        tokens = OwnTokens(transport.url, transport.oauth, field, requests, secrets)
    if transport.oauth.issuer:
        await requests.check()
    return TokenAuth(transport.url, tokens, requests.nonces, on_failure)


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
