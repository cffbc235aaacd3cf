"""Logins under way, from the address that a person opens to the one to which the browser is sent."""

import asyncio
import importlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import structlog

from retinue.errors import (
    InvalidArgumentError,
    McpLoginFailedError,
    McpLoginNotFoundError,
    RetinueError,
    Violation,
)
from retinue_mcp_host.logins.login import HttpPlace, LoginKey, key_of, place_of
from retinue_mcp_host.logins.redirect import choose_redirect, read_redirect
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import ServerSpec

if TYPE_CHECKING:
    from retinue_mcp_host.connections.login_flow import LoginFlow

log = structlog.get_logger()

LOGIN_S = 600.0
"""From the address to the end of a login."""
STEP_S = 30.0
"""For all requests of one step."""
MAX_UNDER_WAY = 100
"""Logins that nobody has finished; one more takes the place of the oldest."""


class StartedLogin(NamedTuple):
    """What a person needs to log in."""

    login_id: str
    authorization_url: str
    redirect_uri: str
    expire_us: int
    """Since 1970."""


@dataclass(frozen=True, slots=True)
class _UnderWay:
    spec: ServerSpec
    key: LoginKey
    flow: "LoginFlow"
    redirect_uri: str
    state: str
    expires_at: float
    """On the loop's clock."""


class LoginFlows:
    """Begins and finishes logins, and ends what they brought. One that waits for its person has no task."""

    def __init__(self, logins: Logins) -> None:
        self._logins = logins
        self._under_way: dict[str, _UnderWay] = {}

    async def start(self, spec: ServerSpec, redirect_uri: str) -> StartedLogin:
        """Find out where a person logs in to a server.

        Raises InvalidArgumentError, McpLoginFailedError where the authorization server cannot be used,
        ComponentNotAllowedError, SecretNotFoundError, McpServerUnavailableError, McpTimeoutError.
        """
        place = place_of(spec)
        if place is None:
            what = "has no login in its config: set grant: authorization_code in its oauth"
            raise InvalidArgumentError(
                f"MCP server {spec.name} {what}", violations=[Violation("name", f"{spec.name} {what}")]
            )
        redirect_uri = choose_redirect(place.oauth, redirect_uri)
        key = key_of(spec, place)
        flow = await _flow_of(spec, place, redirect_uri)
        try:
            async with asyncio.timeout(STEP_S):
                asked = await flow.start(self._logins.wanted(key), self._logins.before(key))
        except TimeoutError:
            raise _failed(spec, f"{flow.issuer} did not answer in {STEP_S:g} s") from None
        self._drop_expired()
        if len(self._under_way) >= MAX_UNDER_WAY:
            del self._under_way[next(iter(self._under_way))]
        login_id = f"login-{secrets.token_hex(16)}"
        expires_at = asyncio.get_running_loop().time() + LOGIN_S
        self._under_way[login_id] = _UnderWay(spec, key, flow, redirect_uri, asked.state, expires_at)
        expire_us = time.time_ns() // 1000 + int(LOGIN_S * 1e6)
        log.info("login started", server=spec.name, login_id=login_id, issuer=flow.issuer)
        return StartedLogin(login_id, asked.url, redirect_uri, expire_us)

    def _drop_expired(self) -> None:
        now = asyncio.get_running_loop().time()
        for login_id in [each for each, login in self._under_way.items() if login.expires_at <= now]:
            del self._under_way[login_id]

    async def finish(self, login_id: str, redirect_url: str) -> LoginKey:
        """Take what the authorization server said to the browser, and get the tokens for it.

        An address that is not the answer to this login leaves it open: it may come from anybody. Raises
        McpLoginNotFoundError, InvalidArgumentError, McpLoginFailedError, RetinueError.
        """
        self._drop_expired()
        login = self._under_way.get(login_id)
        if login is None:
            raise McpLoginNotFoundError(
                f"there is no login {login_id}: it was finished, or its {LOGIN_S:g} s are over; begin anew",
                login_id=login_id,
            )
        said = read_redirect(login.redirect_uri, login.state, redirect_url)
        del self._under_way[login_id]
        if said.error:
            raise _failed(login.spec, f"the authorization server says {said.error}", said.error)
        try:
            async with asyncio.timeout(STEP_S):
                granted = await login.flow.finish(said.code, said.iss)
        except TimeoutError:
            raise _failed(login.spec, f"{login.flow.issuer} did not answer in {STEP_S:g} s") from None
        await self._logins.put(login.key, granted)
        log.info("logged in", server=login.spec.name, login_id=login_id, issuer=granted.issuer)
        return login.key

    async def logout(self, namespace: str, server: str, spec: ServerSpec | None) -> bool:
        """Forget the logins to a server; whether the authorization server has taken the tokens back.

        `spec` is what the registry has of the server now; None where it has nothing.
        """
        dropped = await self._logins.drop(namespace, server)
        place = place_of(spec) if spec is not None else None
        revoked = False
        for key, login in dropped:
            if spec is None or place is None or key_of(spec, place) != key:
                continue
            try:
                flow = await _flow_of(spec, place, login.client.redirect_uri)
                async with asyncio.timeout(STEP_S):
                    revoked = await flow.revoke(login)
            except (RetinueError, TimeoutError) as error:
                log.info("tokens were not taken back", server=server, error=str(error))
        log.info("logged out", server=server, revoked=revoked)
        return revoked


async def _flow_of(spec: ServerSpec, place: HttpPlace, redirect_uri: str) -> "LoginFlow":
    # Not at the top: the SDK takes half a second to import.
    module = await asyncio.to_thread(importlib.import_module, "retinue_mcp_host.connections.login_flow")
    flow: LoginFlow = module.LoginFlow(spec, place, redirect_uri)
    return flow


def _failed(spec: ServerSpec, why: str, error: str | None = None) -> McpLoginFailedError:
    return McpLoginFailedError(
        f"the login to MCP server {spec.name} came to nothing: {why}",
        server=spec.name,
        namespace=spec.namespace,
        error=error,
    )
