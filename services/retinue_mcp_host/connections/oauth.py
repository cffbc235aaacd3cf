"""A token on each request to a server elsewhere, and those that the host gets as itself.

Its grants are client_credentials and jwt_bearer: no person is asked. The flow is the SDK's.
"""

import asyncio
import math
from collections.abc import AsyncGenerator, Callable
from typing import Protocol

import httpx2
import structlog
from mcp.client.auth import OAuthFlowError
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth, union_scopes

from retinue.errors import RetinueError
from retinue_kit.secrets import hide_values, resolve_secret
from retinue_mcp_host.connections.bounded import UnreadStream
from retinue_mcp_host.connections.dpop import BAD_PROOF, PROOF, WANTS_NONCE, AccessToken, Nonces, ProofKey
from retinue_mcp_host.connections.login_wanted import LoginWantedError
from retinue_mcp_host.connections.oauth_flow import MAX_SAID_CHARS, Flow, Given, Shown
from retinue_mcp_host.connections.oauth_requests import NoTokenError, OAuthRequests, as_shown, origin
from retinue_mcp_host.model import OAuth

log = structlog.get_logger()

TOKEN_S = 30.0
"""For all requests that one token needs."""
EARLY_S = 30.0
"""A token is renewed so long before it expires, or with a tenth of its time left where that is less."""

_UNAUTHORIZED, _FORBIDDEN = 401, 403


class Tokens(Protocol):
    """Where the tokens for one server's requests come from."""

    async def current(self) -> AccessToken:
        """The token; an empty one where there is none yet. Raises NoTokenError."""

    def can_answer(self, response: httpx2.Response) -> bool:
        """Whether an answer says that another token is needed, and one may be asked for."""

    async def renewed(self, refused: str, challenge: httpx2.Response | None) -> AccessToken:
        """A token in place of one; `challenge` is the answer that wants it, None where it expires soon.

        Raises NoTokenError; LoginWantedError where only a person can help.
        """

    def check(self, response: httpx2.Response) -> None:
        """Raise NoTokenError or LoginWantedError where a server refuses a new token."""


class TokenAuth(httpx2.Auth):
    """Puts the token on requests to the server, and asks for one when the server wants it."""

    def __init__(
        self, url: str, tokens: Tokens, nonces: Nonces, on_failure: Callable[[httpx2.TransportError], None]
    ) -> None:
        self._origin = origin(httpx2.URL(url))
        self._tokens = tokens
        self._nonces = nonces
        self._on_failure = on_failure

    async def async_auth_flow(
        self, request: httpx2.Request
    ) -> AsyncGenerator[httpx2.Request, httpx2.Response]:
        """Send a request, and once more with a new token where the server refuses the first.

        Each of the two is sent once more with a nonce where the server wants one in the proof.
        """
        if origin(request.url) != self._origin:
            yield request
            return
        try:
            token = await self._tokens.current()
            for is_renewed in (False, True):
                _show(token, request, self._nonces.of(request.url))
                response = yield request
                nonce = self._nonces.take(response)
                if nonce and token.key and _proof_error(response) == WANTS_NONCE:
                    response.stream = UnreadStream(response.stream)
                    # The one of this answer: another request's may have come meanwhile.
                    _show(token, request, nonce)
                    response = yield request
                    self._nonces.take(response)
                if token.key is not None:
                    _check_proof(response)
                try:
                    if is_renewed:
                        self._tokens.check(response)
                    if is_renewed or not self._tokens.can_answer(response):
                        return
                    token = await self._tokens.renewed(token.value, response)
                except LoginWantedError as wanted:
                    wanted.answer(response)
                    return
                response.stream = UnreadStream(response.stream)
        except NoTokenError as error:
            # Told here: what the SDK makes of it, if anything, reaches no caller.
            self._on_failure(error)
            raise


def _show(token: AccessToken, request: httpx2.Request, nonce: str) -> None:
    if token.key is not None:
        request.headers["Authorization"] = f"{PROOF} {token.value}"
        request.headers[PROOF] = token.key.proof(request, nonce, token.value)
    elif token.value:
        request.headers["Authorization"] = f"Bearer {token.value}"


def _proof_error(response: httpx2.Response) -> str:
    """What a refusal says of the proof; empty where it says nothing of it."""
    if response.status_code != _UNAUTHORIZED:
        return ""
    error = extract_field_from_www_auth(response, "error")
    return error if error in (WANTS_NONCE, BAD_PROOF) else ""


def _check_proof(response: httpx2.Response) -> None:
    """Raise NoTokenError where the proof is refused even so: no other token mends that."""
    if error := _proof_error(response):
        raise NoTokenError(f"does not take the proof of the token's key: {error}")


