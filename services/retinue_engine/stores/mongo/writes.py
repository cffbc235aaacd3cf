"""What the MongoDB store writes in groups: journals above all, and what goes along with them."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress

from pymongo.errors import DuplicateKeyError

from retinue.errors import ClaimLostError, InternalError, StoreUnavailableError
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import (
    IS_CHILD,
    NOT_FINAL,
    Document,
    blob_document,
    record_document,
)
from retinue_engine.stores.mongo.group import GroupWrites
from retinue_engine.stores.mongo.schema import Collections
from retinue_engine.stores.rows import RUN_STATE_RUNNING, SUSPENDED_STATES, BlobRow, JournalRecord

_IS_SUSPENDED = {"$in": ["$state", sorted(SUSPENDED_STATES)]}


class Writes:
    """Appends to journals, claims runs; holds the groups in which all write."""

    def __init__(self, collections: Collections) -> None:
        self.collections = collections
        self.runs = GroupWrites(collections.runs)
        self.sessions = GroupWrites(collections.sessions)
        self.messages = GroupWrites(collections.messages, self._judge_message)
        self.inputs = GroupWrites(collections.inputs)
        self._journal = GroupWrites(collections.journal, self._judge_record)
        self.groups = (self.runs, self._journal, self.sessions, self.messages, self.inputs)
        """To be run, and closed, by who made this."""

    def append_record(self, record: JournalRecord) -> "asyncio.Future[None]":
        """Append a record; fails with ClaimLostError where another stands there."""
        return self._journal.insert(record_document(record), len(record.data))

    def append_and_tell(self, record: JournalRecord) -> "asyncio.Future[bool]":
        """Append a record likewise; False where it stands there already."""
        return self._journal.insert_and_tell(record_document(record), len(record.data))

    async def _judge_record(self, document: Document) -> None:
        place = {name: document[name] for name in ("root_run_id", "first_sequence")}
        with translated():
            stored = await self.collections.journal.find_one(place, {"writer": True, "data": True})
        if stored is None:
            raise StoreUnavailableError(
                "a record is stored, but not yet by a majority of MongoDB's members", store="mongodb"
            )
        if (stored["writer"], stored["data"]) != (document["writer"], document["data"]):
            root_run_id = document["root_run_id"]
            raise ClaimLostError(f"another engine has taken over {root_run_id}", run_id=root_run_id)

    async def _judge_message(self, document: Document) -> None:
        place = {name: document[name] for name in ("namespace", "session_id", "position")}
        with translated():
            stored = await self.collections.messages.find_one(place, {"run_id": True})
        if stored is None or stored["run_id"] != document["run_id"]:
            raise InternalError(f"message {place} is another run's than {document['run_id']}'s")

    async def store_blobs(self, blobs: Sequence[BlobRow]) -> None:
        """Store blobs that are not there yet. One by one: each may be large, and fail alone."""
        with translated():
            for blob in blobs:
                with suppress(DuplicateKeyError):  # what has this id is the same
                    await self.collections.blobs.insert_one(blob_document(blob))

    async def claim(self, run_id: str, record: JournalRecord, lease_us: int) -> None:
        """Append the claim, then say on the run and its children whose they are, unless a later claim has."""
        await self.append_record(record)
        earlier = {"claim_sequence": {"$lt": record.first_sequence}}
        change: Document = {
            "writer": {"$literal": record.writer},
            "claim_sequence": record.first_sequence,
            # Whoever is RUNNING keeps a word that was not heard.
            "attention_us": {"$cond": [_IS_SUSPENDED, None, "$attention_us"]},
            "state": {"$cond": [_IS_SUSPENDED, RUN_STATE_RUNNING, "$state"]},
        }
        root = self.runs.update({"_id": run_id, **earlier}, [{"$set": {**change, "lease_us": lease_us}}])
        if record.first_sequence <= 2:  # noqa: PLR2004 - a run that has only begun has no children
            await root
            return
        tree = {"root_run_id": run_id, **IS_CHILD, "state": NOT_FINAL, **earlier}
        with translated():
            await asyncio.gather(root, self.collections.runs.update_many(tree, [{"$set": change}]))
