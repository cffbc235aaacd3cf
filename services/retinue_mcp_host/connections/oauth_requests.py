"""Requests to a server's authorization server: where they may go, and how much and how long they may take."""

import base64
import ipaddress
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from retinue_mcp_host.connections.bounded import BoundedStream
from retinue_mcp_host.connections.dpop import BAD_PROOF, PROOF, WANTS_NONCE, Nonces, ProofKey
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

    Metadata is read at the server and at the issuer: that of its config or, where that names none, the one
    that the server names (`follow`). What else an answer names is not asked.
    """

    def __init__(
        self, spec: ServerSpec, url: str, field: str, oauth: OAuth, verify: ssl.SSLContext | bool
    ) -> None:
        # A client's secret goes to no host that is not listed, be it public; a person's login shows none.
        secret = bool(oauth.client_secret or oauth.private_key or oauth.assertion)
        reach = replace(spec.reach, field=f"{field}.issuer", secret=secret) if spec.reach else None
        self._spec = replace(spec, reach=reach)
        self._server = httpx2.URL(url)
        self._configured = oauth.issuer
        self._identity_provider = oauth.identity_provider
        self._field = field
        self._issuer = httpx2.URL(oauth.issuer or url)
        self._verify = verify
        self.nonces = Nonces()
        """Of the server too."""

    async def check(self) -> None:
        """Raise ComponentNotAllowedError where a server came by API and a host of its config is not listed.

        These are the issuer's and the identity provider's. Raises McpServerUnavailableError and
        McpTimeoutError where a host is not found.
        """
        await look_up(self._spec, str(self._issuer))
        if self._identity_provider:
            reach = self._spec.reach
            named = replace(reach, field=f"{self._field}.identity_provider") if reach else None
            await look_up(replace(self._spec, reach=named), self._identity_provider)

    def follow(self, issuer: str) -> None:
        """Use the authorization server that the server names. Raises NoTokenError."""
        url = httpx2.URL(issuer)
        if not self._configured and url.scheme != "https" and not _is_loopback(self._server.host):
            raise NoTokenError(f"the authorization server that it names, {issuer}, is without TLS")
        self._issuer = url

    async def send(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request and return the whole answer. Raises httpx2.HTTPError, RetinueError."""
        self.check_address(request.url, is_metadata=request.method == "GET")
        request.headers["Accept-Encoding"] = "identity"
        async with self._client(await self._transport(request.url)) as client:
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

    async def send_bound(
        self,
        request: httpx2.Request,
        key: ProofKey,
        remade: Callable[[], Awaitable[httpx2.Request]] | None = None,
    ) -> httpx2.Response:
        """Ask for a token that is bound to a key, once more where the first proof lacks a nonce.

        `remade` makes the second request, where the first cannot be sent again as it is. The answer is as
        for a token that is not bound: nobody below knows another kind. Raises as `send` does; NoTokenError
        where the token is not bound, or the key's proof is not taken.
        """
        request.headers[PROOF] = key.proof(request, self.nonces.of(request.url))
        response = await self.send(request)
        nonce = self.nonces.take(response)
        if nonce and _error_of(response) == WANTS_NONCE:
            request = request if remade is None else await remade()
            request.headers[PROOF] = key.proof(request, nonce)
            response = await self.send(request)
            self.nonces.take(response)
        if not response.is_success:
            error = _error_of(response)
            if error in (WANTS_NONCE, BAD_PROOF):
                raise NoTokenError(f"{request.url} does not take the proof of the token's key: {error}")
            return response
        answer = _answer_of(response)
        if str(answer.get("token_type")).lower() != PROOF.lower():
            raise NoTokenError(f"what {request.url} answered is no token that is bound to a key (DPoP)")
        return httpx2.Response(
            response.status_code, json=answer | {"token_type": "Bearer"}, request=response.request
        )

    async def head_of(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request to the server and return the head of the answer. Raises as `send` does."""
        async with self._client(await self._transport(request.url)) as client:
            response = await client.send(request, stream=True)
            await response.aclose()
        return response

    async def _transport(self, url: httpx2.URL) -> PinnedTransport:
        pin = await look_up(self._spec, str(url))
        return PinnedTransport(pin, verify=self._verify, trust_env=False)

    def _client(self, transport: PinnedTransport) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(
            transport=transport, timeout=REQUEST_S, trust_env=False, follow_redirects=False
        )

    def check_address(self, url: httpx2.URL, *, is_metadata: bool = False) -> None:
        """Raise NoTokenError for an address that an answer has named and that is not to be used."""
        if self._identity_provider and url == self._identity_provider:
            # The config itself names it, and its rules want TLS.
            return
        if is_metadata and origin(url) not in {origin(self._server), origin(self._issuer)}:
            raise NoTokenError(f"{url} is neither at the server nor at the issuer of its config")
        here = _is_loopback(url.host)
        if here and not (_is_loopback(self._server.host) or _is_loopback(self._issuer.host)):
            raise NoTokenError(f"{url} is on this machine, and neither the server nor its issuer is")
        if not is_metadata and url.scheme != "https" and not (here and self._issuer.scheme == "http"):
            raise NoTokenError(f"{url} would get the client's secret without TLS")


def refused_by(whom: str, answer: httpx2.Response) -> str:
    """What to say of a refusal, with what it says itself, as RFC 6749, 5.2 has it."""
    found = _answer_of(answer)
    said = [each for name in ("error", "error_description") if isinstance(each := found.get(name), str)]
    what = f": {': '.join(said)}" if said else ""
    return f"{whom} refused, with HTTP status {answer.status_code}{what}"


def _error_of(response: httpx2.Response) -> object:
    """What a refusal of a token says, as RFC 6749, 5.2 has it."""
    return None if response.is_success else _answer_of(response).get("error")


def _answer_of(response: httpx2.Response) -> dict[str, Any]:
    try:
        answer = orjson.loads(response.content)
    except orjson.JSONDecodeError:
        return {}
    return answer if isinstance(answer, dict) else {}


def as_shown(client_id: str, secret: str) -> list[str]:
    """The forms in which a secret is sent (RFC 6749, 2.3.1), none of which an error may repeat."""
    if not secret:
        return []
    encoded = quote(secret, safe="")
    pair = f"{quote(client_id, safe='')}:{encoded}".encode()
    return [encoded, base64.b64encode(pair).decode()]


def origin(url: httpx2.URL) -> tuple[str, str, int | None]:
    """The scheme, host and port of an address."""
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
