"""One watcher of one resource, over as many connections as it takes."""

import asyncio
import contextlib

import structlog

from retinue.client.backoff import backoff_s
from retinue.errors import (
    McpRequestRefusedError,
    McpServerBusyError,
    McpServerUnavailableError,
    McpTimeoutError,
    ServiceUnavailableError,
)
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections.connection import Connection
from retinue_mcp_host.connections.subscriptions import Watcher
from retinue_mcp_host.content.contents import Place, check_capability
from retinue_mcp_host.servers.routes import Routes

log = structlog.get_logger()

LOOK_S = 60.0
"""How long a watcher of a quiet resource waits before it looks whether its connection still stands."""

_PASSING = (McpServerUnavailableError, McpServerBusyError, McpTimeoutError, ServiceUnavailableError)
"""What a watch that stood outlives."""
_NO_PING = "2026-07-28"
"""The revision from which on there is none."""


class ResourceWatch:
    """Subscribes to a resource; again where the connection is lost, and at a new version of the server."""

    def __init__(self, place: Place, uri: str, routes: Routes, changes: Changes) -> None:
        self.told = Watcher(uri)
        """What has changed, for who reads it."""
        self.stands = asyncio.Event()
        """Set once the resource is watched."""
        self._place = place
        self._uri = uri
        self._routes = routes
        self._changes = changes
        self._at: Watcher | None = None

    async def run(self) -> None:
        """Watch until cancelled. Raises the RetinueError of a watch that never stood or cannot any more."""
        self._changes.listen(self._server_changed)
        waits = backoff_s()
        try:
            while True:
                try:
                    connection = await self._routes.connection(*self._place)
                    check_capability(connection, "resource_subscriptions")
                    async with connection.watching(self._uri) as self._at:
                        if self.stands.is_set():
                            # What happened meanwhile nobody knows.
                            self.told.note(self._uri)
                        self.stands.set()
                        waits = backoff_s()
                        await self._pass_on(self._at, connection)
                except _PASSING as error:
                    if not self.stands.is_set():
                        raise
                    log.debug("a resource is not watched", server=self._place.server, error=error.message)
                await asyncio.sleep(next(waits))
        finally:
            self._changes.unlisten(self._server_changed)

    async def _pass_on(self, watcher: Watcher, connection: Connection) -> None:
        """Pass on what changes, until the connection is over or another version is the right one."""
        while not watcher.is_over:
            changed = await watcher.changes(LOOK_S)
            for uri in changed:
                self.told.note(uri)
            if not changed and not await self._still_right(connection):
                return

    async def _still_right(self, connection: Connection) -> bool:
        """Whether a connection is to the right version, and its server is there. Raises RetinueError."""
        with contextlib.suppress(ServiceUnavailableError):  # the registry is away; the server need not be
            if (await self._routes.spec(*self._place[:3])).version != connection.spec.version:
                return False
        # A server elsewhere that is gone says nothing. From 2026-07-28 on there is no ping, and the
        # subscription is a request that breaks off.
        info = connection.info
        if info is not None and info.revision < _NO_PING:
            with contextlib.suppress(McpRequestRefusedError):
                await connection.request("ping", {})
        return True

    def _server_changed(self, namespace: str, server: str) -> None:
        if (namespace, server) == self._place[:2] and self._at is not None:
            self._at.wake()
