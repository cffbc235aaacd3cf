"""Feeds of runs that this engine does not work on: for all who watch one, the store is asked once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import structlog

from retinue.engine.v1 import service_pb2
from retinue.errors import RetinueError
from retinue_engine.runs.settled import settled
from retinue_engine.stores.rows import JournalRecord
from retinue_engine.stores.store import Store
from retinue_engine.story.feed import Feed
from retinue_kit.tasks import open_task_group

log = structlog.get_logger()

POLL_S = 0.1
"""How often the store is asked about a run that is watched here and worked on elsewhere, or suspended."""

CHECK_S = 10.0
"""How often is asked whether the run is still there."""

MAX_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Polled:
    """A run whose journal is read by the clock."""

    feed: Feed
    polling: asyncio.Task[None]
    watchers: int = 0


class RemoteFeeds:
    """Keeps a feed for each run that is watched, as long as anybody watches."""

    def __init__(self, store: Store, group: asyncio.TaskGroup) -> None:
        self._store = store
        self._group = group
        self._polled: dict[str, _Polled] = {}

    def join(self, namespace: str, run_id: str, after: int) -> Feed:
        """The feed of a root run, from `after` on where it is new. Who joins must leave."""
        polled = self._polled.get(run_id)
        if polled is None or polled.feed.ended:
            feed = Feed(after)
            polling = self._group.create_task(self._poll(namespace, run_id, feed))
            polled = self._polled[run_id] = _Polled(feed, polling)
        polled.watchers += 1
        return polled.feed

    def leave(self, run_id: str, feed: Feed) -> None:
        """Watch a feed no more."""
        polled = self._polled.get(run_id)
        if polled is None or polled.feed is not feed:
            return  # it has ended, and another took its place
        polled.watchers -= 1
        if polled.watchers == 0:
            del self._polled[run_id]
            polled.polling.cancel()

    async def _poll(self, namespace: str, run_id: str, feed: Feed) -> None:
        checked_at = asyncio.get_running_loop().time()
        while not feed.ended:
            try:
                stored = await self._store.read_journal(run_id, feed.through, MAX_BYTES)
                records = await settled(self._store, namespace, stored)
                for record in records:
                    feed.publish(record)
                if records:
                    if _ends(records[-1]):
                        feed.end(finished=True)
                    continue
                now = asyncio.get_running_loop().time()
                if now - checked_at >= CHECK_S:
                    checked_at = now
                    if await self._store.get_run(namespace, run_id) is None:
                        feed.end(finished=True)
            except RetinueError as error:
                log.debug("cannot read a run that is watched, trying again", error=error.message)
            await asyncio.sleep(POLL_S)

    def close(self) -> None:
        """Poll no more."""
        for polled in self._polled.values():
            polled.polling.cancel()


def _ends(record: JournalRecord) -> bool:
    """Whether a journal ends with a record."""
    return service_pb2.StreamRunResponse.FromString(record.data).events[-1].HasField("run_finished")


@asynccontextmanager
async def open_remote_feeds(store: Store) -> AsyncIterator[RemoteFeeds]:
    """Open the table of feeds; leaving ends their polling."""
    async with open_task_group() as group:
        feeds = RemoteFeeds(store, group)
        try:
            yield feeds
        finally:
            feeds.close()
