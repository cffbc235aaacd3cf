"""A bearer token on each request to a server elsewhere, from its authorization server.

The grant is client_credentials: the host acts as itself, and no person is asked. The flow is the SDK's.
"""

import asyncio
import base64
import math
from collections.abc import AsyncGenerator, Callable
from urllib.parse import quote

import httpx2
import structlog
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth, union_scopes
from mcp.shared.auth import OAuthToken

from retinue.errors import RetinueError
from retinue_kit.secrets import hide_values, resolve_secret
from retinue_mcp_host.connections.bounded import UnreadStream
from retinue_mcp_host.connections.oauth_flow import Flow, Shown
from retinue_mcp_host.connections.oauth_requests import NoTokenError, OAuthRequests, origin
from retinue_mcp_host.model import OAuth

log = structlog.get_logger()

TOKEN_S = 30.0
"""For all requests that one token needs."""
EARLY_S = 30.0
"""A token is renewed so long before it expires, or with a tenth of its time left where that is less."""
MAX_SAID_CHARS = 400
"""Of what an authorization server, or the server, says when it refuses."""

_UNAUTHORIZED, _FORBIDDEN = 401, 403


class BearerAuth(httpx2.Auth):
    """Puts the token on requests to the server, and asks for one when the server wants it."""

    def __init__(
        self, url: str, tokens: "Tokens", on_failure: Callable[[httpx2.TransportError], None]
    ) -> None:
        self._origin = origin(httpx2.URL(url))
        self._tokens = tokens
        self._on_failure = on_failure

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request, and once more with a new token where the server refuses the first."""
        if origin(request.url) != self._origin:
            yield request
            return
        try:
            token = await self._tokens.current()
            if token:
                request.headers["Authorization"] = f"Bearer {token}"
            response = yield request
            if not self._tokens.can_answer(response):
                return
            response.stream = UnreadStream(response.stream)
            request.headers["Authorization"] = f"Bearer {await self._tokens.renewed(token, response)}"
            response = yield request
            self._tokens.check(response)
        except NoTokenError as error:
            # Told here: what the SDK makes of it, if anything, reaches no caller.
            self._on_failure(error)
            raise


class Tokens:
    """The token of one connection; it is in memory alone. `secrets` are what no error may repeat."""

    def __init__(
        self, url: str, oauth: OAuth, field: str, requests: OAuthRequests, secrets: list[str]
    ) -> None:
        """Raises SecretNotFoundError."""
        self._url = url
        self._oauth = oauth
        self._requests = requests
        self._secrets = secrets
        self._shown = Shown(
            oauth,
            resolve_secret(oauth.client_secret, field=f"{field}.client_secret", values=secrets),
            resolve_secret(oauth.private_key, field=f"{field}.private_key", values=secrets),
        )
        if self._shown.client_secret:
            as_sent = quote(self._shown.client_secret, safe="")
            pair = f"{quote(oauth.client_id, safe='')}:{as_sent}".encode()
            secrets += [as_sent, base64.b64encode(pair).decode()]
        self._fixed_secrets = len(secrets)
        self._scope = " ".join(oauth.scopes)
        """What to ask for; empty where the server says it."""
        self._granted = ""
        self._token = ""
        self._renew_at = math.inf
        self._failure = ""
        self._challenge = ""
        """The WWW-Authenticate of the last 401, which may name metadata; that of a 403 need not."""
        self._asking = asyncio.Lock()

    async def current(self) -> str:
        """The token; empty before the server has asked for one. Raises NoTokenError."""
        if self._token and asyncio.get_running_loop().time() >= self._renew_at:
            return await self.renewed(self._token, None)
        return self._token

    def can_answer(self, response: httpx2.Response) -> bool:
        """Whether an answer says that a new token is needed, and one may be asked for."""
        if response.status_code == _FORBIDDEN:
            # Configured scopes are all that the operator gives: the server's wish adds none.
            too_little = extract_field_from_www_auth(response, "error") == "insufficient_scope"
            return too_little and not self._oauth.scopes and bool(extract_scope_from_www_auth(response))
        return response.status_code == _UNAUTHORIZED

    async def renewed(self, refused: str, challenge: httpx2.Response | None) -> str:
        """A token in place of one, for all who want another at the same time. Raises NoTokenError.

        `challenge` is the answer that wants it; None where it was about to expire.
        """
        async with self._asking:
            if self._failure:
                raise NoTokenError(self._failure)
            if self._token == refused:
                await self._renew(challenge)
            return self._token

    async def _renew(self, challenge: httpx2.Response | None) -> None:
        if challenge is not None and challenge.status_code == _FORBIDDEN:
            wanted = extract_scope_from_www_auth(challenge)
            self._scope = union_scopes(self._scope or self._granted, wanted) or ""
        elif challenge is not None:
            self._challenge = challenge.headers.get("WWW-Authenticate", "")
        flow = Flow(self._url, self._shown, self._scope or None, self._requests)
        try:
            async with asyncio.timeout(TOKEN_S):
                token = await flow.token(self._challenge)
        except TimeoutError:
            self._failure = self._no_token(f"{self._oauth.issuer} did not give one in {TOKEN_S:g} s")
        except (OAuthFlowError, httpx2.HTTPError, ValueError, OverflowError) as error:
            self._failure = self._no_token(flow.why(error))
        except RetinueError as error:
            self._failure = self._no_token(error.message)
        if self._failure:
            raise NoTokenError(self._failure) from None
        self._take(token)

    def _take(self, token: OAuthToken) -> None:
        self._token = token.access_token
        self._granted = token.scope or ""
        # The one before may still be in a server's words; those before that are forgotten.
        del self._secrets[self._fixed_secrets : -1]
        self._secrets.append(self._token)
        life_s = token.expires_in
        self._renew_at = math.inf
        if life_s is not None:
            self._renew_at = asyncio.get_running_loop().time() + life_s - min(EARLY_S, life_s / 10)
        log.debug("token received", issuer=self._oauth.issuer, expires_in_s=life_s)

    def check(self, response: httpx2.Response) -> None:
        """Raise NoTokenError where a server refuses a new token."""
        if response.status_code != _UNAUTHORIZED:
            return
        error = extract_field_from_www_auth(response, "error") or "HTTP status 401"
        more = extract_field_from_www_auth(response, "error_description")
        said = f"{error}: {more}" if more else error
        said = hide_values(said, self._secrets)[:MAX_SAID_CHARS]
        raise NoTokenError(f"refuses the token of {self._oauth.issuer}: {said}")

    def _no_token(self, why: str) -> str:
        return f"has no OAuth token: {hide_values(why, self._secrets)[:MAX_SAID_CHARS]}"
