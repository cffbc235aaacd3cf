"""How the MongoDB store writes: first all documents, beyond what counts; then one change of the head.

Who dies or is cut off in between leaves documents that never count. They stand where the next write wants to
put its own, which removes them first.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

from pymongo.errors import PyMongoError

from retinue.errors import StoreUnavailableError
from retinue_kit.mongodb import is_duplicate
from retinue_registry.component import Key
from retinue_registry.stores.mongo.database import translated
from retinue_registry.stores.mongo.documents import (
    Document,
    batches,
    key_of,
    request_document,
    version_document,
)
from retinue_registry.stores.mongo.head import Head
from retinue_registry.stores.mongo.moves import Moves
from retinue_registry.stores.mongo.schema import Collections
from retinue_registry.stores.store import Write

_TRIES = 3


class Writes:
    """Writes for the owner of the database, one write at a time."""

    def __init__(self, collections: Collections, head: Head, moves: Moves) -> None:
        self._collections = collections
        self._head = head
        self._moves = moves

    async def open(self) -> None:
        """Take over the database, and remove what a write that was cut off has left."""
        await self._head.take()
        with translated():
            await self._remove_leftovers()
        await self._moves.fold()

    async def settle(self) -> None:
        """See Store.revision."""
        await self._head.settle()
        await self._moves.load()

    async def write(self, write: Write) -> None:
        """See Store."""
        await self.settle()
        if self._head.state.revision != write.after_revision:
            raise StoreUnavailableError(
                "the store is at another revision than this registry: try again", store="mongodb"
            )
        await self._moves.fold()
        state = self._head.state
        counts = {"revision": write.revision}
        if write.request:
            counts["requests"] = state.requests + 1
        if write.moved:
            counts["moves"] = state.moves + len(self._moves.documents(write.moved))
        for tries_left in reversed(range(_TRIES)):
            with translated():
                if await self._insert(write, last_try=not tries_left):
                    break
                await self._head.confirm()
                await self._remove_leftovers()
        await self._head.advance(**counts)
        await self._moves.load()

    async def _insert(self, write: Write, *, last_try: bool) -> bool:
        """Insert all documents of a write; False where others stand in their places."""
        owner, state = self._head.owner, self._head.state
        versions = [version_document(version, owner) for version in write.versions]
        requests = [request_document(write.request, state.requests + 1, owner)] if write.request else []
        moves = self._moves.documents(write.moved)
        done = await asyncio.gather(
            _insert_all(self._collections.versions, versions),
            _insert_all(self._collections.requests, requests),
            _insert_all(self._collections.moves, moves),
            return_exceptions=True,
        )
        for each in done:
            if isinstance(each, PyMongoError) and is_duplicate(each) and not last_try:
                return False
            if isinstance(each, BaseException):
                raise each
        return True

    async def _remove_leftovers(self) -> None:
        """Remove what does not count, unless a later owner put it there."""
        state = self._head.state
        mine = {"owner": {"$lte": self._head.owner}}
        for collection, counted in (
            (self._collections.versions, state.revision),
            (self._collections.requests, state.requests),
            (self._collections.moves, state.moves),
        ):
            await collection.delete_many({"_id": {"$gt": counted}, **mine})

    async def remove_versions(self, key: Key, below: int, limit: int) -> int:
        """See Store."""
        await self.settle()
        with translated():
            which = {**key_of(key), "version": {"$lt": below}}
            oldest = self._collections.versions.find(which, {"_id": True}, sort=[("version", 1)], limit=limit)
            gone = [document["_id"] for document in await oldest.to_list(None)]
        if not gone:
            return 0
        # Told before it is done: no watcher takes a gap for silence.
        await self._head.advance(compacted=max(self._head.state.compacted, *gone))
        with translated():
            await self._collections.versions.delete_many({"_id": {"$in": gone}})
        return len(gone)

    async def remove_requests(self, before_us: int, limit: int) -> int:
        """See Store."""
        # It comes by the clock: a registry that nobody writes to hears so that it was taken over.
        await self._head.confirm()
        with translated():
            which = {"time_us": {"$lt": before_us}}
            oldest = self._collections.requests.find(which, {"_id": True}, sort=[("time_us", 1)], limit=limit)
            gone = [document["_id"] for document in await oldest.to_list(None)]
            if gone:
                await self._collections.requests.delete_many({"_id": {"$in": gone}})
        return len(gone)


async def _insert_all(collection: Any, documents: Sequence[Document]) -> None:
    for batch in batches(documents):
        await collection.insert_many(batch, ordered=False)
