"""Reads of the MongoDB store: a journal from any place on, lists from the newest on."""

from typing import Any

from pymongo import ASCENDING, DESCENDING

from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import record_row
from retinue_engine.stores.rows import JournalRecord

_READ_RECORDS = 50
"""Records that one answer of MongoDB holds: most readers want the few at the end."""


async def read_journal(journal: Any, root_run_id: str, after: int, max_bytes: int) -> list[JournalRecord]:
    """See Store."""
    records = await _from(journal, root_run_id, after + 1, max_bytes)
    if records and records[0].first_sequence == after + 1:
        return records
    if after == 0:
        return []
    # The next event stands inside a record, or is not there yet.
    with translated():
        document = await journal.find_one(
            {"root_run_id": root_run_id, "first_sequence": {"$lte": after}},
            sort=[("first_sequence", DESCENDING)],
        )
    if document is None or document["last_sequence"] <= after:
        return []
    found = [record_row(document)]
    size = len(found[0].data)
    for record in records:
        size += len(record.data)
        if size > max_bytes:
            break
        found.append(record)
    return found


async def _from(journal: Any, root_run_id: str, first: int, max_bytes: int) -> list[JournalRecord]:
    """The records that begin at a sequence or later."""
    records: list[JournalRecord] = []
    size = 0
    with translated():
        cursor = journal.find(
            {"root_run_id": root_run_id, "first_sequence": {"$gte": first}},
            sort=[("first_sequence", ASCENDING)],
            batch_size=_READ_RECORDS,
        )
        async for document in cursor:
            size += len(document["data"])
            if records and size > max_bytes:
                break
            records.append(record_row(document))
        await cursor.close()
    return records


async def last_sequence(journal: Any, root_run_id: str) -> int:
    """See Store."""
    with translated():
        document = await journal.find_one(
            {"root_run_id": root_run_id}, {"last_sequence": True}, sort=[("first_sequence", DESCENDING)]
        )
    return int(document["last_sequence"]) if document else 0


async def newest(
    collection: Any, conditions: dict[str, Any], id_field: str, before: tuple[int, str] | None, limit: int
) -> list[dict[str, Any]]:
    """Documents from the newest on, after a place in that order."""
    if limit <= 0:
        return []
    if before is not None:
        create_us, last_id = before
        # The first condition bounds the walk along the index, the second leaves out what was seen.
        conditions["create_us"] = {"$lte": create_us}
        conditions["$or"] = [{"create_us": {"$lt": create_us}}, {id_field: {"$lt": last_id}}]
    with translated():
        found: list[dict[str, Any]] = await collection.find(
            conditions, sort=[("create_us", DESCENDING), (id_field, DESCENDING)], limit=limit
        ).to_list(None)
    return found
