"""What is read from the SQLite file, each on a connection that only reads."""

import json
from collections.abc import Sequence
from sqlite3 import Connection
from typing import Any

from retinue_registry.component import (
    BATCH_BYTES,
    ApiSource,
    Change,
    FileSource,
    Key,
    Layer,
    Source,
    Version,
)
from retinue_registry.stores.sqlite.schema import COLUMNS
from retinue_registry.stores.store import RequestRecord, compacted, removed

_AT_ONCE = 500
"""Parameters of one statement; SQLite takes 32,766."""

_NAMES = ", ".join(COLUMNS)
_OF_AFTER = ", ".join(f"a.{name}" for name in COLUMNS)
_OF_BEFORE = ", ".join(f"b.{name}" for name in COLUMNS)
_WIDTH = len(COLUMNS)
_OF_KEY = f"SELECT {_NAMES} FROM component_versions WHERE namespace = ? AND kind = ? AND name = ?"  # noqa: S608 - constants
_VERSION = f"{_OF_KEY} AND version = ? AND NOT deleted"
_VERSIONS = f"{_OF_KEY} AND version < ? ORDER BY version DESC LIMIT ?"
_CURRENT = (
    f"SELECT {_NAMES} FROM component_versions WHERE revision IN "  # noqa: S608 - constants
    "(SELECT max(revision) FROM component_versions GROUP BY namespace, kind, name)"
)
_CHANGES = (
    f"SELECT {_OF_AFTER}, {_OF_BEFORE} FROM component_versions a "  # noqa: S608 - constants
    "LEFT JOIN component_versions b ON a.deleted AND b.namespace = a.namespace AND b.kind = a.kind "
    "AND b.name = a.name AND b.version = a.version - 1 "
    "WHERE a.namespace = ? AND a.revision > ? AND a.revision <= ? ORDER BY a.revision LIMIT ?"
)
_NO_LIMIT = 2**63 - 1


def _from_row(row: Sequence[Any]) -> Version:
    namespace, kind, name, version, revision, etag, labels, spec, *place, created, updated, deleted = row
    path, line, layer, distribution = place
    source: Source = ApiSource() if path is None else FileSource(path, line, Layer(layer), distribution)
    labels = json.loads(labels) if labels != "{}" else {}
    key = Key(namespace, kind, name)
    return Version(key, version, revision, etag, labels, spec, source, created, updated, bool(deleted))


def revision(db: Connection) -> int:
    """See Store."""
    return int(db.execute("SELECT revision FROM meta").fetchone()[0])


def compacted_revision(db: Connection) -> int:
    """See Store."""
    return int(db.execute("SELECT compacted_revision FROM meta").fetchone()[0])


def current(db: Connection) -> list[Version]:
    """See Store."""
    return [_from_row(row) for row in db.execute(_CURRENT)]


def version(db: Connection, key: Key, number: int) -> Version | None:
    """See Store."""
    row = db.execute(_VERSION, (*key, number)).fetchone()
    return _from_row(row) if row else None


def versions(db: Connection, key: Key, below: int, limit: int) -> list[Version]:
    """See Store."""
    return [_from_row(row) for row in db.execute(_VERSIONS, (*key, below or _NO_LIMIT, limit))]


def at(db: Connection, revisions: Sequence[int]) -> list[Version]:
    """See Store."""
    found: dict[int, Version] = {}
    for start in range(0, len(revisions), _AT_ONCE):
        part = revisions[start : start + _AT_ONCE]
        marks = ",".join("?" * len(part))
        query = f"SELECT {_NAMES} FROM component_versions WHERE revision IN ({marks})"  # noqa: S608 - marks
        found |= {each.revision: each for each in map(_from_row, db.execute(query, part))}
    if gone := set(revisions) - found.keys():
        raise removed(min(gone), compacted_revision(db))
    return [found[revision] for revision in revisions]


def changes(db: Connection, namespace: str, after: int, through: int, limit: int) -> list[Change]:
    """See Store."""
    # One view of the file for both: what is removed meanwhile is still there, or known to be gone.
    db.execute("BEGIN")
    try:
        if after < (oldest := compacted_revision(db)):
            raise compacted(after, oldest)
        result: list[Change] = []
        size = 0
        for row in db.execute(_CHANGES, (namespace, after, through, limit)):
            if size >= BATCH_BYTES:
                break
            stored = _from_row(row[:_WIDTH])
            before = _from_row(row[_WIDTH:]) if row[_WIDTH] is not None else None
            result.append(Change(stored.revision, stored, before))
            size += len(stored.spec)
        return result
    finally:
        db.execute("ROLLBACK")


def request(db: Connection, namespace: str, request_id: str) -> RequestRecord | None:
    """See Store."""
    query = "SELECT digest, outcomes, revision, time_us FROM requests WHERE namespace = ? AND request_id = ?"
    row = db.execute(query, (namespace, request_id)).fetchone()
    if row is None:
        return None
    digest, outcomes, after, time_us = row
    known = [(int(number), str(what)) for number, what in json.loads(outcomes)]
    return RequestRecord(namespace, request_id, digest, known, after, time_us)
