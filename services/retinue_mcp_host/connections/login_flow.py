"""One login to one server: the SDK's flow up to the address that a person opens, and from their answer on.

In between nothing runs: what the second step needs is kept.
"""

import secrets
import time
from dataclasses import replace
from typing import Any, NamedTuple

import httpx2
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, OAuthRegistrationError
from mcp.client.auth.oauth2 import PKCEParameters
from mcp.client.auth.utils import (
    extract_field_from_www_auth,
    issuers_match,
    validate_authorization_response_iss,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthClientMetadata, OAuthToken
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import LATEST_PROTOCOL_VERSION
from pydantic import AnyUrl

from retinue.errors import McpLoginFailedError, RetinueError
from retinue_kit.secrets import hide_values, resolve_secret
from retinue_mcp_host.connections.dpop import ProofKey
from retinue_mcp_host.connections.login_requests import can_be_sent, life, revoke
from retinue_mcp_host.connections.oauth_flow import MAX_SAID_CHARS, NoStorage, is_bound, why_refused
from retinue_mcp_host.connections.oauth_requests import OAuthRequests, as_shown
from retinue_mcp_host.connections.tls import tls_context
from retinue_mcp_host.failures import unavailable, why_unreachable
from retinue_mcp_host.logins.login import Challenge, ClientIdentity, HttpPlace, Login
from retinue_mcp_host.model import ServerSpec, SseTransport, TlsFiles

CLIENT_NAME = "Retinue"
_NO_LOGIN = (OAuthFlowError, httpx2.HTTPError, httpx2.InvalidURL, ValueError, OverflowError)
"""What comes of an authorization server that cannot be used."""
_UNAUTHORIZED = 401
_METADATA = "resource_metadata"
"""Where a challenge says that the server's metadata is (RFC 9728, 5.1)."""
_PING = {"jsonrpc": "2.0", "id": 0, "method": "ping"}


class Asked(NamedTuple):
    """What a person is asked to open, and what their answer is known by."""

    url: str
    state: str


class LoginFlow:
    """The two steps of one login, and what ends it. Raises McpLoginFailedError and RetinueError."""

    def __init__(self, spec: ServerSpec, place: HttpPlace, redirect_uri: str) -> None:
        """Raises SecretNotFoundError, McpServerUnavailableError for TLS files that cannot be used."""
        self._spec = spec
        self._place = place
        self._redirect_uri = redirect_uri
        self._hidden: list[str] = []
        field = f"{place.name}.oauth"
        self._secret = resolve_secret(
            place.oauth.client_secret, field=f"{field}.client_secret", values=self._hidden
        )
        tls = place.transport.tls
        verify = tls_context(spec, tls) if tls != TlsFiles() else True
        self._requests = OAuthRequests(spec, place.transport.url, field, place.oauth, verify)
        self._hidden += as_shown(place.oauth.client_id, self._secret)
        self._provider: _PersonProvider | None = None
        self._key: ProofKey | None = None
        """What the login's tokens are bound to; None where they are not."""
        self._answer: httpx2.Response | None = None
        """Of the token endpoint."""

    @property
    def issuer(self) -> str:
        """Where the person logs in, as far as it is known."""
        known = self._provider.issuer if self._provider else ""
        return known or self._place.oauth.issuer or "its authorization server"

    async def start(self, challenge: Challenge | None, before: Login | None) -> Asked:
        """Find the authorization server and become its client.

        `challenge` is what the server refused a request with, asked for here where it has not yet; `before`
        is a login that stands: its client is used again, and a 403 adds to its scopes.
        """
        provider = _PersonProvider(self._place, self._redirect_uri, self._secret, before, self._requests)
        self._provider = provider
        challenge = await self._with_metadata(challenge)
        probe = httpx2.Request(
            "POST",
            self._place.transport.url,
            headers={MCP_PROTOCOL_VERSION_HEADER: LATEST_PROTOCOL_VERSION},
        )
        response = httpx2.Response(challenge.status, headers=_as_sent(challenge), request=probe)
        flow = provider.async_auth_flow(probe)
        try:
            await anext(flow)
            while (request := await flow.asend(response)).url != provider.asked:
                response = await self._requests.send(request)
        except _NO_LOGIN as error:
            raise self._failed(error) from None
        finally:
            await flow.aclose()
        if is_bound(self._place.oauth, provider, challenge.header):
            self._key = ProofKey.generate()
        return Asked(str(provider.asked), provider.state)

    async def finish(self, code: str, iss: str | None) -> Login:
        """Get the tokens for a code, from the authorization server that `iss` says it is of."""
        provider = self._provider
        assert provider is not None  # noqa: S101 - started before
        self._hidden += [code, provider.verifier]
        try:
            request = await provider.exchange(code, iss)
            if self._key is None:
                self._answer = await self._requests.send(request)
                return provider.login(self._answer)
            self._answer = await self._requests.send_bound(request, self._key)
            return replace(provider.login(self._answer), dpop_key=self._key.to_pem())
        except _NO_LOGIN as error:
            raise self._failed(error) from None

    async def revoke(self, login: Login) -> bool:
        """Have a login's tokens taken back; whether they were."""
        self._hidden += [login.access_token, login.refresh_token]
        try:
            self._requests.follow(login.issuer)
            return await revoke(self._requests, login, self._secret)
        except httpx2.HTTPError as error:
            raise self._failed(error) from None

    async def _with_metadata(self, challenge: Challenge | None) -> Challenge:
        """The challenge with where the server's metadata is, which a 403 need not say."""
        if challenge is not None and (challenge.status == _UNAUTHORIZED or _METADATA in challenge.header):
            return challenge
        first = await self._challenge()
        if challenge is None or _METADATA not in first.header:
            return challenge or first
        found = extract_field_from_www_auth(httpx2.Response(first.status, headers=_as_sent(first)), _METADATA)
        return challenge._replace(header=f'{challenge.header}, {_METADATA}="{found}"')

    async def _challenge(self) -> Challenge:
        """What the server says to somebody without a token. Raises McpServerUnavailableError."""
        url = self._place.transport.url
        accept = {"Accept": "application/json, text/event-stream"}
        if isinstance(self._place.transport, SseTransport):
            request = httpx2.Request("GET", url, headers=accept)
        else:
            request = httpx2.Request("POST", url, headers=accept, json=_PING)
        try:
            response = await self._requests.head_of(request)
        except httpx2.HTTPError as error:
            raise unavailable(self._spec, why_unreachable(error)) from None
        refused = response.status_code == _UNAUTHORIZED
        # One that lets strangers in to its front room may want a login further on.
        return Challenge(_UNAUTHORIZED, response.headers.get("WWW-Authenticate", "") if refused else "")

    def _failed(self, error: Exception) -> RetinueError:
        why = why_refused(error, self._answer, self.issuer)
        if isinstance(error, OAuthRegistrationError):
            why += "; where it registers no clients, set client_id or client_metadata_url in the config"
        client = self._provider.context.client_info if self._provider else None
        hidden = self._hidden
        if client is not None and client.client_secret:
            hidden = [*hidden, client.client_secret, *as_shown(client.client_id, client.client_secret)]
        why = hide_values(why, hidden)[:MAX_SAID_CHARS]
        return McpLoginFailedError(
            f"the login to MCP server {self._spec.name} came to nothing: {why}",
            server=self._spec.name,
            namespace=self._spec.namespace,
        )


def _as_sent(challenge: Challenge) -> dict[str, str]:
    return {"WWW-Authenticate": challenge.header} if challenge.header else {}


class _ChosenScopes(OAuthClientMetadata):
    """What a client says of itself, with the operator's scopes: a server's wish does not replace them."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "scope":
            super().__setattr__(name, value)


class _PersonProvider(OAuthClientProvider):
    """The SDK's flow, which ends at the address for the person and goes on with their answer."""

    def __init__(
        self, place: HttpPlace, redirect_uri: str, secret: str, before: Login | None, requests: OAuthRequests
    ) -> None:
        oauth = place.oauth
        metadata = _ChosenScopes if oauth.scopes else OAuthClientMetadata
        super().__init__(
            place.transport.url,
            metadata(
                redirect_uris=[AnyUrl(redirect_uri)],
                client_name=CLIENT_NAME,
                scope=" ".join(oauth.scopes) or (before.scope if before else "") or None,
                application_type="native" if redirect_uri.startswith("http://") else "web",
            ),
            NoStorage(_known_client(place, redirect_uri, secret, before)),
            client_metadata_url=oauth.client_metadata_url or None,
        )
        self._oauth = oauth
        self._requests = requests
        self._redirect_uri = redirect_uri
        self.asked: httpx2.URL | None = None
        """What the person opens."""
        self.state = secrets.token_urlsafe(32)
        pkce = PKCEParameters.generate()
        self.verifier = pkce.code_verifier
        self._code_challenge = pkce.code_challenge

    @property
    def issuer(self) -> str:
        """The authorization server; empty while it is not known."""
        metadata = self.context.oauth_metadata
        return str(metadata.issuer) if metadata else self.context.auth_server_url or ""

    def _select_authorization_server(self, advertised: list[str]) -> str:
        wanted = self._oauth.issuer
        chosen = next((each for each in advertised if not wanted or issuers_match(each, wanted)), "")
        if not chosen:
            raise OAuthFlowError(f"its metadata names {advertised[0]}, not the configured issuer {wanted}")
        self._requests.follow(chosen)
        return chosen

    def _expected_issuer(self) -> str:
        expected = super()._expected_issuer()
        if self._oauth.issuer and not issuers_match(expected, self._oauth.issuer):
            raise OAuthFlowError(f"it has no metadata that names the configured issuer {self._oauth.issuer}")
        return expected

    async def _perform_authorization(self) -> httpx2.Request:
        context = self.context
        client, metadata = context.client_info, context.oauth_metadata
        assert client is not None  # noqa: S101 - the flow has found or made one
        if metadata is None and self._oauth.issuer:
            raise OAuthFlowError(f"{self._oauth.issuer} has no metadata")
        if metadata is not None and "S256" not in (metadata.code_challenge_methods_supported or ()):
            # As MCP says: codes that could be stolen on the way are not asked for.
            raise OAuthFlowError(f"{metadata.issuer} does not say that it knows PKCE with S256")
        if metadata is not None:
            self._choose_auth_method(client, metadata.token_endpoint_auth_methods_supported)
            endpoint = httpx2.URL(str(metadata.authorization_endpoint))
        else:
            endpoint = httpx2.URL(context.get_authorization_base_url(context.server_url)).join("/authorize")
        # Before the person has gone there: what they agree to would be in vain.
        self._requests.check_address(endpoint)
        self._requests.check_address(httpx2.URL(self._get_token_endpoint()))
        params = {
            "response_type": "code",
            "client_id": client.client_id,
            "redirect_uri": self._redirect_uri,
            "state": self.state,
            "code_challenge": self._code_challenge,
            "code_challenge_method": "S256",
        }
        if context.should_include_resource_param(context.protocol_version):
            params["resource"] = context.get_resource_url()
        if scope := context.client_metadata.scope:
            params["scope"] = scope
            if "offline_access" in scope.split():
                # OpenID Connect Core, 11.
                params["prompt"] = "consent"
        self.asked = endpoint.copy_merge_params(params)
        return httpx2.Request("GET", self.asked)

    def _choose_auth_method(self, client: OAuthClientInformationFull, known: list[str] | None) -> None:
        """For a client of the config; one that registered itself was told."""
        post = "client_secret_post"
        if self._oauth.client_secret and known and "client_secret_basic" not in known and post in known:
            client.token_endpoint_auth_method = post

    async def exchange(self, code: str, iss: str | None) -> httpx2.Request:
        """The request for tokens. Raises OAuthFlowError for a code of another issuer (RFC 9207)."""
        validate_authorization_response_iss(iss, self.context.oauth_metadata)
        return await self._exchange_token_authorization_code(code, self.verifier)

    def login(self, response: httpx2.Response) -> Login:
        """What the authorization server has granted. Raises OAuthFlowError, ValueError."""
        if not response.is_success:
            raise OAuthFlowError(f"HTTP status {response.status_code}")
        token = OAuthToken.model_validate_json(response.content)
        if not can_be_sent(token.access_token):
            raise OAuthFlowError("no token that a header can carry")
        context = self.context
        metadata, client = context.oauth_metadata, context.client_info
        assert client is not None  # noqa: S101 - it was shown
        expires_at, renew_at = life(token.expires_in)
        revocation = metadata.revocation_endpoint if metadata else None
        with_resource = context.should_include_resource_param(context.protocol_version)
        return Login(
            access_token=token.access_token,
            refresh_token=token.refresh_token or "",
            expires_at=expires_at,
            renew_at=renew_at,
            # RFC 6749, 5.1: where it says nothing, all that was asked for is granted.
            scope=token.scope if token.scope is not None else context.client_metadata.scope or "",
            login_us=time.time_ns() // 1000,
            issuer=self.issuer or context.get_authorization_base_url(context.server_url),
            token_endpoint=self._get_token_endpoint(),
            revocation_endpoint=str(revocation or ""),
            resource=context.get_resource_url() if with_resource else "",
            client=ClientIdentity(
                client_id=client.client_id,
                redirect_uri=self._redirect_uri,
                auth_method=client.token_endpoint_auth_method or "none",
                client_secret="" if self._oauth.client_secret else client.client_secret or "",
                secret_expires_at=client.client_secret_expires_at or 0,
                is_registered=not self._oauth.client_id
                and client.client_id != self._oauth.client_metadata_url,
            ),
        )


def _known_client(
    place: HttpPlace, redirect_uri: str, secret: str, before: Login | None
) -> OAuthClientInformationFull | None:
    """The client of the config, or the one that registered itself for the login before, where that fits."""
    oauth = place.oauth
    if oauth.client_id:
        return OAuthClientInformationFull(
            client_id=oauth.client_id,
            client_secret=secret or None,
            token_endpoint_auth_method="client_secret_basic" if secret else "none",
            issuer=oauth.issuer,
        )
    client = before.client if before else None
    if client is None or before is None or not client.is_registered or client.redirect_uri != redirect_uri:
        return None
    if client.secret_expires_at and client.secret_expires_at <= time.time():
        return None
    return OAuthClientInformationFull(
        client_id=client.client_id,
        client_secret=client.client_secret or None,
        token_endpoint_auth_method=client.auth_method,
        client_secret_expires_at=client.secret_expires_at or None,
        issuer=before.issuer,
    )
