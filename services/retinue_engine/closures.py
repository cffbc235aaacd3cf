"""What a run needs, from the registry: asked once for each component, and again after any change there."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from retinue.client import Components, ServiceChannel
from retinue.client.backoff import backoff_s
from retinue.errors import RetinueError
from retinue.registry.v1 import component_pb2
from retinue.registry.v1.service_pb2 import ResolveComponentResponse
from retinue_kit.tasks import open_task_group

log = structlog.get_logger()

MAX_KEPT = 10_000
"""Closures in memory; one more empties the table."""

_Key = tuple[str, int, str, str]


class Closures:
    """Resolves components. An answer is kept only while a watch says that nothing has changed."""

    def __init__(self, channel: ServiceChannel, group: asyncio.TaskGroup) -> None:
        self._channel = channel
        self._group = group
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._standing: set[str] = set()
        self._kept: dict[_Key, ResolveComponentResponse] = {}
        self._changes = 0

    async def resolve(self, namespace: str, kind: int, name: str, llm: str) -> ResolveComponentResponse:
        """A component and all that it needs. Raises what the registry raises."""
        key = (namespace, kind, name, llm)
        kept = self._kept.get(key)
        if kept is not None:
            return kept
        changes = self._changes
        components = Components(self._channel, namespace)
        resolved = await components.resolve(component_pb2.ComponentKind.ValueType(kind), name, llm=llm)
        # Only now: a namespace that is not there is not watched for ever.
        if namespace not in self._watches:
            self._watches[namespace] = self._group.create_task(self._watch(namespace))
        if namespace in self._standing and changes == self._changes:
            if len(self._kept) >= MAX_KEPT:
                self._kept.clear()
            self._kept[key] = resolved
        return resolved

    async def _watch(self, namespace: str) -> None:
        components = Components(self._channel, namespace)
        waits = backoff_s()
        while True:
            try:
                revision = await components.revision()
                async for response in components.watch(after_revision=revision):
                    # Whatever came before the watch stood may have been missed by an answer.
                    self._forget(namespace)
                    self._standing.add(namespace)
                    waits = backoff_s()
                    if response.changes:
                        log.debug("components changed", namespace=namespace, count=len(response.changes))
            except RetinueError as error:
                log.info("the watch of the registry broke off", namespace=namespace, error=error.message)
            self._standing.discard(namespace)
            self._forget(namespace)
            await asyncio.sleep(next(waits))

    def _forget(self, namespace: str) -> None:
        self._changes += 1
        for key in [key for key in self._kept if key[0] == namespace]:
            del self._kept[key]

    def end_watches(self) -> None:
        """End the watches."""
        for task in self._watches.values():
            task.cancel()


@asynccontextmanager
async def open_closures(channel: ServiceChannel) -> AsyncIterator[Closures]:
    """Open the table; leaving ends its watches."""
    async with open_task_group() as group:
        closures = Closures(channel, group)
        try:
            yield closures
        finally:
            closures.end_watches()
