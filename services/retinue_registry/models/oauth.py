"""The rules of how the MCP host gets a token for a server."""

import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator

from retinue_registry.models.fields import (
    Broken,
    KeyReference,
    Part,
    Required,
    Text,
    Url,
    once_each,
    optional,
)

OAUTH_SECRETS = ("client_secret", "private_key", "assertion", "identity_client_secret")
"""The fields that hold a reference to a secret."""

EXAMPLE = {
    "issuer": "https://login.example.com",
    "client_id": "retinue",
    "client_secret": "${env:CLIENT_SECRET}",
}

_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")
"""RFC 6749, 3.3."""
_DEFAULT = "client_credentials"
_IDENTITY = ("identity_provider", "identity_client_id", "identity_client_secret")
_OWN_FIELDS: Mapping[str, tuple[str, ...]] = {
    "client_credentials": ("issuer", "client_id", "client_secret", "private_key", "private_key_algorithm"),
    "authorization_code": ("issuer", "client_id", "client_secret", "client_metadata_url", "redirect_uri"),
    "jwt_bearer": ("issuer", "client_id", "client_secret", "assertion", *_IDENTITY),
}
"""What has an effect with a grant, beside scopes."""
_NEEDED = {"client_credentials": ("issuer", "client_id"), "jwt_bearer": ("issuer", "assertion")}


def _scope(text: str) -> str:
    if not _SCOPE.fullmatch(text):
        raise ValueError("must be one scope: characters of ASCII without spaces, quotes and backslashes")
    return text


Scope = Annotated[Text, AfterValidator(_scope)]


class OAuthSettings(Part):
    """How the host gets a token for a server."""

    issuer: Url | None = optional("https://login.example.com")
    client_id: Required | None = optional("retinue")
    client_secret: KeyReference | None = optional("${env:CLIENT_SECRET}")
    private_key: KeyReference | None = optional("${file:keys/client.pem}")
    private_key_algorithm: (
        Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]
        | None
    ) = optional("ES256", default="RS256")
    scopes: Annotated[list[Scope], AfterValidator(once_each)] | None = optional(["tools.read"])
    grant: Literal["client_credentials", "authorization_code", "jwt_bearer"] | None = optional(
        "authorization_code", default=_DEFAULT
    )
    client_metadata_url: Url | None = optional("https://retinue.example.com/client.json")
    redirect_uri: Url | None = optional("http://127.0.0.1:7414/callback")
    assertion: KeyReference | None = optional("${file:/var/run/secrets/token}")
    identity_provider: Url | None = optional("https://idp.example.com/token")
    identity_client_id: Required | None = optional("retinue")
    identity_client_secret: KeyReference | None = optional("${env:IDENTITY_SECRET}")
    require_dpop: bool | None = optional(True, default=False)


def check_oauth(transport: str, http: Mapping[str, Any], oauth: Mapping[str, Any]) -> Iterator[Broken]:
    """Yield what is missing, without effect, or would send a secret where others read it."""
    place = (transport, "oauth")
    grant = oauth.get("grant", _DEFAULT)
    if grant in _OWN_FIELDS:
        yield from _check_fields(place, grant, oauth)
    if _is_open(http.get("url")):
        yield Broken((transport, "url"), "must begin with https:// where a token goes to another machine")
    for name in ("issuer", "redirect_uri", "identity_provider"):
        if _is_open(oauth.get(name)):
            yield Broken((*place, name), "must begin with https:// where a secret goes to another machine")
    headers = http.get("headers")
    for name in headers if isinstance(headers, dict) else ():
        if isinstance(name, str) and name.lower() == "authorization":
            yield Broken((transport, "headers", name), "is without effect beside oauth: it holds its token")


def _check_fields(place: tuple[str, str], grant: str, oauth: Mapping[str, Any]) -> Iterator[Broken]:
    for others, names in _OWN_FIELDS.items():
        for name in names:
            if name in oauth and name not in _OWN_FIELDS[grant]:
                yield Broken((*place, name), f"is without effect: it is for the grant {others}")
    for name in _NEEDED.get(grant, ()):
        if name not in oauth:
            yield Broken((*place, name), f"is missing: the grant {grant} needs it")
    if grant == "client_credentials":
        yield from _check_client(place, oauth)
    elif "client_secret" in oauth and "client_id" not in oauth:
        yield Broken((*place, "client_secret"), "needs client_id: a secret is of one client")
    if grant == "authorization_code":
        yield from _check_person(place, oauth)
    if grant == "jwt_bearer":
        yield from _check_identity(place, oauth)


def _check_client(place: tuple[str, str], oauth: Mapping[str, Any]) -> Iterator[Broken]:
    found = [name for name in ("client_secret", "private_key") if name in oauth]
    if not found:
        yield Broken(place, "needs client_secret or private_key, a reference to what the client shows")
    elif len(found) > 1:
        yield Broken((*place, found[-1]), f"has {' and '.join(found)}: set one of them")
    if "private_key_algorithm" in oauth and "private_key" not in oauth:
        yield Broken((*place, "private_key_algorithm"), "is without effect: it is for private_key")


def _check_identity(place: tuple[str, str], oauth: Mapping[str, Any]) -> Iterator[Broken]:
    if "identity_provider" in oauth and "client_id" not in oauth:
        yield Broken((*place, "identity_provider"), "needs client_id: its grant is for one client")
    for name, needed in zip(_IDENTITY[1:], _IDENTITY, strict=False):
        if name in oauth and needed not in oauth:
            yield Broken((*place, name), f"is without effect: it needs {needed}")


def _check_person(place: tuple[str, str], oauth: Mapping[str, Any]) -> Iterator[Broken]:
    if "client_id" in oauth and "issuer" not in oauth:
        yield Broken((*place, "client_id"), "needs issuer: the authorization server that knows the client")
    if "client_id" in oauth and "client_metadata_url" in oauth:
        yield Broken((*place, "client_metadata_url"), "has client_id beside it: set one of them")
    url = oauth.get("client_metadata_url")
    if isinstance(url, str) and not (url.startswith("https://") and urlsplit(url).path.strip("/")):
        yield Broken((*place, "client_metadata_url"), "must begin with https:// and have a path")
    redirect = oauth.get("redirect_uri")
    if isinstance(redirect, str) and "#" in redirect:
        yield Broken((*place, "redirect_uri"), "must have no fragment: no browser sends it")


def _is_open(url: object) -> bool:
    """Whether what goes to an address can be read on the way: without TLS, to another machine."""
    if not isinstance(url, str) or not url.startswith("http://"):
        return False
    try:
        host = urlsplit(url).hostname or ""
        return host != "localhost" and not ipaddress.ip_address(host).is_loopback
    except ValueError:
        return True
