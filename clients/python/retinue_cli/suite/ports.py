"""Addresses to listen on: read, checked to be free, and chosen where the port is 0."""

import errno
import random
import socket
from collections.abc import Mapping
from contextlib import ExitStack

from retinue_cli.failures import USAGE, CommandError

_LARGEST_PORT = 65_535

_FREE_PORTS = range(20_000, 32_000)
"""Below those that systems give to connections: nobody is given one between the choice and its use."""
_TRIES = 20


def split_address(address: str, option: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[::1]:port`."""
    host, colon, port = address.rpartition(":")
    if not colon or not host or not port.isdecimal() or int(port) > _LARGEST_PORT:
        raise CommandError(f"{option} {address!r} is not HOST:PORT, like 127.0.0.1:7403", status=USAGE)
    return host.removeprefix("[").removesuffix("]"), int(port)


def choose_addresses(wanted: Mapping[str, str]) -> dict[str, str]:
    """The addresses by option, port 0 replaced by a free port.

    Raises CommandError for one that is taken: it names the option to change it with.
    """
    chosen: dict[str, str] = {}
    with ExitStack() as held:
        for option, address in wanted.items():
            host, port = split_address(address, option)
            bind = _bind if port else _bind_free
            taken = held.enter_context(bind(host, port, option, address))
            chosen[option] = f"{address.rpartition(':')[0]}:{taken.getsockname()[1]}"
    return chosen


def _bind_free(host: str, _: int, option: str, address: str) -> socket.socket:
    for port in random.sample(_FREE_PORTS, _TRIES):
        try:
            return _bind(host, port, option, address)
        except CommandError:
            continue
    return _bind(host, 0, option, address)


def _bind(host: str, port: int, option: str, address: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((host, port))
            # Without listening two of these could be chosen with one port.
            bound.listen(1)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise CommandError(
                f"{address} is taken: is another `retinue up` running? Stop it, choose another address with "
                f"{option} HOST:PORT, or let --free-ports choose"
            ) from None
        raise CommandError(f"{option} {address}: cannot listen there: {error.strerror or error}") from None
    return bound
