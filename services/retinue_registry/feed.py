"""Hands changes to those who watch. A watcher that does not keep up is dropped and harms nobody."""

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from retinue.errors import ServiceUnavailableError
from retinue_registry.component import BATCH_BYTES, Change


class Watcher:
    """What one watcher still has to see."""

    def __init__(self, namespace: str, size: int) -> None:
        self.namespace = namespace
        self._size = size
        self._waiting: deque[Change] = deque()
        self._some = asyncio.Event()
        self._dropped = False

    def push(self, changes: Sequence[Change]) -> None:
        """Add changes; what does not fit ends the watch."""
        mine = [change for change in changes if change.after.key.namespace == self.namespace]
        if self._dropped or not mine:
            return
        if self._waiting and len(self._waiting) + len(mine) > self._size:
            self._dropped = True
            self._waiting.clear()
        else:
            self._waiting.extend(mine)
        self._some.set()

    async def take(self, most: int, timeout_s: float) -> list[Change]:
        """Return the next changes, at most `most` and about 1 MiB; none where none came in time.

        Raises ServiceUnavailableError where the watcher was dropped.
        """
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._some.wait()
        # Something may have come after the time was up: what is here now counts.
        if self._dropped:
            raise ServiceUnavailableError(
                f"this watch fell more than {self._size} changes behind and was ended: watch again "
                "from the last through_revision",
                service="registry",
            )
        taken: list[Change] = []
        size = 0
        while self._waiting and len(taken) < most and size < BATCH_BYTES:
            taken.append(self._waiting.popleft())
            size += len(taken[-1].after.spec)
        if not self._waiting:
            self._some.clear()
        return taken


class Feed:
    """Owns the watchers."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._watchers: set[Watcher] = set()

    @contextmanager
    def watch(self, namespace: str) -> Iterator[Watcher]:
        """Add a watcher until the block is left."""
        watcher = Watcher(namespace, self._size)
        self._watchers.add(watcher)
        try:
            yield watcher
        finally:
            self._watchers.discard(watcher)

    def publish(self, changes: Sequence[Change]) -> None:
        """Hand changes to every watcher, without waiting for any."""
        for watcher in self._watchers:
            watcher.push(changes)
