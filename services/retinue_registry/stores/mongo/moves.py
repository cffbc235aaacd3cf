"""New sources of stored versions: written beside them, so that they count with the rest of their write.

They are folded into the versions before the next write; until then they are laid over what is read.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pymongo import UpdateOne

from retinue_registry.component import Source, Version
from retinue_registry.stores.mongo.database import translated
from retinue_registry.stores.mongo.documents import (
    MOST_TOGETHER,
    Document,
    source_document,
    source_of,
    version_of,
)
from retinue_registry.stores.mongo.head import Head
from retinue_registry.stores.mongo.schema import Collections


class Moves:
    """Owns what is laid over: the sources that count and are not in the versions yet."""

    def __init__(self, collections: Collections, head: Head) -> None:
        self._collections = collections
        self._head = head
        self._loaded = 0
        self._sources: dict[int, Source] = {}

    def version(self, document: Mapping[str, Any]) -> Version:
        """A version as it is stored, with the newest source that counts."""
        return version_of(document, self._sources.get(document["_id"]))

    def documents(self, moved: Sequence[Version]) -> list[Document]:
        """What to store for versions that moved, behind what counts."""
        after = self._head.state.moves
        return [
            {
                "_id": after + 1 + number,
                "owner": self._head.owner,
                "sources": [
                    {"revision": version.revision, "source": source_document(version.source)}
                    for version in moved[start : start + MOST_TOGETHER]
                ],
            }
            for number, start in enumerate(range(0, len(moved), MOST_TOGETHER))
        ]

    async def load(self) -> None:
        """Lay over what counts since the last look."""
        state = self._head.state
        if state.moves > max(self._loaded, state.folded):
            for document in await self._waiting():
                self._sources |= {each["revision"]: source_of(each["source"]) for each in document["sources"]}
        self._loaded = state.moves

    async def fold(self) -> None:
        """Give the versions their new sources, and forget these here. Raises StoreUnavailableError."""
        state = self._head.state
        if state.folded == state.moves:
            return
        await self.load()
        with translated():
            for document in await self._waiting():
                await self._collections.versions.bulk_write(list(_updates(document)), ordered=False)
        await self._head.advance(folded=state.moves)
        with translated():
            await self._collections.moves.delete_many({"_id": {"$lte": state.moves}})
        self._sources.clear()

    async def _waiting(self) -> list[Document]:
        state = self._head.state
        which = {"_id": {"$gt": state.folded, "$lte": state.moves}}
        with translated():
            found: list[Document] = await self._collections.moves.find(which, sort=[("_id", 1)]).to_list(None)
        return found


def _updates(document: Document) -> Iterable[UpdateOne]:
    """One that comes late, from an owner that was, changes nothing."""
    number = document["_id"]
    for each in document["sources"]:
        yield UpdateOne(
            {"_id": each["revision"], "moved": {"$lt": number}},
            {"$set": {"source": each["source"], "moved": number}},
        )
