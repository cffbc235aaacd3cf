"""How one token is asked for: the SDK's flow, its requests sent by us, and what to say where it fails."""

import logging
from typing import Final, NamedTuple
from urllib.parse import parse_qsl

import httpx2
import jwt
from mcp.client.auth import OAuthClientProvider, OAuthFlowError, oauth2
from mcp.client.auth.extensions.client_credentials import (
    ClientCredentialsOAuthProvider,
    PrivateKeyJWTOAuthProvider,
    SignedJWTParameters,
)
from mcp.shared.auth import JWT_BEARER_GRANT_TYPE, OAuthClientInformationFull, OAuthToken
from mcp.shared.inbound import MCP_PROTOCOL_VERSION_HEADER
from mcp_types import LATEST_PROTOCOL_VERSION

from retinue_kit.secrets import hide_values
from retinue_mcp_host.connections.dpop import AccessToken, ProofKey, wants_bound
from retinue_mcp_host.connections.identity import IdentityProvider
from retinue_mcp_host.connections.oauth_requests import OAuthRequests, refused_by
from retinue_mcp_host.model import OAuth

_UNAUTHORIZED = 401
MAX_SAID_CHARS = 400
"""Of what an authorization server, or the server, says when it refuses."""
_POST: Final = "client_secret_post"

# It logs what the authorization server answers as it is, which may repeat the secret; the error says it.
logging.getLogger(oauth2.__name__).addFilter(lambda _: False)


class Shown(NamedTuple):
    """What a client shows of itself."""

    oauth: OAuth
    client_secret: str
    """The value; empty where it has a key."""
    private_key: str
    """In PEM."""
    assertion: str
    """A statement of the platform; with an identity provider, its statement of a person."""
    key: ProofKey
    """What a token is bound to, where that is wanted."""
    identity_secret: str
    """The client's at the identity provider."""


class Given(NamedTuple):
    """What a flow has brought."""

    token: AccessToken
    scope: str
    """Empty where it is not said."""
    life_s: int | None


class Flow:
    """One run of the SDK's flow, beside the requests to the server: its own way holds a lock during each."""

    def __init__(self, url: str, shown: Shown, scope: str | None, requests: OAuthRequests) -> None:
        self._url = url
        self._provider = _provider(url, shown, scope, requests)
        self._requests = requests
        self._shown = shown
        self._issuer = shown.oauth.issuer
        self._answer: httpx2.Response | None = None
        """The last of the token endpoint."""

    async def token(self, challenge: str) -> Given:
        """A token; `challenge` is the WWW-Authenticate that wants it, empty where the server sent none.

        Raises OAuthFlowError, httpx2.HTTPError, ValueError, OverflowError, RetinueError.
        """
        headers = {MCP_PROTOCOL_VERSION_HEADER: LATEST_PROTOCOL_VERSION}
        probe = httpx2.Request("POST", self._url, headers=headers)
        response = httpx2.Response(
            _UNAUTHORIZED, headers={"WWW-Authenticate": challenge} if challenge else {}, request=probe
        )
        flow = self._provider.async_auth_flow(probe)
        key: ProofKey | None = None
        try:
            await anext(flow)
            while (request := await flow.asend(response)) is not probe:
                if request.method == "POST" and is_bound(self._shown.oauth, self._provider, challenge):
                    key = self._shown.key
                    remade = self._provider.remade if isinstance(self._provider, _KeyClient) else None
                    response = await self._requests.send_bound(request, key, remade)
                else:
                    response = await self._requests.send(request)
                self._answer = response if request.method == "POST" else None
        finally:
            await flow.aclose()
        token = self._provider.context.current_tokens
        if token is None or not (token.access_token.isascii() and token.access_token.isprintable()):
            raise OAuthFlowError("no token that a header can carry")
        return Given(AccessToken(token.access_token, key), token.scope or "", token.expires_in)

    def why(self, error: Exception) -> str:
        """What to say of a flow that failed."""
        why = why_refused(error, self._answer, self._issuer)
        provider = self._provider
        return hide_values(why, [provider.grant]) if isinstance(provider, _AssertionClient) else why


def is_bound(oauth: OAuth, provider: OAuthClientProvider, challenge: str) -> bool:
    """Whether a token is to be bound to a key, as far as the provider has read the server's metadata."""
    metadata = provider.context.protected_resource_metadata
    is_required = metadata is not None and bool(metadata.dpop_bound_access_tokens_required)
    return oauth.require_dpop or is_required or wants_bound(challenge)


def why_refused(error: Exception, answer: httpx2.Response | None, issuer: str) -> str:
    """What to say of a flow that failed; `answer` is the last of the token endpoint, where there was one."""
    if answer is None:
        return str(error).partition("\n")[0]
    if answer.is_success:
        return f"what {issuer} answered is no token"
    return refused_by(issuer, answer)


