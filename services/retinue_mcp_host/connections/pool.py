"""The live connections: one at most for each key, opened by the first who needs it."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from retinue.errors import McpServerUnavailableError
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections.connection import Connection, load_transports
from retinue_mcp_host.connections.revisions import Revisions
from retinue_mcp_host.logins.table import Logins
from retinue_mcp_host.model import SHARED, ConnectionKey, Limits, ServerSpec
from retinue_mcp_host.servers.log import ServerLog, ServerLogs
from retinue_mcp_host.servers.supervision import Supervision

log = structlog.get_logger()

_MAX_SEEN = 10_000
"""Servers that are remembered as connected before; forgetting one costs a listener one notice."""


class Connections:
    """The table of connections, and the task group in which their owners run."""

    def __init__(
        self,
        tasks: asyncio.TaskGroup,
        changes: Changes,
        supervision: Supervision,
        logs: ServerLogs,
        logins: Logins,
        limits: Limits,
        max_connections: int,
    ) -> None:
        self._tasks = tasks
        self._context = contextvars.copy_context()
        self._changes = changes
        self._supervision = supervision
        self._logs = logs
        self._logins = logins
        self._limits = limits
        self._max = max_connections
        self._table: dict[ConnectionKey, Connection] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._revisions = Revisions()
        self._closing = False

    def find(self, spec: ServerSpec, scope: str = SHARED) -> Connection | None:
        """The open connection of a server; None where there is none that can be used at once."""
        connection = self._table.get(ConnectionKey(spec.namespace, spec.name, spec.version, scope))
        return connection if connection is not None and connection.is_open else None

    def at(self, key: ConnectionKey) -> Connection | None:
        """The connection of a key, in whatever state; None where there is none."""
        return self._table.get(key)

    async def connect(self, spec: ServerSpec, scope: str = SHARED) -> Connection:
        """Return the open connection of a server; connect it where there is none, once for all who wait.

        A failure is told to all who wait. After several in a row the next try waits, and its callers with it;
        while the breaker is open they fail at once. Raises RetinueError.
        """
        key = ConnectionKey(spec.namespace, spec.name, spec.version, scope)
        while True:
            connection = self._table.get(key)
            if connection is not None:
                connection.settle()
            health = self._supervision.health(key)
            if connection is not None and not connection.is_over and not health.on_trial:
                break
            # From here on a caller takes part in the next connection.
            refusal = health.refusal(spec)
            if refusal is not None:
                raise refusal
            if not health.wait_s:
                connection = self._add(key, spec)
                break
            await health.until_retry()
        await connection.opened()
        return connection

    def _add(self, key: ConnectionKey, spec: ServerSpec) -> Connection:
        if self._closing:
            raise McpServerUnavailableError("the MCP host is stopping", server=spec.name)
        if len(self._table) >= self._max:
            raise McpServerUnavailableError(
                f"MCP server {spec.name} cannot be connected: {self._max} connections are open; shorten the "
                "servers' idle_timeout, or raise RETINUE_MAX_CONNECTIONS where the MCP host is started",
                server=spec.name,
            )
        connection = Connection(
            key,
            spec,
            self._limits,
            on_open=self._opened,
            on_tools_changed=self._tools_changed,
            on_end=self._ended,
            revisions=self._revisions,
            logins=self._logins,
            server_log=ServerLog(self._logs.ring(key.namespace, key.server), key.scope),
        )
        self._table[key] = connection
        self._supervision.health(key).connecting()
        # It outlives its first caller: what is logged later is not that caller's.
        name = f"mcp {spec.namespace}/{spec.name}"
        self._tasks.create_task(connection.run(), name=name, context=self._context.copy())
        return connection

    def _opened(self, connection: Connection) -> None:
        key = connection.key
        self._supervision.opened(key, connection.info)
        seen = self._seen.get((key.namespace, key.server))
        if seen is None and len(self._seen) >= _MAX_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key.namespace, key.server] = max(seen or 0, key.version)
        if seen is not None:
            # A new process, or a new version of it: its tools may be others. A connect that fails tells
            # nobody: who lists again because of it would connect again, without end.
            self._changes.tell(key.namespace, key.server)

    def supersede(self, namespace: str, server: str, version: int) -> None:
        """Note that a version is the current one: connections of older ones end once they are idle."""
        seen = self._seen.get((namespace, server))
        if seen is None or seen >= version:
            return
        self._seen[namespace, server] = version
        for key, connection in self._table.items():
            if key[:2] == (namespace, server) and key.version < version:
                connection.supersede()
        self._supervision.supersede(namespace, server, version)
        self._changes.tell(namespace, server)

    def _tools_changed(self, connection: Connection) -> None:
        self._changes.tell(connection.key.namespace, connection.key.server)

    def _ended(self, connection: Connection) -> None:
        key = connection.key
        if self._table.get(key) is not connection:
            return
        del self._table[key]
        is_current = self._seen.get((key.namespace, key.server), key.version) <= key.version
        self._supervision.ended(key, connection.failure, is_current=is_current)
        if connection.was_lost:
            self._changes.tell(key.namespace, key.server)

    def retire(self, namespace: str, server: str) -> None:
        """Note that the registry has a server no more: its connections end once they are idle."""
        for key, connection in self._table.items():
            if key[:2] == (namespace, server):
                connection.supersede()
        self._supervision.retire(namespace, server)

    async def restart(self, spec: ServerSpec) -> None:
        """Close a server's connections, wait until nothing is left of them, and connect the shared one again.

        Its breakers are closed by that. Raises RetinueError.
        """
        for connection in self.disconnect(spec.namespace, spec.name):
            await connection.left()
        self._supervision.reset(spec.namespace, spec.name)
        if spec.scope == "shared":
            await self.connect(spec)

    def disconnect(self, namespace: str, server: str) -> list[Connection]:
        """Ask the connections of a server to end, and return them."""
        found = [each for key, each in self._table.items() if key[:2] == (namespace, server)]
        for connection in found:
            connection.close()
        return found

    def close_scope(self, namespace: str, scope: str) -> None:
        """Close the connections of a session or a run tree that is over."""
        if scope == SHARED:
            return
        for key in [key for key in self._table if key.namespace == namespace and key.scope == scope]:
            self._table[key].close()
        self._supervision.forget_scope(namespace, scope)

    def close(self) -> None:
        """Ask all connections to end, side by side; no new one is made."""
        self._closing = True
        for connection in tuple(self._table.values()):
            connection.close()


@asynccontextmanager
async def open_connections(
    changes: Changes,
    supervision: Supervision,
    logs: ServerLogs,
    logins: Logins,
    limits: Limits,
    max_connections: int,
) -> AsyncIterator[Connections]:
    """Open the table; leaving ends all connections and waits for them, each within `connection.CLOSE_S`."""
    async with open_task_group() as tasks:
        connections = Connections(tasks, changes, supervision, logs, logins, limits, max_connections)
        # The first to connect would wait for the import; here nobody does.
        warming = tasks.create_task(asyncio.to_thread(load_transports), name="import mcp")
        try:
            yield connections
        finally:
            connections.close()
            warming.cancel()
