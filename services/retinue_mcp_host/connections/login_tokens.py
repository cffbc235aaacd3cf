"""The tokens of a person's login, as one connection uses them; all connections of a server share it."""

import time

import httpx2
from mcp.client.auth.utils import extract_field_from_www_auth, extract_scope_from_www_auth

from retinue_kit.secrets import resolve_secret
from retinue_mcp_host.connections.dpop import AccessToken, ProofKey
from retinue_mcp_host.connections.login_requests import key_of_login, renew
from retinue_mcp_host.connections.login_wanted import LoginWantedError
from retinue_mcp_host.connections.oauth_requests import NoTokenError, OAuthRequests
from retinue_mcp_host.failures import login_required
from retinue_mcp_host.logins.login import Challenge, HttpPlace, Login, LoginKey, key_of
from retinue_mcp_host.logins.table import Logins, Refused, Renewal, Unanswered
from retinue_mcp_host.model import ServerSpec

_UNAUTHORIZED, _FORBIDDEN = 401, 403
_MAX_HEADER_CHARS = 4096
"""Of a WWW-Authenticate."""
_MAX_SCOPE_CHARS = 1024
_KEPT = 2
"""Tokens that may still be in a server's words."""


class LoginTokens:
    """`Tokens` of a login. `secrets` are what no error may repeat; they grow."""

    def __init__(
        self,
        spec: ServerSpec,
        place: HttpPlace,
        logins: Logins,
        requests: OAuthRequests,
        secrets: list[str],
    ) -> None:
        """Raises SecretNotFoundError; McpLoginRequiredError where the server is known to want a login."""
        self._key: LoginKey = key_of(spec, place)
        self._logins = logins
        self._requests = requests
        self._has_chosen_scopes = bool(place.oauth.scopes)
        self._secret = resolve_secret(
            place.oauth.client_secret, field=f"{place.name}.oauth.client_secret", values=secrets
        )
        self._secrets = secrets
        self._fixed_secrets = len(secrets)
        self._read_key: tuple[str, ProofKey | None] = ("", None)
        """The last login's, as it is kept and as it signs."""
        if logins.find(self._key) is None and logins.wanted(self._key) is not None:
            raise login_required(spec)

    async def current(self) -> AccessToken:
        """See Tokens. A login that stands is renewed ahead of its end, where that can be."""
        login = self._logins.find(self._key)
        if login is None:
            return AccessToken()
        now = time.time()
        if login.renew_at and now >= login.renew_at and login.refresh_token:
            renewal = await self._renewed(login.access_token)
            if isinstance(renewal, Login):
                login = renewal
            elif isinstance(renewal, Refused):
                return AccessToken()
            elif now >= login.expires_at:
                raise _cannot_renew(renewal)
        return self._shown(login)

    def can_answer(self, response: httpx2.Response) -> bool:
        """See Tokens."""
        if response.status_code == _FORBIDDEN:
            # Configured scopes are all that the operator gives: the server's wish adds none.
            too_little = extract_field_from_www_auth(response, "error") == "insufficient_scope"
            return too_little and not self._has_chosen_scopes
        return response.status_code == _UNAUTHORIZED

    async def renewed(self, refused: str, challenge: httpx2.Response | None) -> AccessToken:
        """See Tokens."""
        login = self._logins.find(self._key)
        if login is not None and login.access_token != refused:
            return self._shown(login)
        if login is not None and challenge is not None and challenge.status_code == _UNAUTHORIZED:
            renewal = await self._renewed(refused)
            if isinstance(renewal, Login):
                return self._shown(renewal)
            if isinstance(renewal, Unanswered):
                raise _cannot_renew(renewal)
        raise self._want(challenge)

    def check(self, response: httpx2.Response) -> None:
        """See Tokens."""
        if self.can_answer(response):
            raise self._want(response)

    async def _renewed(self, refused: str) -> Renewal:
        async def ask(login: Login) -> Renewal:
            self._requests.follow(login.issuer)
            return await renew(self._requests, login, self._secret)

        return await self._logins.renewed(self._key, refused, ask)

    def _want(self, challenge: httpx2.Response | None) -> LoginWantedError:
        status, header, missing = _UNAUTHORIZED, "", ""
        if challenge is not None:
            status = challenge.status_code
            header = challenge.headers.get("WWW-Authenticate", "")[:_MAX_HEADER_CHARS]
        if challenge is not None and status == _FORBIDDEN:
            missing = (extract_scope_from_www_auth(challenge) or "")[:_MAX_SCOPE_CHARS]
        self._logins.want(self._key, Challenge(status, header, missing))
        return LoginWantedError(missing)

    def _shown(self, login: Login) -> AccessToken:
        token = login.access_token
        if token not in self._secrets[self._fixed_secrets :]:
            del self._secrets[self._fixed_secrets : 1 - _KEPT]
            self._secrets.append(token)
        if self._read_key[0] != login.dpop_key:
            self._read_key = login.dpop_key, key_of_login(login)
        return AccessToken(token, self._read_key[1])


def _cannot_renew(renewal: Unanswered) -> NoTokenError:
    return NoTokenError(f"cannot be used: the login to it could not be renewed: {renewal.why}")
