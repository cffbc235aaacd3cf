"""The resources of one connection that are watched: each is subscribed to once, however many watch it."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from retinue.errors import McpServerBusyError, McpServerUnavailableError

log = structlog.get_logger()

MAX_WATCHED = 1000
"""Resources of one connection."""
MAX_CHANGED = 100
"""Addresses that one watcher has not been told yet; beyond it only the resource itself is named."""

Subscribe = Callable[[str, Callable[[], None]], Awaitable[None]]
"""Lets the server tell of a resource until it is cancelled or the server ends it; says when that stands."""


class Watcher:
    """Somebody who watches one resource, and what has changed since they were told last."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._changed: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._over = False

    @property
    def is_over(self) -> bool:
        """Whether the server tells no more."""
        return self._over

    def note(self, uri: str) -> None:
        """Note that the resource, or a part of it, may hold something else."""
        self._changed[uri if len(self._changed) < MAX_CHANGED else self.uri] = None
        self._wake.set()

    def end(self) -> None:
        """Note that the server tells no more."""
        self._over = True
        self._wake.set()

    def wake(self) -> None:
        """Let whoever waits look again."""
        self._wake.set()

    async def changes(self, timeout_s: float) -> list[str]:
        """Wait for what has changed; empty when the time is over, nobody tells any more, or it was woken."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return []
        self._wake.clear()
        changed, self._changed = list(self._changed), {}
        return changed


class _Subscription:
    """One resource: who watches it, and the task that stands for it."""

    def __init__(self) -> None:
        self.watchers: set[Watcher] = set()
        self.standing: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.ended = asyncio.Event()
        self.task: asyncio.Task[None] | None = None
        self.is_ending = False

    def stands(self) -> None:
        """The server tells from now on."""
        if not self.standing.done():
            self.standing.set_result(None)

    def fail(self, error: Exception) -> None:
        """The server will not tell."""
        if not self.standing.done():
            self.standing.set_exception(error)
            self.standing.exception()  # seen: who waited for it may have gone


class Subscriptions:
    """The table of them. Their tasks run in the group that it is given; `close` ends them."""

    def __init__(self, tasks: asyncio.TaskGroup, subscribe: Subscribe) -> None:
        self._tasks = tasks
        self._subscribe = subscribe
        self._table: dict[str, _Subscription] = {}

    async def add(self, uri: str) -> Watcher:
        """Watch a resource; the first who does subscribes. Raises McpServerBusyError, and what that does."""
        while (found := self._table.get(uri)) is not None and found.is_ending:
            await found.ended.wait()
        if found is None:
            if len(self._table) >= MAX_WATCHED:
                raise McpServerBusyError(
                    f"{MAX_WATCHED} resources of this MCP server are watched: stop watching one of them",
                    max_queue=MAX_WATCHED,
                )
            found = self._table[uri] = _Subscription()
            found.task = self._tasks.create_task(self._keep(uri, found))
        watcher = Watcher(uri)
        found.watchers.add(watcher)
        try:
            await asyncio.shield(found.standing)
        except BaseException:
            self.remove(watcher)
            raise
        return watcher

    def remove(self, watcher: Watcher) -> None:
        """Watch no more; with the last who does the subscription ends."""
        found = self._table.get(watcher.uri)
        if found is None or watcher not in found.watchers:
            return
        found.watchers.discard(watcher)
        if not found.watchers and found.task is not None and not found.is_ending:
            found.is_ending = True
            found.task.cancel()

    async def _keep(self, uri: str, subscription: _Subscription) -> None:
        try:
            await self._subscribe(uri, subscription.stands)
        except Exception as error:  # noqa: BLE001 - told to those who wait, or too late to matter to them
            if subscription.standing.done():
                log.debug("a subscription broke", uri=uri, error=repr(error))
            else:
                subscription.fail(error)
        finally:
            subscription.is_ending = True
            subscription.fail(McpServerUnavailableError("the connection of the subscription is over"))
            if self._table.get(uri) is subscription:
                del self._table[uri]
            for watcher in subscription.watchers:
                watcher.end()
            subscription.ended.set()

    def changed(self, uri: str) -> None:
        """Tell those who watch a resource, or one that it is a part of."""
        for watched, subscription in self._table.items():
            if uri == watched or uri.startswith(watched if watched.endswith("/") else f"{watched}/"):
                for watcher in subscription.watchers:
                    watcher.note(uri)

    def close(self) -> None:
        """End all of them: the connection is over."""
        for subscription in list(self._table.values()):
            subscription.is_ending = True
            if subscription.task is not None:
                subscription.task.cancel()