class OwnTokens:
    """The token that one connection has for the host itself; it is in memory alone."""

    def __init__(
        self, url: str, oauth: OAuth, field: str, requests: OAuthRequests, secrets: list[str]
    ) -> None:
        """`secrets` are what no error may repeat; they grow. Raises SecretNotFoundError."""
        self._url = url
        self._oauth = oauth
        self._requests = requests
        self._secrets = secrets
        self._assertion_field = f"{field}.assertion"
        self._assertion_place = len(secrets)
        secrets.append("")
        self._shown = Shown(
            oauth,
            resolve_secret(oauth.client_secret, field=f"{field}.client_secret", values=secrets),
            resolve_secret(oauth.private_key, field=f"{field}.private_key", values=secrets),
            self._assertion(),
            ProofKey.generate(),
            resolve_secret(
                oauth.identity_client_secret, field=f"{field}.identity_client_secret", values=secrets
            ),
        )
        secrets += as_shown(oauth.client_id, self._shown.client_secret)
        secrets += as_shown(oauth.identity_client_id, self._shown.identity_secret)
        self._fixed_secrets = len(secrets)
        self._scope = " ".join(oauth.scopes)
        """What to ask for; empty where the server says it."""
        self._granted = ""
        self._token = AccessToken()
        self._renew_at = math.inf
        self._failure = ""
        self._challenge = ""
        """The WWW-Authenticate of the last 401, which may name metadata; that of a 403 need not."""
        self._asking = asyncio.Lock()

    def _assertion(self) -> str:
        """What the platform says now; it says it anew from time to time. Raises SecretNotFoundError."""
        said = resolve_secret(self._oauth.assertion, field=self._assertion_field)
        self._secrets[self._assertion_place] = said
        return said

    async def current(self) -> AccessToken:
        """See Tokens."""
        if self._token.value and asyncio.get_running_loop().time() >= self._renew_at:
            return await self.renewed(self._token.value, None)
        return self._token

    def can_answer(self, response: httpx2.Response) -> bool:
        """See Tokens."""
        if response.status_code == _FORBIDDEN:
            # Configured scopes are all that the operator gives: the server's wish adds none.
            too_little = extract_field_from_www_auth(response, "error") == "insufficient_scope"
            return too_little and not self._oauth.scopes and bool(extract_scope_from_www_auth(response))
        return response.status_code == _UNAUTHORIZED

    async def renewed(self, refused: str, challenge: httpx2.Response | None) -> AccessToken:
        """See Tokens. All who want another at the same time get the same."""
        async with self._asking:
            if self._failure:
                raise NoTokenError(self._failure)
            if self._token.value == refused:
                await self._renew(challenge)
            return self._token

    async def _renew(self, challenge: httpx2.Response | None) -> None:
        if challenge is not None and challenge.status_code == _FORBIDDEN:
            wanted = extract_scope_from_www_auth(challenge)
            self._scope = union_scopes(self._scope or self._granted, wanted) or ""
        elif challenge is not None:
            self._challenge = challenge.headers.get("WWW-Authenticate", "")
        flow: Flow | None = None
        try:
            shown = self._shown._replace(assertion=self._assertion())
            flow = Flow(self._url, shown, self._scope or None, self._requests)
            async with asyncio.timeout(TOKEN_S):
                given = await flow.token(self._challenge)
        except TimeoutError:
            self._failure = self._no_token(f"{self._oauth.issuer} did not give one in {TOKEN_S:g} s")
        except (OAuthFlowError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, OverflowError) as error:
            self._failure = self._no_token(flow.why(error) if flow else str(error))
        except RetinueError as error:
            self._failure = self._no_token(error.message)
        if self._failure:
            raise NoTokenError(self._failure) from None
        self._take(given)

    def _take(self, given: Given) -> None:
        self._token = given.token
        self._granted = given.scope
        # The one before may still be in a server's words; those before that are forgotten.
        del self._secrets[self._fixed_secrets : -1]
        self._secrets.append(self._token.value)
        life_s = given.life_s
        self._renew_at = math.inf
        if life_s is not None:
            self._renew_at = asyncio.get_running_loop().time() + life_s - min(EARLY_S, life_s / 10)
        log.debug("token received", issuer=self._oauth.issuer, expires_in_s=life_s)

    def check(self, response: httpx2.Response) -> None:
        """See Tokens."""
        if response.status_code != _UNAUTHORIZED:
            return
        error = extract_field_from_www_auth(response, "error") or "HTTP status 401"
        more = extract_field_from_www_auth(response, "error_description")
        said = f"{error}: {more}" if more else error
        said = hide_values(said, self._secrets)[:MAX_SAID_CHARS]
        raise NoTokenError(f"refuses the token of {self._oauth.issuer}: {said}")

    def _no_token(self, why: str) -> str:
        return f"has no OAuth token: {hide_values(why, self._secrets)[:MAX_SAID_CHARS]}"
