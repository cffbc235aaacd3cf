"""The MongoDB store's collections and indexes, and how a database of an older version becomes one of this."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from pymongo import ASCENDING, IndexModel
from pymongo.errors import DuplicateKeyError, OperationFailure
from pymongo.read_concern import ReadConcern

from retinue.engine.v1.input_pb2 import INPUT_STATE_PENDING
from retinue_engine.stores.mongo.database import translated
from retinue_engine.stores.mongo.documents import IS_ROOT, NOT_FINAL, Document
from retinue_engine.stores.rows import NOW, RUN_STATE_QUEUED, RUN_STATE_RUNNING, Totals

SCHEMA_VERSION = 3
"""Of the documents, as `meta` holds it. Version 1 had no children, no inputs, no totals, and no `meta`;
version 2 no sessions of steps."""

_GONE_INDEXES = ("newest", "target", "state", "queued", "leased", "cancelled")
"""Indexes on runs of version 1, which do not tell roots from children."""

_GONE_SESSION_INDEXES = ("newest", "used")
"""Indexes on sessions of version 2, which do not tell those of steps."""

_INDEX_NOT_FOUND = frozenset({26, 27})
"""NamespaceNotFound, IndexNotFound: https://www.mongodb.com/docs/manual/reference/error-codes/"""


def _index(*names: str, only: Mapping[str, Any] | None = None, **options: Any) -> IndexModel:
    """An index; with `only`, on these documents alone."""
    if only:
        options["partialFilterExpression"] = only
    return IndexModel([(name, ASCENDING) for name in names], **options)


_NEWEST = ("create_us", "_id")

_INDEXES = {
    "runs": [
        _index("namespace", "request_id", name="request", unique=True, only={"request_id": {"$gt": ""}}),
        _index("namespace", "parent_run_id", *_NEWEST, name="newest_of_parent"),
        _index("namespace", "parent_run_id", "target_name", *_NEWEST, name="target_of_parent"),
        _index("namespace", "parent_run_id", "state", *_NEWEST, name="state_of_parent"),
        _index("namespace", "session_id", *_NEWEST, name="session"),
        _index("root_run_id", *_NEWEST, name="tree"),
        # All that decides who is next: no run is read for it, and what it runs can be large.
        _index(
            *("state", "namespace", "session_id", *_NEWEST, "priority"),
            name="waiting",
            only={"state": RUN_STATE_QUEUED},
        ),
        # Empty nearly always: every engine asks for these all the time.
        _index(
            "state", "expire_us", name="expiring", only={"state": RUN_STATE_QUEUED, "expire_us": {"$gte": 0}}
        ),
        _index(
            "state",
            "lease_us",
            "create_us",
            name="leased_roots",
            only={**IS_ROOT, "state": RUN_STATE_RUNNING},
        ),
        _index("state", "attention_us", name="attention", only={**IS_ROOT, "attention_us": {"$gte": NOW}}),
    ],
    "journal": [_index("root_run_id", "first_sequence", name="sequence", unique=True)],
    "sessions": [
        _index("namespace", "base_session_id", "create_us", "session_id", name="newest_of_base"),
        _index("namespace", "base_session_id", "update_us", "session_id", name="used_of_base"),
        _index(
            "namespace", "labels", "create_us", "session_id", name="labelled", only={"labels": {"$gt": ""}}
        ),
    ],
    "messages": [_index("namespace", "session_id", "position", name="position", unique=True)],
    "inputs": [
        _index("namespace", *_NEWEST, name="newest"),
        _index("namespace", "state", *_NEWEST, name="pending", only={"state": INPUT_STATE_PENDING}),
        _index("root_run_id", *_NEWEST, name="tree"),
    ],
    "blobs": [_index("root_run_id", "blob_id", name="blob", unique=True)],
    "memories": [
        _index("namespace", "create_us", "memory_id", name="newest"),
        _index("namespace", "terms", "create_us", "memory_id", name="terms"),
        # MongoDB removes what has expired.
        _index("expire_at", name="expired", expireAfterSeconds=0),
    ],
}


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections of one database; motor has no types of its own."""

    runs: Any
    journal: Any
    sessions: Any
    messages: Any
    inputs: Any
    blobs: Any
    memories: Any


async def open_collections(database: Any) -> Collections:
    """The collections, at this version and with their indexes. Raises ValueError for a newer version."""
    with translated():
        await migrate(database)
        for name, indexes in _INDEXES.items():
            await database[name].create_indexes(indexes)
    return Collections(
        runs=database["runs"],
        # Nothing is shown that a failover could take back.
        journal=database.get_collection("journal", read_concern=ReadConcern("majority")),
        sessions=database["sessions"],
        messages=database["messages"],
        inputs=database["inputs"],
        blobs=database["blobs"],
        memories=database["memories"],
    )


async def migrate(database: Any) -> None:
    """Bring a database to this version; killed in the middle or done by several at once, it does no harm.

    Engines of the older version must have stopped. Raises ValueError for a newer version, and the driver's
    own errors.
    """
    stored = await database["meta"].find_one({"_id": "schema"})
    version = stored["version"] if stored else 1
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"the database in RETINUE_STORE has version {version}, this engine knows versions up to "
            f"{SCHEMA_VERSION}: use an engine as new as the one that wrote it"
        )
    if version == SCHEMA_VERSION:
        return
    await _migrate_runs(database["runs"])
    sessions = database["sessions"]
    await sessions.update_many(
        {"totals": {"$exists": False}}, {"$set": {"labels": [], "totals": asdict(Totals())}}
    )
    await _drop_indexes(sessions, _GONE_SESSION_INDEXES)
    await sessions.update_many({"base_session_id": {"$exists": False}}, {"$set": {"base_session_id": ""}})
    try:
        await database["meta"].update_one(
            {"_id": "schema"}, {"$max": {"version": SCHEMA_VERSION}}, upsert=True
        )
    except DuplicateKeyError:
        return  # another engine has just done the same


async def _drop_indexes(collection: Any, names: Iterable[str]) -> None:
    for name in names:
        try:
            await collection.drop_index(name)
        except OperationFailure as error:
            if error.code not in _INDEX_NOT_FOUND:
                raise


async def _migrate_runs(runs: Any) -> None:
    await _drop_indexes(runs, _GONE_INDEXES)
    new: Document = {
        "parent_run_id": "",
        "path": "",
        "origin_run_id": "",
        "origin_sequence": 0,
        "priority": 0,
        "expire_us": None,
        "pause_reason": None,
        "attention_us": None,
    }
    # A document without a state is no run: it rules one out.
    old = {"parent_run_id": {"$exists": False}, "state": {"$exists": True}}
    cancelled = {**old, "state": NOT_FINAL, "cancel_reason": {"$ne": None}}
    await runs.update_many(cancelled, {"$set": {**new, "attention_us": NOW}})
    await runs.update_many(old, {"$set": new})
