"""The MongoDB store: one registry owns a database at a time, and the last one that started does."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from pymongo import ASCENDING

from retinue_registry.component import BATCH_BYTES, Change, Key, Version
from retinue_registry.stores.mongo.database import DATABASE, translated
from retinue_registry.stores.mongo.documents import MOST_TOGETHER, Document, key_of, request_of
from retinue_registry.stores.mongo.head import Head
from retinue_registry.stores.mongo.moves import Moves
from retinue_registry.stores.mongo.schema import BY_KEY, Collections, collections_of, make_indexes
from retinue_registry.stores.mongo.writes import Writes
from retinue_registry.stores.store import RequestRecord, Write, compacted, removed

_NEWEST = [
    {"$sort": dict(BY_KEY)},
    {
        "$group": {
            "_id": {"namespace": "$namespace", "kind": "$kind", "name": "$name"},
            "revision": {"$first": "$_id"},
        }
    },
]


class MongoStore:
    """A store in one database. It is made by `open_mongo_store`."""

    def __init__(self, collections: Collections) -> None:
        self._versions = collections.versions
        self._requests = collections.requests
        self._head = Head(collections.head)
        self._moves = Moves(collections, self._head)
        self._writes = Writes(collections, self._head, self._moves)

    async def take_over(self) -> None:
        """Own the database from now on. Raises StoreUnavailableError."""
        await self._writes.open()

    async def revision(self) -> int:
        """See Store."""
        await self._writes.settle()
        return self._head.state.revision

    async def compacted_revision(self) -> int:
        """See Store."""
        return await self._head.compacted()

    async def current(self) -> list[Version]:
        """See Store."""
        head = self._head.state.revision
        with translated():
            found = self._versions.aggregate(_NEWEST, allowDiskUse=True)
            newest = [(each["_id"], each["revision"]) async for each in found]
            revisions = [revision for _, revision in newest if revision <= head]
            # What is just being written hides what counts.
            for which in (key for key, revision in newest if revision > head):
                document = await self._versions.find_one({**which, "_id": {"$lte": head}}, sort=BY_KEY)
                revisions += [document["_id"]] if document else []
        return await self.at(revisions)

    async def version(self, key: Key, version: int) -> Version | None:
        """See Store."""
        which = {**key_of(key), "version": version, "_id": self._counts(), "deleted": False}
        with translated():
            document = await self._versions.find_one(which)
        return self._moves.version(document) if document else None

    async def versions(self, key: Key, below: int, limit: int) -> list[Version]:
        """See Store."""
        which: Document = {**key_of(key), "_id": self._counts()}
        if below:
            which["version"] = {"$lt": below}
        with translated():
            found = await self._versions.find(which, sort=BY_KEY, limit=limit).to_list(None)
        return [self._moves.version(document) for document in found]

    async def at(self, revisions: Sequence[int]) -> list[Version]:
        """See Store."""
        found: dict[int, Version] = {}
        with translated():
            for start in range(0, len(revisions), MOST_TOGETHER):
                which = {"_id": {"$in": list(revisions[start : start + MOST_TOGETHER])}}
                async for document in self._versions.find(which):
                    found[document["_id"]] = self._moves.version(document)
        if gone := set(revisions) - found.keys():
            raise removed(min(gone), await self.compacted_revision())
        return [found[revision] for revision in revisions]

    async def changes(self, namespace: str, after: int, through: int, limit: int) -> list[Change]:
        """See Store."""
        which = {
            "namespace": namespace,
            "_id": {"$gt": after, "$lte": min(through, self._head.state.revision)},
        }
        stored: list[Version] = []
        size = 0
        with translated():
            async for document in self._versions.find(which, sort=[("_id", ASCENDING)], limit=limit):
                if size >= BATCH_BYTES:
                    break
                stored.append(self._moves.version(document))
                size += len(stored[-1].spec)
            before = await self._before([version for version in stored if version.deleted])
        # Only now: what is removed is told before.
        if after < (oldest := await self.compacted_revision()):
            raise compacted(after, oldest)
        return [Change(version.revision, version, before.get(version.revision)) for version in stored]

    async def _before(self, ends: Sequence[Version]) -> Mapping[int, Version]:
        """What was there before ends, by the revisions of these."""
        if not ends:
            return {}
        which = [{**key_of(end.key), "version": end.version - 1} for end in ends]
        found = [self._moves.version(document) async for document in self._versions.find({"$or": which})]
        by_key = {(version.key, version.version): version for version in found}
        return {end.revision: before for end in ends if (before := by_key.get((end.key, end.version - 1)))}

    async def request(self, namespace: str, request_id: str) -> RequestRecord | None:
        """See Store."""
        which = {"namespace": namespace, "request_id": request_id, "_id": {"$lte": self._head.state.requests}}
        with translated():
            document = await self._requests.find_one(which)
        return request_of(document) if document else None

    async def write(self, write: Write) -> None:
        """See Store."""
        await self._writes.write(write)

    async def remove_versions(self, key: Key, below: int, limit: int) -> int:
        """See Store."""
        return await self._writes.remove_versions(key, below, limit)

    async def remove_requests(self, before_us: int, limit: int) -> int:
        """See Store."""
        return await self._writes.remove_requests(before_us, limit)

    def _counts(self) -> Document:
        return {"$lte": self._head.state.revision}


@asynccontextmanager
async def open_mongo_store(uri: str) -> AsyncIterator[MongoStore]:
    """Open the store at an address `mongodb://HOST:PORT/DATABASE`, make what is missing there, and own it.

    Raises ValueError for an address without a database, StoreUnavailableError where nobody answers.
    """
    client, database = DATABASE.connect(uri)
    try:
        with translated():
            await make_indexes(database)
        store = MongoStore(collections_of(database))
        await store.take_over()
        yield store
    finally:
        client.close()
