"""Where components that came by API may lead: names and addresses, looked up once and checked."""

import asyncio
import ipaddress
import re
import socket
from dataclasses import dataclass
from typing import NamedTuple
from urllib.parse import urlsplit

from retinue.errors import ComponentNotAllowedError

API_HOSTS = "RETINUE_API_HOSTS"

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_ANY = "*"
_NAME = re.compile(r"(\*\.)?[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_PORT = re.compile(r"(?P<host>[^:]+|\[[^\]]+\]):(?P<port>[0-9]{1,5})")
_FORMS = "write host, host:port, *.example.com, 10.0.0.0/8 or *"
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""IPv4 behind IPv6 (RFC 6052); the other ways to hide one are known to `ipaddress`."""


class HostRule(NamedTuple):
    """One entry of the list."""

    name: str
    """A name, `*.` and a name, `*` for all that are public; empty where it is a network."""
    network: Network | None = None
    port: int | None = None
    """None: each."""


class Target(NamedTuple):
    """Where a URL leads: its host, and the addresses at which it may be connected to, best first."""

    host: str
    port: int
    addresses: tuple[str, ...]


def parse_host(entry: str) -> HostRule:
    """An entry of RETINUE_API_HOSTS. Raises ValueError."""
    host, port = entry.lower(), None
    if found := _PORT.fullmatch(host):
        host, port = found["host"], int(found["port"])
    if host == _ANY:
        return HostRule(_ANY, None, port)
    try:
        return HostRule("", ipaddress.ip_network(host.strip("[]"), strict=False), port)
    except ValueError:
        if "/" in host or not _NAME.fullmatch(host):
            raise ValueError(f"{entry!r} is not a host: {_FORMS}") from None
    return HostRule(host, None, port)


def is_public(address: Address) -> bool:
    """Whether an address is one of the open internet."""
    inner = _inner(address)
    if inner is not None and not is_public(inner):
        return False
    return address in _NAT64 or (address.is_global and not address.is_multicast)


def _inner(address: Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that an IPv6 address stands for; None where it is its own."""
    if isinstance(address, ipaddress.IPv4Address):
        return None
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)


def _lists(rule: HostRule, host: str, address: Address, *, public: bool) -> bool:
    """Whether a rule is about a host that has an address; a name that is listed may lead anywhere."""
    if rule.network is not None:
        inner = _inner(address)
        return address in rule.network or (inner is not None and inner in rule.network)
    if rule.name == _ANY:
        return public
    return host.endswith(rule.name[1:]) if rule.name.startswith(_ANY) else host == rule.name


@dataclass(frozen=True, slots=True)
class Reach:
    """Where the address in one field of a component may lead."""

    kind: str
    name: str
    field: str
    service: str
    """Who connects, for messages: `engine`."""
    rules: tuple[HostRule, ...]
    secret: bool
    """Whether secrets may go there: then even a public host has to be listed."""

    async def target(self, url: str) -> Target:
        """Look up the host of a URL, and leave out the addresses at which it may not be reached.

        Raises ComponentNotAllowedError where none is left, OSError where it cannot be looked up.
        """
        parts = urlsplit(url)
        host = (parts.hostname or "").rstrip(".")
        port = parts.port or (443 if parts.scheme == "https" else 80)
        try:
            found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except UnicodeError:
            raise OSError(f"{host[:80]!r} cannot be the name of a host") from None
        addresses = tuple(dict.fromkeys(str(each[4][0]) for each in found))
        allowed = tuple(each for each in addresses if self._allows(host, port, ipaddress.ip_address(each)))
        if not allowed:
            public = all(is_public(ipaddress.ip_address(each)) for each in addresses)
            why = "and secrets may go there" if public else "which is not a public address"
            raise self._refusal(f"leads to {host}:{port}, {why}", f"{host}:{port}")
        return Target(host, port, allowed)

    def check_anywhere(self) -> None:
        """Raise ComponentNotAllowedError unless all public hosts are listed."""
        if not any(rule.name == _ANY and rule.port is None for rule in self.rules):
            raise self._refusal("leaves it to litellm which host is asked", _ANY)

    def refusal_without_address(self) -> ComponentNotAllowedError:
        """The error for a provider that is asked where this service's own settings say."""
        return ComponentNotAllowedError(
            f"{self.kind} {self.name} came by API and needs a {self.field}: its provider has no public host",
            kind=self.kind,
            name=self.name,
            field=self.field,
            setting=API_HOSTS,
        )

    def _allows(self, host: str, port: int, address: Address) -> bool:
        public = is_public(address)
        return (public and not self.secret) or any(
            rule.port in (None, port) and _lists(rule, host, address, public=public) for rule in self.rules
        )

    def _refusal(self, what: str, entry: str) -> ComponentNotAllowedError:
        return ComponentNotAllowedError(
            f"{self.kind} {self.name} came by API and its {self.field} {what}: add {entry} to {API_HOSTS} "
            f"where the {self.service} is started, or put the component into a file",
            kind=self.kind,
            name=self.name,
            field=self.field,
            setting=API_HOSTS,
        )
