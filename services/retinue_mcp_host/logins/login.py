"""What the host knows of the login to one server. Data, no behaviour."""

import hashlib
from dataclasses import astuple, dataclass, field
from typing import Literal, NamedTuple

from retinue_mcp_host.model import HttpTransport, OAuth, ServerSpec, SseTransport

LoginState = Literal["logged_out", "required", "logged_in"]


class LoginKey(NamedTuple):
    """Which login is meant. What was granted for one config goes to no server of another."""

    namespace: str
    server: str
    config: str
    """Of the server's url and OAuth settings."""


class Challenge(NamedTuple):
    """With what a server refused a request."""

    status: int
    """401 or 403."""
    header: str
    """Its WWW-Authenticate."""
    missing_scopes: str = ""
    """What a 403 says that the request lacks."""


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """As whom the host asked for a login."""

    client_id: str
    redirect_uri: str
    auth_method: str
    """How it shows its secret at the token endpoint: `client_secret_basic`, `client_secret_post`, `none`."""
    client_secret: str = field(default="", repr=False)
    """Of a client that registered itself; that of the config is resolved where it is used."""
    secret_expires_at: int = 0
    """Since 1970, in seconds; 0 where it does not."""
    is_registered: bool = False
    """Whether it registered itself."""


@dataclass(frozen=True, slots=True)
class Login:
    """What a person has granted, and what is needed to renew it."""

    access_token: str = field(repr=False)
    refresh_token: str = field(repr=False)
    """Empty where there is none."""
    expires_at: float
    """Of the access token, since 1970, in seconds; 0 where it is not known."""
    renew_at: float
    """When it is renewed ahead of that; 0 where it is not."""
    scope: str
    login_us: int
    """When the person logged in, since 1970."""
    issuer: str
    token_endpoint: str
    revocation_endpoint: str
    """Empty where there is none."""
    resource: str
    """What tokens are asked for; empty where it is not said."""
    client: ClientIdentity
    dpop_key: str = field(default="", repr=False)
    """The private key in PEM that its tokens are bound to; empty where they are not."""


class LoginView(NamedTuple):
    """The login to a server at one moment."""

    state: LoginState
    login: Login | None
    missing_scopes: str


class HttpPlace(NamedTuple):
    """Where a server with a login stands in its component."""

    transport: HttpTransport | SseTransport
    name: str
    """Of the transport, in the component."""
    oauth: OAuth


def place_of(spec: ServerSpec) -> HttpPlace | None:
    """Where a server stands whose config has a person's login; None for one that has none."""
    transport = spec.transport
    if not isinstance(transport, HttpTransport | SseTransport) or transport.oauth is None:
        return None
    if transport.oauth.grant != "authorization_code":
        return None
    name = "sse" if isinstance(transport, SseTransport) else "streamable_http"
    return HttpPlace(transport, name, transport.oauth)


def key_of(spec: ServerSpec, place: HttpPlace) -> LoginKey:
    """The key of a server's login."""
    config = repr((place.name, place.transport.url, astuple(place.oauth)))
    return LoginKey(spec.namespace, spec.name, hashlib.sha256(config.encode()).hexdigest())
