"""What the MongoDB store's documents look like, and the way between them and rows."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import quote, unquote

from pymongo import ASCENDING, DESCENDING

from retinue_engine.stores.rows import (
    BlobRow,
    InputRow,
    JournalRecord,
    MessageRow,
    RunOutcome,
    RunRow,
    SessionRow,
    Totals,
)

Document = dict[str, Any]

NOT_FINAL = {"$lt": 5}
"""States that are not final: see RunState."""

AT_WORK = {"$gte": 2, "$lte": 4}
"""States of runs that have begun and not ended."""

IS_ROOT = {"parent_run_id": ""}
IS_CHILD = {"parent_run_id": {"$gt": ""}}

OLDEST = [("create_us", ASCENDING), ("_id", ASCENDING)]
NEWEST = [("create_us", DESCENDING), ("_id", DESCENDING)]

DECIDED = "decided"
"""A session's `deleting` once nothing can stop its deletion; before, it is a token that whoever needs the
session takes away."""

_RUN_FIELDS = tuple(field.name for field in fields(RunRow) if field.name not in ("run_id", "request_id"))
_INPUT_FIELDS = tuple(field.name for field in fields(InputRow) if field.name != "input_id")
_BLOB_FIELDS = tuple(field.name for field in fields(BlobRow))


def run_document(run: RunRow, sequence: int = 0) -> Document:
    """A run as it is first stored, with a child the sequence of the record in which it begins."""
    document = {name: getattr(run, name) for name in _RUN_FIELDS}
    document["_id"] = run.run_id
    # Which claim `writer` and `lease_us` come from; before the first, the run's creation.
    document["claim_sequence"] = sequence
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


def session_document(run: Mapping[str, Any], until_us: int = 0, base: str = "") -> Document:
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
        "opened_by": run["_id"],
        "labels": [],
        "totals": asdict(Totals()),
        "base_session_id": base,
    }


def session_row(document: Mapping[str, Any], active_run_id: str | None) -> SessionRow:
    """A session as it is stored. The run that it names may still be queued, or have ended."""
    return SessionRow(
        document["namespace"],
        document["session_id"],
        document["message_count"],
        document["create_us"],
        document["update_us"],
        active_run_id,
        labels_of(document["labels"]),
        Totals(**document["totals"]),
        document["base_session_id"],
    )


def message_document(outcome: RunOutcome, position: int, message: str) -> Document:
    """A message that a run leaves in its session."""
    return {
        "namespace": outcome.namespace,
        "session_id": outcome.session_id,
        "position": position,
        "run_id": outcome.run_id,
        "message_json": message,
        "time_us": outcome.end_us,
    }


def label_texts(labels: Mapping[str, str]) -> list[str]:
    """Labels as they are stored and found: any text may stand in them, which field names do not take."""
    return sorted(f"{quote(name, safe='')}={value}" for name, value in labels.items())


def labels_of(texts: Sequence[str]) -> dict[str, str]:
    """The labels of such texts."""
    return dict(_label(text) for text in texts)


def _label(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return unquote(name), value


def message_row(document: Mapping[str, Any]) -> MessageRow:
    """A message as it is stored."""
    return MessageRow(document["position"], document["run_id"], document["message_json"], document["time_us"])


def input_document(row: InputRow) -> Document:
    """A request for input as it is first stored."""
    return {"_id": row.input_id, **{name: getattr(row, name) for name in _INPUT_FIELDS}}


def input_row(document: Mapping[str, Any]) -> InputRow:
    """A request for input as it is stored."""
    return InputRow(input_id=document["_id"], **{name: document[name] for name in _INPUT_FIELDS})


def blob_document(row: BlobRow) -> Document:
    """A blob."""
    return {name: getattr(row, name) for name in _BLOB_FIELDS}


def blob_row(document: Mapping[str, Any]) -> BlobRow:
    """A blob as it is stored."""
    return BlobRow(**{name: document[name] for name in _BLOB_FIELDS})
