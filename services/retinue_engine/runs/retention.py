"""Deleting what is not to be kept: sessions that are too old, or too many, in the background."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from retinue.errors import RetinueError, SessionBusyError
from retinue_engine.convert import now_us
from retinue_engine.stores.store import Store
from retinue_kit.tasks import open_task_group

log = structlog.get_logger()

SWEEP_S = 60.0
"""How often is looked for what is not to be kept."""

TOGETHER = 100
"""Sessions of one look; between two, others have their turn at the store."""

_US_OF_DAY = 24 * 60 * 60 * 1_000_000


class Retention:
    """Deletes sessions with all that belongs to them. One that is in use is left alone."""

    def __init__(self, store: Store, *, days: float | None, sessions: int | None) -> None:
        self._store = store
        self._days = days
        self._sessions = sessions

    async def sweep(self) -> int:
        """Delete all that is not to be kept; return how many sessions that were."""
        deleted = 0
        while True:
            looked_us = now_us()
            found = await self._find()
            gone = 0
            for namespace, session_id in found:
                gone += await self._delete(namespace, session_id, looked_us)
            deleted += gone
            if not gone:
                break
        if deleted:
            log.info("deleted sessions that are not kept any longer", sessions=deleted)
        return deleted

    async def _find(self) -> list[tuple[str, str]]:
        found: list[tuple[str, str]] = []
        # A session whose deletion was cut off was last used at the beginning of time.
        before_us = now_us() - int(self._days * _US_OF_DAY) if self._days is not None else 1
        found += await self._store.old_sessions(before_us, TOGETHER)
        if self._sessions is not None:
            found += await self._store.surplus_sessions(self._sessions, TOGETHER)
        return found

    async def _delete(self, namespace: str, session_id: str, looked_us: int) -> bool:
        session = await self._store.get_session(namespace, session_id)
        if session is not None and session.update_us >= looked_us:
            return False  # used again in the meantime
        try:
            return await self._store.delete_session(namespace, session_id) is not None
        except SessionBusyError:
            return False  # in use again

    async def keep_sweeping(self) -> None:
        """Sweep by the clock, until cancelled."""
        while True:
            try:
                await self.sweep()
            except RetinueError as error:
                log.warning("cannot delete what is not kept, trying again", error=error.message)
            await asyncio.sleep(SWEEP_S)


@asynccontextmanager
async def open_retention(store: Store, *, days: float | None, sessions: int | None) -> AsyncIterator[None]:
    """Sweep while this is open."""
    async with open_task_group() as group:
        retention = Retention(store, days=days, sessions=sessions)
        sweeping = group.create_task(retention.keep_sweeping())
        try:
            yield
        finally:
            sweeping.cancel()
