"""The SQLite file's tables, and how a connection to it is set up."""

import sqlite3
from pathlib import Path
from typing import Any

from retinue.errors import StoreUnavailableError

SCHEMA_VERSION = 1

_SCHEMA = """
CREATE TABLE runs (
    run_id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    root_run_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    request_digest BLOB NOT NULL,
    target_kind INTEGER NOT NULL,
    target_name TEXT NOT NULL,
    target_version INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    request BLOB NOT NULL,
    definition BLOB NOT NULL,
    writer TEXT NOT NULL,
    cancel_reason TEXT,
    lease_us INTEGER NOT NULL,
    state INTEGER NOT NULL,
    end_us INTEGER,
    result BLOB
) WITHOUT ROWID;
CREATE UNIQUE INDEX runs_request ON runs (namespace, request_id) WHERE request_id <> '';
CREATE INDEX runs_newest ON runs (namespace, create_us, run_id);
CREATE INDEX runs_session ON runs (namespace, session_id, create_us, run_id);
CREATE INDEX runs_target ON runs (namespace, target_name, create_us, run_id);
CREATE INDEX runs_unfinished ON runs (state, namespace, session_id, create_us, run_id) WHERE state < 5;
CREATE INDEX runs_unsuccessful ON runs (namespace, state, create_us, run_id) WHERE state <> 5;
CREATE TABLE journal (
    root_run_id TEXT NOT NULL,
    first_sequence INTEGER NOT NULL,
    last_sequence INTEGER NOT NULL,
    writer TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (root_run_id, first_sequence)
) WITHOUT ROWID;
CREATE TABLE sessions (
    namespace TEXT NOT NULL,
    session_id TEXT NOT NULL,
    message_count INTEGER NOT NULL,
    create_us INTEGER NOT NULL,
    update_us INTEGER NOT NULL,
    active_run_id TEXT,
    PRIMARY KEY (namespace, session_id)
) WITHOUT ROWID;
CREATE INDEX sessions_newest ON sessions (namespace, create_us, session_id);
CREATE TABLE messages (
    namespace TEXT NOT NULL,
    session_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    run_id TEXT NOT NULL,
    message_json TEXT NOT NULL,
    time_us INTEGER NOT NULL,
    PRIMARY KEY (namespace, session_id, position)
) WITHOUT ROWID;
"""


class Reader(sqlite3.Connection):
    """A connection to read on: what the driver says comes out as StoreUnavailableError."""

    def execute(self, *arguments: Any) -> sqlite3.Cursor:
        """Run a statement to its first row."""
        try:
            return super().execute(*arguments)
        except (sqlite3.OperationalError, sqlite3.InternalError) as error:
            raise StoreUnavailableError(
                f"the SQLite store cannot be read: {error}", store="sqlite"
            ) from error


def connect(path: Path, kind: type[sqlite3.Connection] = sqlite3.Connection) -> sqlite3.Connection:
    """Open a connection that commits durably: a commit that returned survives a loss of power."""
    connection = sqlite3.connect(
        path, isolation_level=None, check_same_thread=False, cached_statements=256, factory=kind
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA busy_timeout = 5000")
    connection.execute("PRAGMA cache_size = -16384")
    # A larger log between checkpoints: fewer pauses, for some MiB of disk.
    connection.execute("PRAGMA wal_autocheckpoint = 4000")
    return connection


def create_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file. Raises ValueError for a file of another version."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version == SCHEMA_VERSION:
        return
    if version:
        raise ValueError(
            f"{path} was written by another version of Retinue (schema {version}, this one has "
            f"{SCHEMA_VERSION}): use that version, or another file"
        )
    connection.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
