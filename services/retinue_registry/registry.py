"""The registry itself: one writer, a catalog that every read is answered from, a feed for those who watch."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import structlog

from retinue.errors import (
    InvalidArgumentError,
    RequestIdReusedError,
    ServiceUnavailableError,
    StoreUnavailableError,
    Violation,
)
from retinue_registry.catalog import Catalog, Place
from retinue_registry.component import ApiSource, Change, Codec, Draft, Key, Problem, Version
from retinue_registry.feed import Feed
from retinue_registry.files.project import Project, load_project
from retinue_registry.importing import plan_import
from retinue_registry.kinds import KINDS
from retinue_registry.plan import (
    Outcome,
    Plan,
    check_circles,
    check_etags,
    check_references,
    check_unique,
    plan_change,
)
from retinue_registry.resolve import closure, find_runnable, not_found
from retinue_registry.store import RequestRecord, Store, Write

log = structlog.get_logger()

Result = TypeVar("Result")

MAX_WAITING_WRITES = 256
BATCH_CHANGES = 200
"""Most changes of one batch of a watch."""


@dataclass(frozen=True, slots=True)
class Applied:
    """What an apply did."""

    outcomes: Sequence[tuple[Version, Outcome]]
    """For each draft, in their order."""
    revision: int


@dataclass(frozen=True, slots=True)
class Batch:
    """A step of a watch; one without changes is a heartbeat."""

    changes: Sequence[Change]
    through_revision: int


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[], Awaitable[Any]]
    done: asyncio.Future[Any]


class Registry:
    """Owns components and their versions. It is made by `open_registry`."""

    def __init__(
        self, store: Store, codec: Codec, catalog: Catalog, *, heartbeat_s: float, queue_size: int
    ) -> None:
        self._store = store
        self._codec = codec
        self._catalog = catalog
        self._feed = Feed(queue_size)
        self._heartbeat_s = heartbeat_s
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue(MAX_WAITING_WRITES)
        self._closed = False
        self._problems: list[Problem] = []

    @property
    def revision(self) -> int:
        """That of the last change."""
        return self._catalog.revision

    async def get(self, key: Key, version: int = 0) -> Version:
        """A component, at its current version where none is named. Raises ComponentNotFoundError."""
        current = self._catalog.get(key)
        if current and version in {0, current.version}:
            return current
        found = await self._store.version(key, version) if version else None
        if found is None:
            raise not_found(self._catalog, key, version)
        return found

    def page(self, namespace: str, kind: str | None, after: Place | None) -> Iterator[Version]:
        """Yield components in the order of kind and name, after a place; to be read without waiting."""
        return self._catalog.page(namespace, kind, after)

    def problems(self, namespace: str) -> list[Problem]:
        """What is wrong with a namespace's files, and with those whose namespace is not known."""
        return [problem for problem in self._problems if problem.namespace in {None, namespace}]

    async def resolve(self, key: Key, version: int, llm: str) -> tuple[Version, list[Version], int]:
        """A component, all that it needs, and the revision at which that was so.

        Where the kind is empty, it is the one that can be run. Raises ComponentNotFoundError and
        ReferenceNotFoundError.
        """
        root = (
            await self.get(key, version)
            if key.kind
            else find_runnable(self._catalog, key.namespace, key.name)
        )
        if version not in {0, root.version}:
            root = await self.get(root.key, version)
        return root, closure(self._catalog, root, llm), self.revision

    async def apply(
        self, drafts: Sequence[Draft], *, namespace: str, request_id: str = "", digest: bytes = b""
    ) -> Applied:
        """Store drafts, all or none. A request_id that was used is answered as the first time.

        Raises ComponentInvalidError, ReferenceNotFoundError, EtagMismatchError, RequestIdReusedError,
        StoreUnavailableError.
        """
        check_unique(drafts)

        async def work() -> Applied:
            if request_id and (known := await self._store.request(namespace, request_id)):
                return await self._answer_again(known, digest)
            check_etags(self._catalog, drafts)
            check_references(self._catalog, drafts)
            check_circles(self._catalog, drafts)
            now = _now_us()
            plan = plan_change(self._catalog, self._codec, drafts, time_us=now)
            record = None
            if request_id:
                outcomes = [(version.revision, outcome.value) for version, outcome in plan.outcomes]
                record = RequestRecord(namespace, request_id, digest, outcomes, plan.revision, now)
            await self._store_plan(plan, record)
            return Applied(plan.outcomes, plan.revision)

        return await self._write(work)

    async def load(self, anchor: Path | None) -> Sequence[Problem]:
        """Read a project's files and store what they change; return what is wrong with them."""

        async def work() -> Sequence[Problem]:
            project = None
            if anchor:
                api = [version.key for version in self._catalog if isinstance(version.source, ApiSource)]
                project = await asyncio.to_thread(load_project, anchor, elsewhere=api)
            return await self._import(project)

        return await self._write(work)

    async def _import(self, project: Project | None) -> Sequence[Problem]:
        found = plan_import(self._catalog, project)
        plan = plan_change(self._catalog, self._codec, found.drafts, found.gone, time_us=_now_us(), move=True)
        await self._store_plan(plan)
        for problem in set(found.problems) - set(self._problems):
            log.warning("problem in a project's file", problem=str(problem))
        for draft in found.shadowed:
            log.info(
                "a file's component is shadowed by the API's", component=str(draft.key), source=draft.source
            )
        self._problems = found.problems
        log.info(
            "project loaded",
            root=str(project.root) if project else None,
            files=len(project.files) if project else 0,
            components=len(self._catalog),
            changes=len(plan.changes),
            problems=len(found.problems),
            revision=self.revision,
        )
        return found.problems

    async def watch(self, namespace: str, after_revision: int) -> AsyncGenerator[Batch, None]:
        """Yield the changes of a namespace after a revision, each once and in order, without end.

        The first batch comes at once and is empty. Raises InvalidArgumentError for a revision that is not
        reached yet, ServiceUnavailableError where the watcher is too slow.
        """
        if not 0 <= after_revision <= self.revision:
            raise InvalidArgumentError(
                f"after_revision is {after_revision}, and the registry is at {self.revision}: list again, "
                "and watch from the revision that the list has",
                violations=[Violation("after_revision", f"must be 0 to {self.revision}")],
            )
        with self._feed.watch(namespace) as watcher:
            # Nothing waits between these two: later changes are the watcher's, earlier ones the store's.
            head = self.revision
            yield Batch((), after_revision)
            while after_revision < head:
                changes = await self._store.changes(namespace, after_revision, head, BATCH_CHANGES)
                after_revision = changes[-1].revision if changes else head
                yield Batch(changes, after_revision)
            while True:
                changes = await watcher.take(BATCH_CHANGES, self._heartbeat_s)
                yield Batch(changes, changes[-1].revision if changes else self.revision)

    async def _answer_again(self, known: RequestRecord, digest: bytes) -> Applied:
        if known.digest != digest:
            raise RequestIdReusedError(
                f"the request_id {known.request_id!r} was used before with another request: take a new one",
                request_id=known.request_id,
            )
        versions = await self._store.at([revision for revision, _ in known.outcomes])
        outcomes = [
            (version, Outcome(what)) for version, (_, what) in zip(versions, known.outcomes, strict=True)
        ]
        return Applied(outcomes, known.revision)

    async def _store_plan(self, plan: Plan, request: RequestRecord | None = None) -> None:
        """Store a plan; then show it. Readers and watchers see nothing that is not stored."""
        if not (plan.changes or plan.moved or request):
            return
        await self._store.write(
            Write(self._catalog.revision, plan.revision, plan.versions, plan.moved, request)
        )
        for version in (*plan.moved, *plan.versions):
            self._catalog.put(version)
        self._feed.publish(plan.changes)

    async def _write(self, work: Callable[[], Awaitable[Result]]) -> Result:
        """Have the writer do something. Once begun it is done, even if the caller goes away meanwhile."""
        if self._closed:
            raise ServiceUnavailableError("the registry is stopping: connect again", service="registry")
        job = _Job(work, asyncio.get_running_loop().create_future())
        await self._jobs.put(job)
        result: Result = await job.done
        return result

    async def run_writer(self) -> None:
        """Do one write after the other, until it is cancelled between two of them."""
        while True:
            job = await self._jobs.get()
            try:
                if not job.done.cancelled():
                    await _do(job)
            finally:
                self._jobs.task_done()

    async def close(self) -> None:
        """Take no more writes, and finish those that wait."""
        self._closed = True
        await self._jobs.join()


