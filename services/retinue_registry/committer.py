"""The registry's one writer: does one change after the other, stores it, then shows it."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from retinue.errors import ServiceUnavailableError, StoreUnavailableError
from retinue_registry.catalog import Catalog
from retinue_registry.changes.plan import Plan
from retinue_registry.component import Change
from retinue_registry.feed import Feed
from retinue_registry.stores.store import RequestRecord, Store, Write

Result = TypeVar("Result")

MAX_WAITING_WRITES = 256


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Committer:
    """Changes the store, the catalog and what watchers see, in that order; nobody else does."""

    def __init__(self, store: Store, catalog: Catalog, feed: Feed) -> None:
        self._store = store
        self._catalog = catalog
        self._feed = feed
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(MAX_WAITING_WRITES)
        self._closed = False
        self._unsure = False
        """Whether a write failed that may be stored all the same."""

    async def run_next(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Have the writer do something. Once begun it is done, even if the caller goes away meanwhile."""
        if self._closed:
            raise ServiceUnavailableError("the registry is stopping: connect again", service="registry")
        job = _Job(work, asyncio.get_running_loop().create_future())
        await self._jobs.put(job)
        result: Result = await job.done
        return result

    async def store_plan(self, plan: Plan, request: RequestRecord | None = None) -> None:
        """Store a plan; then show it. Only for work that `run_next` does."""
        if not (plan.changes or plan.moved or request):
            return
        write = Write(self._catalog.revision, plan.revision, plan.versions, plan.moved, request)
        try:
            await self._store.write(write)
        except StoreUnavailableError:
            self._unsure = True
            raise
        for version in (*plan.moved, *plan.versions):
            self._catalog.put(version)
        self._feed.publish(plan.changes)

    async def run(self) -> None:
        """Do one write after the other, until it is cancelled between two of them."""
        while True:
            job = await self._jobs.get()
            try:
                if not job.done.cancelled():
                    await self._do(job)
            finally:
                self._jobs.task_done()

    async def close(self) -> None:
        """Take no more writes, and finish those that wait."""
        self._closed = True
        await self._jobs.join()

    async def _do(self, job: _Job) -> None:
        """Do a job and tell its caller, who may have gone away meanwhile."""
        try:
            if self._unsure:
                await self._catch_up()
            result = await job.work()
        except Exception as error:  # noqa: BLE001 - it is the caller's; the writer goes on
            if not job.done.cancelled():
                job.done.set_exception(error)
        else:
            if not job.done.cancelled():
                job.done.set_result(result)

    async def _catch_up(self) -> None:
        """Show what a write has stored that seemed to fail."""
        revision = await self._store.revision()
        missed = await self._store.at(range(self._catalog.revision + 1, revision + 1))
        current = await self._store.current()
        changes = [
            Change(version.revision, version, self._catalog.get(version.key) if version.deleted else None)
            for version in missed
        ]
        for version in current:
            if version != self._catalog.last(version.key):
                self._catalog.put(version)
        self._feed.publish(changes)
        self._unsure = False


def now_us() -> int:
    """Microseconds since 1970."""
    return time.time_ns() // 1000
