"""Texts that are kept, in the MongoDB store: each with the terms by which it is found."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

from pymongo.errors import DuplicateKeyError

from retinue_engine.memory import MemoryRow, label_terms
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import Document, label_texts, labels_of
from retinue_engine.stores.mongo.reads import newest
from retinue_engine.stores.mongo.schema import Collections

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def memory_key(namespace: str, memory_id: str) -> str:
    """The `_id` of a text."""
    return f"{quote(namespace, safe='')}/{memory_id}"


def memory_document(row: MemoryRow) -> Document:
    """A text."""
    document: Document = {
        "_id": memory_key(row.namespace, row.memory_id),
        "namespace": row.namespace,
        "memory_id": row.memory_id,
        "text": row.text,
        "labels": label_texts(row.labels),
        "create_us": row.create_us,
        "expire_us": row.expire_us,
        "run_id": row.run_id,
        "terms": row.terms,
    }
    if row.expire_us is not None:
        # What MongoDB itself looks at when it removes what has expired.
        document["expire_at"] = _EPOCH + timedelta(microseconds=row.expire_us)
    return document


def memory_row(document: Mapping[str, Any]) -> MemoryRow:
    """A text as it is stored."""
    return MemoryRow(
        document["namespace"],
        document["memory_id"],
        document["text"],
        labels_of(document["labels"]),
        document["create_us"],
        document["expire_us"],
        document["run_id"],
    )


def _kept(namespace: str, labels: Mapping[str, str], now_us: int) -> Document:
    conditions: Document = {
        "namespace": namespace,
        "$and": [{"$or": [{"expire_us": None}, {"expire_us": {"$gt": now_us}}]}],
    }
    if labels:
        conditions["$and"].append({"terms": {"$all": label_terms(labels)}})
    return conditions


async def insert_memory(collection: Any, row: MemoryRow) -> None:
    """Keep a text; one that is known stays as it is."""
    with translated(), suppress(DuplicateKeyError):
        await collection.insert_one(memory_document(row))


class Memories:
    """Keeps texts, and finds them."""

    _collections: Collections

    async def write_memory(self, row: MemoryRow) -> MemoryRow:
        """See Store."""
        memories, key = self._collections.memories, {"_id": memory_key(row.namespace, row.memory_id)}
        expired = {**key, "expire_us": {"$ne": None, "$lte": row.create_us}}
        with translated():
            await memories.delete_one(expired)
            await memories.update_one(key, {"$setOnInsert": memory_document(row)}, upsert=True)
            found = await memories.find_one(key)
        return memory_row(found) if found else row

    async def get_memory(self, namespace: str, memory_id: str, now_us: int) -> MemoryRow | None:
        """See Store."""
        conditions = {"_id": memory_key(namespace, memory_id), **_kept(namespace, {}, now_us)}
        with translated():
            found = await self._collections.memories.find_one(conditions)
        return memory_row(found) if found else None

    async def list_memories(
        self,
        namespace: str,
        labels: Mapping[str, str],
        before: tuple[int, str] | None,
        limit: int,
        now_us: int,
    ) -> list[MemoryRow]:
        """See Store."""
        conditions = _kept(namespace, labels, now_us)
        found = await newest(self._collections.memories, conditions, "memory_id", before, limit)
        return [memory_row(document) for document in found]

    async def search_memories(
        self, namespace: str, words: Sequence[str], labels: Mapping[str, str], limit: int, now_us: int
    ) -> list[MemoryRow]:
        """See Store."""
        conditions = {**_kept(namespace, labels, now_us), "terms": {"$in": list(words)}}
        score = {"$size": {"$setIntersection": ["$terms", list(words)]}}
        stages = [
            {"$match": conditions},
            {"$addFields": {"score": score}},
            {"$sort": {"score": -1, "create_us": -1, "memory_id": -1}},
            {"$limit": limit},
        ]
        with translated():
            found = await self._collections.memories.aggregate(stages).to_list(None)
        return [memory_row(document) for document in found]

    async def delete_memory(self, namespace: str, memory_id: str) -> bool:
        """See Store."""
        with translated():
            done = await self._collections.memories.delete_one({"_id": memory_key(namespace, memory_id)})
        return bool(done.deleted_count)