async def _do(job: _Job) -> None:
    """Do a job and tell its caller, who may have gone away meanwhile."""
    try:
        result = await job.work()
    except Exception as error:  # noqa: BLE001 - it is the caller's; the writer goes on
        if not job.done.cancelled():
            job.done.set_exception(error)
    else:
        if not job.done.cancelled():
            job.done.set_result(result)


def _now_us() -> int:
    return time.time_ns() // 1000


@asynccontextmanager
async def open_registry(
    store: Store, codec: Codec, *, heartbeat_s: float = 20.0, queue_size: int = 1000
) -> AsyncIterator[Registry]:
    """Open the registry over a store: read what is current, start the writer."""
    versions = await store.current()
    if unknown := {version.key.kind for version in versions} - set(KINDS):
        raise StoreUnavailableError(
            f"the store holds kinds that this Retinue does not know ({', '.join(sorted(unknown))}): "
            "use the version that wrote them"
        )
    catalog = Catalog(codec, versions, await store.revision())
    registry = Registry(store, codec, catalog, heartbeat_s=heartbeat_s, queue_size=queue_size)
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(registry.run_writer(), name="registry-writer")
        try:
            yield registry
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again below
            failure = error  # outside of the group, which would wrap it
        await registry.close()
        writer.cancel()
    if failure:
        raise failure
