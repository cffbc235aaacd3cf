"""What is asked of an authorization server about a login that stands: new tokens, and to take them back."""

import asyncio
import base64
import time
from dataclasses import replace
from typing import Any
from urllib.parse import quote

import httpx2
import orjson

from retinue.errors import RetinueError
from retinue_mcp_host.connections.dpop import ProofKey
from retinue_mcp_host.connections.oauth_requests import NoTokenError, OAuthRequests
from retinue_mcp_host.logins.login import ClientIdentity, Login
from retinue_mcp_host.logins.table import Refused, Renewal, Unanswered

RENEW_S = 10.0
"""For new tokens in all."""
EARLY_S = 30.0
"""A token is renewed so long before it expires, or with a tenth of its time left where that is less."""
MAX_LIFE_S = 10 * 365 * 86_400
"""A longer life is none that a clock can count."""


async def renew(requests: OAuthRequests, login: Login, secret: str) -> Renewal:
    """New tokens for a refresh token. `secret` is the client's own; empty where it has none."""
    form = {"grant_type": "refresh_token", "refresh_token": login.refresh_token}
    if login.resource:
        form["resource"] = login.resource
    try:
        async with asyncio.timeout(RENEW_S):
            request = client_request(login.token_endpoint, login.client, secret, form)
            if key := key_of_login(login):
                response = await requests.send_bound(request, key)
            else:
                response = await requests.send(request)
    except TimeoutError:
        return Unanswered(f"{login.issuer} did not answer in {RENEW_S:g} s")
    except (httpx2.HTTPError, httpx2.InvalidURL, RetinueError) as error:
        return Unanswered(str(error).partition("\n")[0])
    # RFC 6749, 5.2: 400 is about the token, 401 about the client.
    if response.status_code in (httpx2.codes.BAD_REQUEST, httpx2.codes.UNAUTHORIZED, httpx2.codes.FORBIDDEN):
        return Refused(knows_client=response.status_code == httpx2.codes.BAD_REQUEST)
    if not response.is_success:
        return Unanswered(f"{login.issuer} answered HTTP status {response.status_code}")
    return _renewed(login, response.content)


def _renewed(login: Login, content: bytes) -> Renewal:
    try:
        answer = orjson.loads(content)
    except orjson.JSONDecodeError:
        answer = None
    token = answer.get("access_token") if isinstance(answer, dict) else None
    if not isinstance(token, str) or not can_be_sent(token):
        return Unanswered(f"what {login.issuer} answered is no token")
    # RFC 6749, 6: what it leaves out stays as it was.
    refresh, scope = answer.get("refresh_token"), answer.get("scope")
    expires_at, renew_at = life(answer.get("expires_in"))
    return replace(
        login,
        access_token=token,
        refresh_token=refresh if isinstance(refresh, str) and refresh else login.refresh_token,
        expires_at=expires_at,
        renew_at=renew_at,
        scope=scope if isinstance(scope, str) else login.scope,
    )


def key_of_login(login: Login) -> ProofKey | None:
    """What a login's tokens are bound to; None where they are not. Raises NoTokenError."""
    try:
        return ProofKey.from_pem(login.dpop_key) if login.dpop_key else None
    except ValueError:
        # Its own words would show the key.
        raise NoTokenError("cannot be used: the key of its login is broken; log out and in again") from None


async def revoke(requests: OAuthRequests, login: Login, secret: str) -> bool:
    """Have tokens taken back (RFC 7009); whether they were. Raises RetinueError, httpx2.HTTPError."""
    if not login.revocation_endpoint:
        return False
    token = login.refresh_token or login.access_token
    kind = "refresh_token" if login.refresh_token else "access_token"
    form = {"token": token, "token_type_hint": kind}
    response = await requests.send(client_request(login.revocation_endpoint, login.client, secret, form))
    return response.is_success


def client_request(url: str, client: ClientIdentity, secret: str, form: dict[str, str]) -> httpx2.Request:
    """A request of a client, which shows who it is. `secret` is the config's; empty where it has none."""
    secret = secret or client.client_secret
    headers = {}
    if secret and client.auth_method == "client_secret_basic":
        # RFC 6749, 2.3.1: each part is encoded first.
        pair = f"{quote(client.client_id, safe='')}:{quote(secret, safe='')}"
        headers["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    else:
        form = form | ({"client_id": client.client_id} if client.client_id else {})
        if secret:
            form["client_secret"] = secret
    return httpx2.Request("POST", url, data=form, headers=headers)


def can_be_sent(token: str) -> bool:
    """Whether a header can carry it."""
    return bool(token) and token.isascii() and token.isprintable()


def life(expires_in: Any) -> tuple[float, float]:
    """When a token expires, and when it is renewed, since 1970; 0 where that is not known."""
    if isinstance(expires_in, bool) or not isinstance(expires_in, int | float):
        return 0.0, 0.0
    if not 0 < expires_in < MAX_LIFE_S:
        return 0.0, 0.0
    expires_at = time.time() + expires_in
    return expires_at, expires_at - min(EARLY_S, expires_in / 10)
