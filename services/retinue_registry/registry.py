"""The registry itself: a catalog that every read is answered from, one writer, a feed for those who watch."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

from retinue.errors import InvalidArgumentError, StoreUnavailableError, Violation
from retinue_registry.catalog import Catalog, Filter, Place
from retinue_registry.changes.changing import Changing
from retinue_registry.changes.history import History
from retinue_registry.committer import Committer
from retinue_registry.component import Change, Codec, Key, Version
from retinue_registry.feed import Feed
from retinue_registry.kinds import KINDS
from retinue_registry.loading.loading import Loading
from retinue_registry.resolve import closure, find_runnable
from retinue_registry.retention import Retention
from retinue_registry.stores.store import Store, compacted

BATCH_CHANGES = 200
"""Most changes of one batch of a watch."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A step of a watch; one without changes is a heartbeat."""

    changes: Sequence[Change]
    through_revision: int


class Registry:
    """Owns components and their versions. It is made by `open_registry`."""

    def __init__(
        self,
        store: Store,
        catalog: Catalog,
        feed: Feed,
        history: History,
        changing: Changing,
        loading: Loading,
        retention: Retention,
        *,
        heartbeat_s: float,
    ) -> None:
        self._store = store
        self._catalog = catalog
        self._feed = feed
        self.history = history
        self.changing = changing
        self.loading = loading
        self.retention = retention
        self._heartbeat_s = heartbeat_s

    @property
    def revision(self) -> int:
        """That of the last change."""
        return self._catalog.revision

    async def get(self, key: Key, version: int = 0) -> Version:
        """A component, at its current version where none is named. Raises ComponentNotFoundError."""
        return await self.history.get(key, version)

    def page(self, namespace: str, which: Filter, after: Place | None) -> Iterator[Version]:
        """Yield components in the order of kind and name, after a place; to be read without waiting."""
        return self._catalog.page(namespace, which, after)

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

    async def watch(self, namespace: str, after_revision: int) -> AsyncGenerator[Batch, None]:
        """Yield the changes of a namespace after a revision, each once and in order, without end.

        The first batch comes at once and is empty. Raises InvalidArgumentError for a revision that is not
        reached yet, RevisionCompactedError for one after which changes were removed, ServiceUnavailableError
        where the watcher is too slow.
        """
        if not 0 <= after_revision <= self.revision:
            raise InvalidArgumentError(
                f"after_revision is {after_revision}, and the registry is at {self.revision}: list again, "
                "and watch from the revision that the list has",
                violations=[Violation("after_revision", f"must be 0 to {self.revision}")],
            )
        if after_revision < self.revision:
            oldest = await self._store.compacted_revision()
            if after_revision < oldest:
                raise compacted(after_revision, oldest)
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
    feed = Feed(queue_size)
    committer = Committer(store, catalog, feed)
    history = History(store, catalog)
    loading = Loading(codec, catalog, committer)
    registry = Registry(
        store,
        catalog,
        feed,
        history,
        Changing(store, codec, catalog, committer, history, loading.fallback),
        loading,
        Retention(store, catalog, committer),
        heartbeat_s=heartbeat_s,
    )
    failure: BaseException | None = None
    async with asyncio.TaskGroup() as group:
        writer = group.create_task(committer.run(), name="registry-writer")
        try:
            yield registry
        except (Exception, asyncio.CancelledError) as error:  # noqa: BLE001 - raised again below
            failure = error  # outside of the group, which would wrap it
        await committer.close()
        writer.cancel()
    if failure:
        raise failure
