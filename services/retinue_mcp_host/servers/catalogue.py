"""Which MCP servers the registry has, by namespace, kept current for as long as somebody follows."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import structlog

from retinue.client import Components, ServiceChannel
from retinue.client.backoff import backoff_s
from retinue.errors import RetinueError, ServiceUnavailableError
from retinue.registry.v1.component_pb2 import Component
from retinue_kit.tasks import open_task_group
from retinue_mcp_host.changes import Changes
from retinue_mcp_host.convert import MCP_SERVER
from retinue_mcp_host.servers.convert import changed_server

log = structlog.get_logger()

FIRST_WAIT_S = 10.0
"""How long who begins to follow waits for the registry."""


class Followed:
    """The servers of one namespace. While the registry is away they stay as they were."""

    def __init__(self, namespace: str) -> None:
        self.namespace = namespace
        self.servers: dict[str, Component] = {}
        self.followers = 0
        self.task: asyncio.Task[None] | None = None
        self.failure: RetinueError | None = None
        """Why the registry does not answer."""
        self.is_known = asyncio.Event()

    async def known(self) -> Mapping[str, Component]:
        """The servers by name. Raises the registry's error where it has not answered yet."""
        try:
            async with asyncio.timeout(FIRST_WAIT_S):
                await self.is_known.wait()
        except TimeoutError:
            raise self.failure or ServiceUnavailableError(
                "the registry does not answer: is it running?", service="registry"
            ) from None
        return self.servers


class Catalogue:
    """Follows namespaces at the registry; tells `changed` of each server that is other than before."""

    def __init__(self, tasks: asyncio.TaskGroup, registry: ServiceChannel, changed: Changes) -> None:
        self._tasks = tasks
        self._registry = registry
        self._changed = changed
        self._followed: dict[str, Followed] = {}

    @contextmanager
    def follow(self, namespace: str) -> Iterator[Followed]:
        """Follow a namespace until the block is left."""
        followed = self._followed.get(namespace)
        if followed is None:
            followed = self._followed[namespace] = Followed(namespace)
            followed.task = self._tasks.create_task(self._keep(followed), name=f"follow {namespace}")
        followed.followers += 1
        try:
            yield followed
        finally:
            followed.followers -= 1
            if not followed.followers and followed.task is not None:
                del self._followed[namespace]
                followed.task.cancel()

    async def _keep(self, followed: Followed) -> None:
        waits = backoff_s()
        components = Components(self._registry, followed.namespace)
        while True:
            try:
                # Asked for before the list: what changes meanwhile is told twice rather than not at all.
                revision = await components.revision()
                found = {each.name: each async for each in components.list(MCP_SERVER, page_size=1000)}
                self._replace(followed, found)
                waits = backoff_s()
                async for response in components.watch(after_revision=revision):
                    for changed in filter(None, map(changed_server, response.changes)):
                        self._take(followed, *changed)
            except RetinueError as error:
                if followed.failure is None:
                    log.info("the registry cannot be followed", error=error.message)
                followed.failure = error
            except Exception:
                log.exception("the registry cannot be followed, by a bug", namespace=followed.namespace)
            await asyncio.sleep(next(waits))

    def _replace(self, followed: Followed, found: dict[str, Component]) -> None:
        before, followed.servers = followed.servers, found
        followed.failure = None
        followed.is_known.set()
        for name in before.keys() | found.keys():
            old, new = before.get(name), found.get(name)
            if old is None or new is None or old.etag != new.etag or old.version != new.version:
                self._changed.tell(followed.namespace, name)

    def _take(self, followed: Followed, name: str, component: Component | None) -> None:
        if component is None:
            followed.servers.pop(name, None)
        else:
            followed.servers[name] = component
        self._changed.tell(followed.namespace, name)

    def close(self) -> None:
        """Follow nothing any more."""
        for followed in self._followed.values():
            if followed.task is not None:
                followed.task.cancel()


@asynccontextmanager
async def open_catalogue(registry: ServiceChannel, changed: Changes) -> AsyncIterator[Catalogue]:
    """Open it; nothing is asked before somebody follows."""
    async with open_task_group() as tasks:
        catalogue = Catalogue(tasks, registry, changed)
        try:
            yield catalogue
        finally:
            catalogue.close()
