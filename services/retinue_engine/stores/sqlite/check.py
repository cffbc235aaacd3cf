"""Looks over a SQLite file of the engine's for what cannot be, and says it in words."""

import sqlite3
from collections.abc import Iterator

from google.protobuf.message import DecodeError

from retinue.engine.v1 import service_pb2
from retinue_engine.stores.sqlite.runs import IS_ROOT
from retinue_engine.stores.sqlite.schema import SCHEMA_VERSION


def check(connection: sqlite3.Connection) -> list[str]:
    """What is inconsistent in a file, a sentence each; empty where all is well.

    Reads everything, as it was at one moment, and changes nothing.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version != SCHEMA_VERSION:
        return [f"the file has schema {version}, and this Retinue checks {SCHEMA_VERSION}: migrate it first"]
    connection.execute("BEGIN")
    try:
        return [*_damage(connection), *_holes(connection), *_ends(connection), *_counts(connection)]
    finally:
        connection.execute("ROLLBACK")


def _damage(connection: sqlite3.Connection) -> Iterator[str]:
    for (said,) in connection.execute("PRAGMA integrity_check"):
        if said != "ok":
            yield f"SQLite says: {said}"


def _holes(connection: sqlite3.Connection) -> Iterator[str]:
    found = connection.execute(
        "SELECT root_run_id, first_sequence, before FROM (SELECT root_run_id, first_sequence,"
        " lag(last_sequence, 1, 0) OVER (PARTITION BY root_run_id ORDER BY first_sequence) AS before"
        " FROM journal) WHERE first_sequence <> before + 1"
    )
    for run_id, first, before in found:
        yield f"the journal of {run_id} goes on with event {first} after event {before}"


def _ends(connection: sqlite3.Connection) -> Iterator[str]:
    found = connection.execute(
        "SELECT run_id, (SELECT data FROM journal WHERE root_run_id = run_id"  # noqa: S608 - all of it is ours
        f" ORDER BY first_sequence DESC LIMIT 1) FROM runs WHERE state >= 5 AND {IS_ROOT}"
    )
    for run_id, data in found:
        if not _is_finished(data):
            yield f"{run_id} has ended, and the last event of its journal is no RunFinished"


def _is_finished(data: bytes | None) -> bool:
    try:
        events = service_pb2.StreamRunResponse.FromString(data or b"").events
    except DecodeError:
        return False
    return bool(events) and events[-1].WhichOneof("event") == "run_finished"


def _counts(connection: sqlite3.Connection) -> Iterator[str]:
    found = connection.execute(
        "SELECT * FROM (SELECT s.namespace, s.session_id, s.message_count, count(m.position) AS held,"
        " coalesce(max(m.position), 0) AS last FROM sessions AS s LEFT JOIN messages AS m"
        " ON m.namespace = s.namespace AND m.session_id = s.session_id GROUP BY s.namespace, s.session_id)"
        " WHERE message_count <> held OR message_count <> last"
    )
    for namespace, session_id, count, held, last in found:
        yield (
            f"session {session_id} of {namespace} counts {count} messages, and holds {held}, "
            f"the last at place {last}"
        )
