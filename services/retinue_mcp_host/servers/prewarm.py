"""Connects servers that are to be warm before anybody uses them, and keeps them connected."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack, asynccontextmanager

import structlog

from retinue.errors import RetinueError
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.connections.pool import Connections
from retinue_mcp_host.servers.catalogue import Catalogue, Followed
from retinue_mcp_host.servers.convert import is_warm
from retinue_mcp_host.servers.routes import Routes

log = structlog.get_logger()

RETRY_S = 5.0
"""At least, from a failure to the next try; the server's own backoff may be longer."""


class Prewarmer:
    """A task for each warm server of the namespaces that it is given."""

    def __init__(self, tasks: asyncio.TaskGroup, routes: Routes, connections: Connections) -> None:
        self._tasks = tasks
        self._routes = routes
        self._connections = connections
        self._namespaces: dict[str, Followed] = {}
        self._present: set[tuple[str, str]] = set()
        """Servers that the registry had when it was looked last."""
        self._warm: dict[tuple[str, str], tuple[int, asyncio.Task[None]]] = {}

    def begin(self, followed: Followed) -> None:
        """Look after a namespace."""
        self._namespaces[followed.namespace] = followed

    def changed(self, namespace: str, server: str) -> None:
        """Take in what the registry has now of a server; nothing where its connections alone have changed."""
        followed = self._namespaces.get(namespace)
        if followed is None or not followed.is_known.is_set():
            return
        key = (namespace, server)
        component = followed.servers.get(server)
        if component is not None:
            self._present.add(key)
            self._connections.supersede(namespace, server, component.version)
        elif key in self._present:
            self._present.discard(key)
            self._connections.retire(namespace, server)
        version = component.version if component is not None and is_warm(component) else 0
        known, task = self._warm.get(key, (0, None))
        if known == version:
            return
        if task is not None:
            del self._warm[key]
            task.cancel()
        if version:
            keeping = self._tasks.create_task(self._keep(namespace, server, version), name=f"warm {server}")
            self._warm[key] = (version, keeping)

    async def _keep(self, namespace: str, server: str, version: int) -> None:
        while True:
            try:
                spec = await self._routes.spec(namespace, server, version)
                connection = await self._connections.connect(spec)
                connection.keep()
                await connection.left()
            except RetinueError as error:
                log.info("a warm server cannot be connected", server=server, error=error.message)
                wait_s = float(error.facts.get("retry_after_s", 0))
                await asyncio.sleep(max(wait_s, RETRY_S))
            except Exception:
                log.exception("a warm server cannot be connected, by a bug", server=server)
                return

    def close(self) -> None:
        """Keep nothing warm any more."""
        for _, task in self._warm.values():
            task.cancel()


@asynccontextmanager
async def open_prewarmer(
    catalogue: Catalogue, states: Changes, routes: Routes, connections: Connections, namespaces: Sequence[str]
) -> AsyncIterator[None]:
    """Keep the warm servers of namespaces connected until the block is left."""
    async with open_task_group() as tasks:
        with ExitStack() as stack:
            prewarmer = Prewarmer(tasks, routes, connections)
            stack.callback(prewarmer.close)
            for namespace in namespaces:
                prewarmer.begin(stack.enter_context(catalogue.follow(namespace)))
            states.listen(prewarmer.changed)
            stack.callback(states.unlisten, prewarmer.changed)
            yield
