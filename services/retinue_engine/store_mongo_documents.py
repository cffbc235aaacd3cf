"""What the MongoDB store's documents look like, their indexes, and the way between them and rows."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any
from urllib.parse import quote

from pymongo import ASCENDING, IndexModel
from pymongo.read_concern import ReadConcern

from retinue_engine.store import (
    RUN_STATE_QUEUED,
    RUN_STATE_RUNNING,
    JournalRecord,
    MessageRow,
    RunRow,
    SessionRow,
)
from retinue_engine.store_mongo_errors import translated

Document = dict[str, Any]

NOT_FINAL = {"$lt": 5}
"""States that are not final: see RunState."""

_RUN_FIELDS = tuple(field.name for field in fields(RunRow) if field.name not in ("run_id", "request_id"))


def _index(*names: str, **options: Any) -> IndexModel:
    return IndexModel([(name, ASCENDING) for name in names], **options)


_INDEXES = {
    "runs": [
        _index(
            "namespace",
            "request_id",
            name="request",
            unique=True,
            partialFilterExpression={"request_id": {"$gt": ""}},
        ),
        _index("namespace", "create_us", "_id", name="newest"),
        _index("namespace", "session_id", "create_us", "_id", name="session"),
        _index("namespace", "target_name", "create_us", "_id", name="target"),
        _index("namespace", "state", "create_us", "_id", name="state"),
        _index(
            "state",
            "namespace",
            "session_id",
            "create_us",
            "_id",
            name="queued",
            partialFilterExpression={"state": RUN_STATE_QUEUED},
        ),
        _index(
            "state",
            "lease_us",
            "create_us",
            name="leased",
            partialFilterExpression={"state": RUN_STATE_RUNNING},
        ),
        # Empty nearly always: every engine asks for these all the time.
        _index(
            "state",
            "cancel_reason",
            name="cancelled",
            partialFilterExpression={"state": RUN_STATE_RUNNING, "cancel_reason": {"$gte": ""}},
        ),
    ],
    "journal": [_index("root_run_id", "first_sequence", name="sequence", unique=True)],
    "sessions": [_index("namespace", "create_us", "session_id", name="newest")],
    "messages": [_index("namespace", "session_id", "position", name="position", unique=True)],
}


@dataclass(frozen=True, slots=True)
class Collections:
    """The collections of one database; motor has no types of its own."""

    runs: Any
    journal: Any
    sessions: Any
    messages: Any


async def open_collections(database: Any) -> Collections:
    """The collections, with their indexes, which are made where they are missing."""
    with translated():
        for name, indexes in _INDEXES.items():
            await database[name].create_indexes(indexes)
    return Collections(
        runs=database["runs"],
        # Nothing is shown that a failover could take back.
        journal=database.get_collection("journal", read_concern=ReadConcern("majority")),
        sessions=database["sessions"],
        messages=database["messages"],
    )


def run_document(run: RunRow) -> Document:
    """A run as it is first stored."""
    document = {name: getattr(run, name) for name in _RUN_FIELDS}
    document["_id"] = run.run_id
    # Which claim `writer` and `lease_us` come from; 0: the run's creation.
    document["claim_sequence"] = 0
    if run.request_id:
        document["request_id"] = run.request_id
    return document


def run_row(document: Mapping[str, Any]) -> RunRow:
    """A run as it is stored."""
    return RunRow(
        run_id=document["_id"],
        request_id=document.get("request_id", ""),
        **{name: document[name] for name in _RUN_FIELDS},
    )


def record_document(record: JournalRecord) -> Document:
    """A record of a journal."""
    return {
        "root_run_id": record.root_run_id,
        "first_sequence": record.first_sequence,
        "last_sequence": record.last_sequence,
        "writer": record.writer,
        "data": record.data,
    }


def record_row(document: Mapping[str, Any]) -> JournalRecord:
    """A record of a journal as it is stored."""
    return JournalRecord(
        document["root_run_id"],
        document["first_sequence"],
        document["last_sequence"],
        document["writer"],
        document["data"],
    )


def session_key(namespace: str, session_id: str) -> str:
    """The `_id` of a session; no two sessions share one, whatever stands in the names."""
    return f"{quote(namespace, safe='')}/{session_id}"


def session_document(run: Mapping[str, Any], until_us: int = 0) -> Document:
    """A session that a run's document begins, which may be on its way into the store until `until_us`."""
    return {
        "_id": session_key(run["namespace"], run["session_id"]),
        "namespace": run["namespace"],
        "session_id": run["session_id"],
        "message_count": 0,
        "create_us": run["create_us"],
        "update_us": run["create_us"],
        "active_run_id": run["_id"],
        "active_until_us": until_us,
    }


def session_row(document: Mapping[str, Any]) -> SessionRow:
    """A session as it is stored."""
    return SessionRow(
        document["namespace"],
        document["session_id"],
        document["message_count"],
        document["create_us"],
        document["update_us"],
    )


def message_row(document: Mapping[str, Any]) -> MessageRow:
    """A message as it is stored."""
    return MessageRow(document["position"], document["run_id"], document["message_json"], document["time_us"])
