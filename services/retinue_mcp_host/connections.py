"""The live connections: one at most for each key, opened by the first who needs it."""

import asyncio
import contextvars
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from retinue.errors import McpServerUnavailableError
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connection import Connection, load_transports
from retinue_mcp_host.model import ConnectionKey, Limits, ServerSpec

log = structlog.get_logger()

SHARED = ""
"""The scope of a connection that all callers share."""

_MAX_SEEN = 10_000
"""Servers that are remembered as connected before; forgetting one costs a listener one notice."""


class Connections:
    """The table of connections, and the task group in which their owners run."""

    def __init__(
        self, tasks: asyncio.TaskGroup, changes: Changes, limits: Limits, max_connections: int
    ) -> None:
        self._tasks = tasks
        self._context = contextvars.copy_context()
        self._changes = changes
        self._limits = limits
        self._max = max_connections
        self._table: dict[ConnectionKey, Connection] = {}
        self._seen: dict[tuple[str, str], int] = {}
        self._closing = False

    def find(self, spec: ServerSpec, scope: str = SHARED) -> Connection | None:
        """The open connection of a server; None where there is none that can be used at once."""
        connection = self._table.get(ConnectionKey(spec.namespace, spec.name, spec.version, scope))
        return connection if connection is not None and connection.is_open else None

    async def connect(self, spec: ServerSpec, scope: str = SHARED) -> Connection:
        """Return the open connection of a server; connect it where there is none, once for all who wait.

        A failure is told to all who wait, and not remembered. Raises RetinueError.
        """
        key = ConnectionKey(spec.namespace, spec.name, spec.version, scope)
        connection = self._table.get(key)
        if connection is None or connection.is_over:
            connection = self._add(key, spec)
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
            on_end=self._remove,
        )
        self._table[key] = connection
        # It outlives its first caller: what is logged later is not that caller's.
        name = f"mcp {spec.namespace}/{spec.name}"
        self._tasks.create_task(connection.run(), name=name, context=self._context.copy())
        return connection

    def _opened(self, connection: Connection) -> None:
        key = connection.key
        seen = self._seen.get((key.namespace, key.server))
        if seen is None and len(self._seen) >= _MAX_SEEN:
            self._seen.pop(next(iter(self._seen)))
        self._seen[key.namespace, key.server] = max(seen or 0, key.version)
        if seen is not None:
            # A new process, or a new version of it: its tools may be others. A connect that fails tells
            # nobody: who lists again because of it would connect again, without end.
            self._changes.tell(key.namespace, key.server)

    def supersede(self, spec: ServerSpec) -> None:
        """Note that a version is the current one: connections of older ones end once they are idle."""
        seen = self._seen.get((spec.namespace, spec.name))
        if seen is None or seen >= spec.version:
            return
        self._seen[spec.namespace, spec.name] = spec.version
        for key, connection in self._table.items():
            if key[:2] == (spec.namespace, spec.name) and key.version < spec.version:
                connection.supersede()
        self._changes.tell(spec.namespace, spec.name)

    def _tools_changed(self, connection: Connection) -> None:
        self._changes.tell(connection.key.namespace, connection.key.server)

    def _remove(self, connection: Connection) -> None:
        if self._table.get(connection.key) is connection:
            del self._table[connection.key]
        if connection.was_lost:
            self._changes.tell(connection.key.namespace, connection.key.server)

    def close(self) -> None:
        """Ask all connections to end, side by side; no new one is made."""
        self._closing = True
        for connection in tuple(self._table.values()):
            connection.close()


@asynccontextmanager
async def open_connections(
    changes: Changes, limits: Limits, max_connections: int
) -> AsyncIterator[Connections]:
    """Open the table; leaving ends all connections and waits for them, each within `connection.CLOSE_S`."""
    async with open_task_group() as tasks:
        connections = Connections(tasks, changes, limits, max_connections)
        # The first to connect would wait for the import; here nobody does.
        warming = tasks.create_task(asyncio.to_thread(load_transports), name="import mcp")
        try:
            yield connections
        finally:
            connections.close()
            warming.cancel()
