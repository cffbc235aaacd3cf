"""What is written into the SQLite file, each call one transaction: all of it or nothing."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from sqlite3 import Connection
from typing import Any

from retinue.errors import StoreUnavailableError
from retinue_registry.component import FileSource, Key, Source, Version
from retinue_registry.stores.sqlite.schema import COLUMNS
from retinue_registry.stores.store import RequestRecord, Write

_INSERT = (
    f"INSERT INTO component_versions ({', '.join(COLUMNS)}) "  # noqa: S608 - constants
    f"VALUES ({', '.join('?' * len(COLUMNS))})"
)
_MOVE = (
    "UPDATE component_versions SET source_path = ?, source_line = ?, source_layer = ?, "
    "source_distribution = ? WHERE revision = ?"
)
_OLDEST = (
    "SELECT revision FROM component_versions WHERE namespace = ? AND kind = ? AND name = ? AND version < ? "
    "ORDER BY version LIMIT ?"
)


def write(db: Connection, given: Write) -> None:
    """See Store."""
    with _transaction(db):
        _claim_revision(db, given)
        db.executemany(_INSERT, map(_to_row, given.versions))
        db.executemany(_MOVE, ((*_place(each.source), each.revision) for each in given.moved))
        if given.request:
            row = _request_row(given.request)
            db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", row)


def remove_versions(db: Connection, key: Key, below: int, limit: int) -> int:
    """See Store."""
    with _transaction(db):
        gone = db.execute(_OLDEST, (*key, below, limit)).fetchall()
        db.executemany("DELETE FROM component_versions WHERE revision = ?", gone)
        highest = max((revision for (revision,) in gone), default=0)
        db.execute("UPDATE meta SET compacted_revision = max(compacted_revision, ?)", (highest,))
    return len(gone)


def remove_requests(db: Connection, before_us: int, limit: int) -> int:
    """See Store."""
    with _transaction(db):
        query = "SELECT namespace, request_id FROM requests WHERE time_us < ? ORDER BY time_us LIMIT ?"
        gone = db.execute(query, (before_us, limit)).fetchall()
        db.executemany("DELETE FROM requests WHERE namespace = ? AND request_id = ?", gone)
    return len(gone)


@contextmanager
def _transaction(db: Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _claim_revision(db: Connection, given: Write) -> None:
    query = "UPDATE meta SET revision = ? WHERE revision = ?"
    if db.execute(query, (given.revision, given.after_revision)).rowcount != 1:
        raise StoreUnavailableError(
            "the store is at another revision than this registry: somebody else writes to it; start again",
            store="sqlite",
        )


def _to_row(version: Version) -> tuple[Any, ...]:
    return (
        *version.key,
        version.version,
        version.revision,
        version.etag,
        json.dumps(version.labels, sort_keys=True, ensure_ascii=False),
        version.spec,
        *_place(version.source),
        version.create_time_us,
        version.update_time_us,
        int(version.deleted),
    )


def _place(source: Source) -> tuple[str | int | None, ...]:
    if isinstance(source, FileSource):
        return source.path, source.line, source.layer.value, source.distribution
    return None, None, None, None


def _request_row(request: RequestRecord) -> tuple[Any, ...]:
    known = (request.namespace, request.request_id, request.digest, json.dumps(request.outcomes))
    return (*known, request.revision, request.time_us)
