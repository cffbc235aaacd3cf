"""The head of a MongoDB store: the one document whose change makes a write visible, all of it at once.

It also says who owns the database. Who is not the owner any more cannot change it, and so cannot write.
"""

import asyncio
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from pymongo import ReturnDocument
from pymongo.errors import DuplicateKeyError, PyMongoError

from retinue.errors import RetinueError, StoreUnavailableError
from retinue_registry.stores.mongo.database import DATABASE, translated
from retinue_registry.stores.mongo.schema import SCHEMA_VERSION

_ID = "head"


@dataclass(frozen=True, slots=True)
class State:
    """How far the collections count. What lies beyond was never written, or is being written."""

    revision: int = 0
    requests: int = 0
    moves: int = 0
    folded: int = 0
    """Up to which move the versions themselves have their new sources."""
    compacted: int = 0
    """The highest revision that was ever removed."""


_NAMES = tuple(field.name for field in fields(State))


class Head:
    """Owns the head document for this process, until another one takes it over."""

    def __init__(self, collection: Any) -> None:
        self._collection = collection
        self._name = secrets.token_hex(8)
        self._changing = asyncio.Lock()
        self._settled = False
        """Whether it is known what the head holds."""
        self.owner = 0
        """Counts the owners of the database, and each time that one makes sure of what is stored."""
        self.state = State()

    async def take(self) -> None:
        """Become the owner. Raises StoreUnavailableError, also for a database of a newer version."""
        with translated():
            found = await self._collection.find_one({"_id": _ID}, {"version": True})
            if found and found["version"] > SCHEMA_VERSION:
                raise StoreUnavailableError(
                    f"the database in RETINUE_REGISTRY_STORE has version {found['version']}, this registry "
                    f"knows versions up to {SCHEMA_VERSION}: use one as new as the one that wrote it",
                    store="mongodb",
                )
            try:
                await self._take()
            except DuplicateKeyError:  # another registry has just made the document
                await self._take()

    async def _take(self) -> None:
        new = dict.fromkeys(_NAMES, 0) | {"version": SCHEMA_VERSION}
        change = {"$set": {"name": self._name}, "$inc": {"owner": 1}, "$setOnInsert": new}
        self._adopt(
            await self._collection.find_one_and_update(
                {"_id": _ID}, change, upsert=True, return_document=ReturnDocument.AFTER
            )
        )

    def _adopt(self, document: dict[str, Any]) -> None:
        self.owner = document["owner"]
        self.state = State(*(document[name] for name in _NAMES))
        self._settled = True

    async def settle(self) -> None:
        """Find out whether a change came about of which that is not known. Nothing to do nearly always.

        Raises StoreUnavailableError, also where another registry is the owner now.
        """
        if not self._settled:
            async with self._changing:
                await self._settle()

    async def confirm(self) -> None:
        """Make sure that this process is still the owner. Raises StoreUnavailableError."""
        async with self._changing:
            self._settled = False
            await self._settle()

    async def _settle(self) -> None:
        if self._settled:
            return
        with translated():
            # A new number: what is still on its way to the server under the old one cannot come about.
            document = await self._collection.find_one_and_update(
                {"_id": _ID, "name": self._name},
                {"$inc": {"owner": 1}},
                return_document=ReturnDocument.AFTER,
            )
        if document is None:
            raise StoreUnavailableError(
                "another registry has taken over the database in RETINUE_REGISTRY_STORE, and this one "
                "can only be read from now on: stop one of the two",
                store="mongodb",
            )
        self._adopt(document)

    async def advance(self, **changes: int) -> None:
        """Set some of the counts.

        Raises StoreUnavailableError where that did not come about, or `settle` has to tell whether it did.
        """
        async with self._changing:
            failure = await self._try(changes)
            await self._settle()
        if any(getattr(self.state, name) != value for name, value in changes.items()):
            raise failure

    async def _try(self, changes: Mapping[str, int]) -> RetinueError:
        """Try to set counts; return what to raise should they turn out not to be set."""
        which = {"_id": _ID, "owner": self.owner}
        failure: RetinueError = StoreUnavailableError(
            "MongoDB did not take a write: try again", store="mongodb"
        )
        try:
            result = await self._collection.update_one(which, {"$set": changes})
        except PyMongoError as error:
            self._settled = False
            failure = DATABASE.to_retinue(error)
        except asyncio.CancelledError:
            self._settled = False
            raise
        else:
            self._settled = result.matched_count == 1
            if self._settled:
                self.state = replace(self.state, **changes)
        return failure

    async def compacted(self) -> int:
        """The highest revision that was ever removed, by this owner or a later one."""
        with translated():
            found = await self._collection.find_one({"_id": _ID}, {"compacted": True})
        return int(found["compacted"])