class _SecretClient(ClientCredentialsOAuthProvider):
    """Shows its secret as the authorization server takes it, and asks for the scopes that were chosen."""

    async def _perform_authorization(self) -> httpx2.Request:
        context, fixed = self.context, self._fixed_client_info
        # The SDK puts the server's wish in the place of what it was given.
        context.client_metadata.scope = fixed.scope or context.client_metadata.scope
        known = (
            context.oauth_metadata.token_endpoint_auth_methods_supported if context.oauth_metadata else None
        )
        # RFC 8414, 2: basic where the metadata says nothing.
        if known and "client_secret_basic" not in known and _POST in known:
            fixed.token_endpoint_auth_method = _POST
        return await super()._perform_authorization()


class _AssertionClient(_SecretClient):
    """Shows what its platform says of it, in place of itself (RFC 7523, 2.1)."""

    grant: str
    """The assertion to show; once it is exchanged, what came of it."""
    shown_id: str
    """Empty where the assertion says who it is."""
    identity_provider: IdentityProvider | None

    async def _exchange_token_client_credentials(self) -> httpx2.Request:
        request = await super()._exchange_token_client_credentials()
        if self.identity_provider is not None:
            resource, scope = self.context.get_resource_url(), self.context.client_metadata.scope
            self.grant = await self.identity_provider.grant(self.grant, resource, scope)
        form = dict(parse_qsl(request.content.decode()))
        form |= {"grant_type": JWT_BEARER_GRANT_TYPE, "assertion": self.grant}
        shown = request.headers.get("Authorization")
        if shown is None and self.shown_id:
            form["client_id"] = self.shown_id
        headers = {"Authorization": shown} if shown else {}
        return httpx2.Request("POST", request.url, data=form, headers=headers)


class _KeyClient(PrivateKeyJWTOAuthProvider):
    """Signs with its key, and asks for the scopes that were chosen."""

    async def remade(self) -> httpx2.Request:
        """Another request for a token: what was signed for one counts once (RFC 7523, 3)."""
        return await self._perform_authorization()

    async def _perform_authorization(self) -> httpx2.Request:
        self.context.client_metadata.scope = (
            self._fixed_client_info.scope or self.context.client_metadata.scope
        )
        return await super()._perform_authorization()


def _provider(url: str, shown: Shown, scope: str | None, requests: OAuthRequests) -> OAuthClientProvider:
    oauth = shown.oauth
    if shown.private_key:
        return _KeyClient(
            url,
            storage=NoStorage(),
            client_id=oauth.client_id,
            assertion_provider=_Signer(shown).sign,
            scope=scope,
            issuer=oauth.issuer,
        )
    client = _AssertionClient if shown.assertion else _SecretClient
    provider = client(
        url,
        storage=NoStorage(),
        # The SDK takes no client without a name.
        client_id=oauth.client_id or "-",
        client_secret=shown.client_secret,
        scope=scope,
        issuer=oauth.issuer,
    )
    if isinstance(provider, _AssertionClient):
        provider.grant, provider.shown_id = shown.assertion, oauth.client_id
        provider.identity_provider = (
            IdentityProvider(requests, oauth, shown.identity_secret) if oauth.identity_provider else None
        )
    return provider


class _Signer:
    """Signs what a client with a key shows, once each."""

    def __init__(self, shown: Shown) -> None:
        self._algorithm = shown.oauth.algorithm
        self._sign = SignedJWTParameters(
            issuer=shown.oauth.client_id,
            subject=shown.oauth.client_id,
            signing_key=shown.private_key,
            signing_algorithm=self._algorithm,
        ).create_assertion_provider()

    async def sign(self, audience: str) -> str:
        """What is shown to an authorization server. Raises OAuthFlowError."""
        try:
            return await self._sign(audience)
        except (jwt.PyJWTError, ValueError, TypeError) as error:
            what = f"{type(error).__name__}: {error}"
            raise OAuthFlowError(f"private_key cannot sign with {self._algorithm}: {what}") from None


class NoStorage:
    """Knows a client at most: a provider lives for one token, which its context has."""

    def __init__(self, client: OAuthClientInformationFull | None = None) -> None:
        self._client = client

    async def get_tokens(self) -> OAuthToken | None:
        """None."""
        return None

    async def set_tokens(self, tokens: OAuthToken) -> None:
        """Nothing."""
        _ = tokens

    async def get_client_info(self) -> OAuthClientInformationFull | None:
        """The client."""
        return self._client

    async def set_client_info(self, client_info: OAuthClientInformationFull) -> None:
        """Nothing."""
        _ = client_info
