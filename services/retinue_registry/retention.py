"""Removing what is not to be kept: versions beyond a number, answers to requests of long ago."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from retinue.errors import RetinueError
from retinue_kit.tasks import open_task_group
from retinue_registry.catalog import Catalog
from retinue_registry.committer import Committer, now_us
from retinue_registry.component import Key
from retinue_registry.stores.store import Store

log = structlog.get_logger()

SWEEP_S = 3600.0
"""How often is looked for what is not to be kept."""

TOGETHER = 500
"""What is removed at once; between two, others have their turn at the store."""

_US_OF_HOUR = 60 * 60 * 1_000_000


class Retention:
    """Removes through the registry's one writer, so never beside a write."""

    def __init__(self, store: Store, catalog: Catalog, committer: Committer) -> None:
        self._store = store
        self._catalog = catalog
        self._committer = committer
        self._removed: dict[Key, int] = {}
        """Below which version nothing is left of a component."""

    async def sweep(self, *, versions: int, requests_hours: float) -> tuple[int, int]:
        """Remove all that is not to be kept; return how many versions and how many requests that were.

        `versions` is how many of a component are kept beside the current one, or beside its end.
        """
        before_us = now_us() - int(requests_hours * _US_OF_HOUR)
        gone_versions = 0
        for last in [*self._catalog, *self._catalog.ends()]:
            below = last.version - versions
            if below > max(self._removed.get(last.key, 1), 1):
                gone_versions += await self._remove(last.key, below)
        gone_requests = 0
        while gone := await self._committer.run_next(
            lambda: self._store.remove_requests(before_us, TOGETHER)
        ):
            gone_requests += gone
        if gone_versions or gone_requests:
            log.info("removed what is not kept any longer", versions=gone_versions, requests=gone_requests)
        return gone_versions, gone_requests

    async def _remove(self, key: Key, below: int) -> int:
        # An end says what was there before it: as the oldest of all it would have nothing to say.
        oldest = await self._store.versions(key, below + 1, 1)
        first_kept = below + 1 if oldest and oldest[0].version == below and oldest[0].deleted else below
        removed = 0
        while gone := await self._committer.run_next(
            lambda: self._store.remove_versions(key, first_kept, TOGETHER)
        ):
            removed += gone
        self._removed[key] = below
        return removed


async def _keep_sweeping(retention: Retention, versions: int, requests_hours: float) -> None:
    while True:
        try:
            await retention.sweep(versions=versions, requests_hours=requests_hours)
        except RetinueError as error:
            log.warning("cannot remove what is not kept, trying again", error=error.message)
        await asyncio.sleep(SWEEP_S)


@asynccontextmanager
async def open_retention(
    retention: Retention, *, versions: int, requests_hours: float
) -> AsyncIterator[None]:
    """Sweep while this is open."""
    async with open_task_group() as group:
        sweeping = group.create_task(_keep_sweeping(retention, versions, requests_hours))
        try:
            yield
        finally:
            sweeping.cancel()
