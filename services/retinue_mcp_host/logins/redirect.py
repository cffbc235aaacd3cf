"""The addresses to which browsers are sent after a login: which are allowed, and what one says."""

import ipaddress
import secrets
from typing import NamedTuple
from urllib.parse import parse_qs, urlsplit

from retinue.errors import InvalidArgumentError, Violation
from retinue_mcp_host.model import OAuth

MAX_URL_CHARS = 16 * 1024
MAX_SAID_CHARS = 400
"""Of what an authorization server says in a redirect."""
_SINGLE = ("code", "state", "iss", "error", "error_description")


class Redirect(NamedTuple):
    """What an authorization server said with a redirect (RFC 6749, 4.1.2; RFC 9207)."""

    code: str
    iss: str | None
    error: str
    """Why there is no code; empty where there is one."""


def choose_redirect(oauth: OAuth, given: str) -> str:
    """Where the browser of a login goes. Raises InvalidArgumentError."""
    if oauth.redirect_uri:
        if given not in ("", oauth.redirect_uri):
            raise _invalid(
                f"is another than the one in the server's config, {oauth.redirect_uri}: leave it out"
            )
        return oauth.redirect_uri
    if not given:
        raise _invalid("is empty, and the server's config has none: name an address of the person's machine")
    if not _is_own_machine(given):
        # Anywhere else the code would be somebody else's; an operator may know better, in the config.
        raise _invalid(
            "must be http:// with 127.0.0.1, [::1] or localhost, without a query; another one has to stand "
            "in the server's config"
        )
    return given


def _is_own_machine(url: str) -> bool:
    try:
        parts = urlsplit(url)
        _ = parts.port
        host = parts.hostname or ""
        here = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
    plain = not (parts.query or parts.fragment or parts.username is not None) and url.isprintable()
    return here and plain and parts.scheme == "http" and len(url) <= MAX_URL_CHARS


def read_redirect(redirect_uri: str, state: str, url: str) -> Redirect:
    """What the address says to which a browser was sent. Raises InvalidArgumentError where it is not ours."""
    if len(url) > MAX_URL_CHARS:
        raise _not_ours(f"has more than {MAX_URL_CHARS} characters")
    try:
        wanted, got = urlsplit(redirect_uri), urlsplit(url)
        said = parse_qs(got.query, keep_blank_values=True, max_num_fields=100)
    except ValueError:
        raise _not_ours("is no address") from None
    if (wanted.scheme, wanted.netloc, wanted.path or "/") != (got.scheme, got.netloc, got.path or "/"):
        raise _not_ours(f"does not begin with {redirect_uri}")
    if any(len(said.get(name, ())) > 1 for name in _SINGLE):
        raise _not_ours("says something twice")
    one = {name: values[0] for name, values in said.items()}
    if not secrets.compare_digest(one.get("state", "").encode(), state.encode()):
        raise _not_ours("has another state: it answers another login")
    error = ": ".join(filter(None, (one.get("error"), one.get("error_description"))))[:MAX_SAID_CHARS]
    if not error and not one.get("code"):
        raise _not_ours("has no code")
    return Redirect(one.get("code", ""), one.get("iss"), error)


def _invalid(what: str) -> InvalidArgumentError:
    return InvalidArgumentError(f"redirect_uri {what}", violations=[Violation("redirect_uri", what)])


def _not_ours(what: str) -> InvalidArgumentError:
    # Without the address: it may hold a code.
    return InvalidArgumentError(
        f"redirect_url {what}: give the whole address that the browser shows after the login",
        violations=[Violation("redirect_url", what)],
    )
