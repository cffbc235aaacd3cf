"""The fixtures of the MCP host's rpc tests; what they are made of stands in `hosting`."""

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from .hosting import Host, Registry, open_host


@pytest.fixture
def registry() -> Registry:
    return Registry()


@pytest.fixture
async def host(registry: Registry, tmp_path: Path) -> AsyncIterator[Host]:
    async with open_host(registry, tmp_path) as opened:
        yield opened


@pytest.fixture
def unused_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
