"""What an identity provider says of a person, exchanged for a grant at another's authorization server.

This is the first half of MCP's enterprise-managed authorization (SEP-990): a token exchange (RFC 8693). The
second half shows the grant, as the grant jwt_bearer does with any other statement.
"""

import httpx2
import orjson

from retinue_mcp_host.connections.login_requests import can_be_sent, client_request
from retinue_mcp_host.connections.oauth_requests import NoTokenError, OAuthRequests, refused_by
from retinue_mcp_host.logins.login import ClientIdentity
from retinue_mcp_host.model import OAuth

_EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"  # noqa: S105 - a kind of token
_GRANT = "urn:ietf:params:oauth:token-type:id-jag"


class IdentityProvider:
    """The token endpoint of an identity provider, as one client of it."""

    def __init__(self, requests: OAuthRequests, oauth: OAuth, secret: str) -> None:
        """`secret` is the client's at the identity provider; empty where it has none."""
        self._requests = requests
        self._url = oauth.identity_provider
        self._issuer = oauth.issuer
        self._client = ClientIdentity(oauth.identity_client_id, "", "client_secret_basic")
        self._secret = secret

    async def grant(self, id_token: str, resource: str, scope: str | None) -> str:
        """A grant (ID-JAG) for the configured issuer, good for one server.

        Raises NoTokenError, httpx2.HTTPError, RetinueError.
        """
        form = {
            "grant_type": _EXCHANGE,
            "requested_token_type": _GRANT,
            "subject_token": id_token,
            "subject_token_type": _ID_TOKEN,
            "audience": self._issuer,
            "resource": resource,
        }
        if scope:
            form["scope"] = scope
        response = await self._requests.send(client_request(self._url, self._client, self._secret, form))
        if not response.is_success:
            raise NoTokenError(refused_by(self._url, response))
        return self._granted(response)

    def _granted(self, response: httpx2.Response) -> str:
        try:
            answer = orjson.loads(response.content)
        except orjson.JSONDecodeError:
            answer = None
        grant = answer.get("access_token") if isinstance(answer, dict) else None
        # RFC 8693, 2.2.1: the kind stands apart, and the grant in the field of another.
        is_grant = isinstance(answer, dict) and answer.get("issued_token_type") == _GRANT
        if not (is_grant and isinstance(grant, str) and can_be_sent(grant)):
            raise NoTokenError(f"what {self._url} answered is no grant for a person (ID-JAG)")
        return grant
