"""Requests to a server's authorization server: where they may go, and how much and how long they may take."""

import ipaddress
import ssl
from dataclasses import replace

import httpx2

from retinue_mcp_host.connections.bounded import BoundedStream
from retinue_mcp_host.connections.pinning import PinnedTransport, look_up
from retinue_mcp_host.failures import SaysWhyError
from retinue_mcp_host.model import OAuth, ServerSpec

REQUEST_S = 10.0
"""For one request, until no more bytes come; all that a token needs is bounded beside it."""
MAX_ANSWER_BYTES = 64 * 1024
"""Of metadata, or of a token."""


class NoTokenError(SaysWhyError, httpx2.TransportError):
    """No token can be had for a server, or it takes none. The message says why, and holds no secret."""


class OAuthRequests:
    """Sends what the flow for one server's token needs.

    Metadata is read at the server and at the issuer of its config; what else an answer names is not asked.
    """

    def __init__(
        self, spec: ServerSpec, url: str, field: str, oauth: OAuth, verify: ssl.SSLContext | bool
    ) -> None:
        reach = replace(spec.reach, field=f"{field}.issuer", secret=True) if spec.reach else None
        self._spec = replace(spec, reach=reach)
        self._issuer = httpx2.URL(oauth.issuer)
        self._origins = {origin(httpx2.URL(url)), origin(self._issuer)}
        self._verify = verify

    async def check(self) -> None:
        """Raise ComponentNotAllowedError where a server came by API and its issuer is not listed.

        Raises McpServerUnavailableError and McpTimeoutError where the issuer's host is not found.
        """
        await look_up(self._spec, str(self._issuer))

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the whole answer. Raises httpx2.HTTPError, RetinueError."""
        self._check(request)
        request.headers["Accept-Encoding"] = "identity"
        transport = PinnedTransport(
            await look_up(self._spec, str(request.url)), verify=self._verify, trust_env=False
        )
        async with httpx2.AsyncClient(
            transport=transport, timeout=REQUEST_S, trust_env=False, follow_redirects=False
        ) as client:
            response = await client.send(request, stream=True)
            try:
                if response.headers.get("content-encoding", "identity") != "identity":
                    raise NoTokenError(f"{request.url} answers compressed, which was not asked for")
                response.stream = BoundedStream(response.stream, MAX_ANSWER_BYTES)
                await response.aread()
            except httpx2.StreamError as error:
                raise NoTokenError(f"{request.url} answers with {error}") from None
            finally:
                await response.aclose()
        return response

    def _check(self, request: httpx2.Request) -> None:
        url = request.url
        if request.method == "GET" and origin(url) not in self._origins:
            raise NoTokenError(f"{url} is neither at the server nor at the issuer of its config")
        here = self._issuer.scheme == "http" and _is_loopback(url.host)
        if request.method != "GET" and url.scheme != "https" and not here:
            raise NoTokenError(f"{url} would get the client's secret without TLS")


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """The scheme, host and port of an address."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
