"""The SQLite file's tables, version by version, and how a connection to it is set up."""

import sqlite3
from pathlib import Path
from typing import Any

from retinue.errors import StoreUnavailableError

_VERSION_1 = """
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

# Indexes are partial wherever they can be: most runs are roots that never wait, and pay for none of the rest.
# Some hold columns that are the same in all their rows: without them SQLite would look each row up.
_VERSION_2 = """
ALTER TABLE runs ADD COLUMN parent_run_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN path TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN origin_run_id TEXT NOT NULL DEFAULT '';
ALTER TABLE runs ADD COLUMN origin_sequence INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN priority INTEGER NOT NULL DEFAULT 0;
ALTER TABLE runs ADD COLUMN expire_us INTEGER;
ALTER TABLE runs ADD COLUMN pause_reason TEXT;
ALTER TABLE runs ADD COLUMN attention_us INTEGER;
-- What nobody has heard yet is a word for the run from now on.
UPDATE runs SET attention_us = 0 WHERE state < 5 AND cancel_reason IS NOT NULL;
DROP INDEX runs_newest;
DROP INDEX runs_session;
DROP INDEX runs_target;
DROP INDEX runs_unfinished;
DROP INDEX runs_unsuccessful;
CREATE INDEX runs_newest ON runs (namespace, create_us, run_id) WHERE parent_run_id = '';
CREATE INDEX runs_session ON runs (namespace, session_id, create_us, run_id) WHERE parent_run_id = '';
CREATE INDEX runs_target ON runs (namespace, target_name, create_us, run_id) WHERE parent_run_id = '';
CREATE INDEX runs_unfinished ON runs (state, namespace, create_us, run_id)
    WHERE state < 5 AND parent_run_id = '';
CREATE INDEX runs_unsuccessful ON runs (state, namespace, create_us, run_id)
    WHERE state > 5 AND parent_run_id = '';
CREATE INDEX runs_children ON runs (root_run_id, create_us, run_id) WHERE parent_run_id <> '';
CREATE INDEX runs_queued ON runs (
    namespace, priority DESC, create_us, run_id, session_id, state, parent_run_id
)
    WHERE state = 1 AND parent_run_id = '';
CREATE INDEX runs_queued_session ON runs (namespace, session_id, create_us, run_id, state, parent_run_id)
    WHERE state = 1 AND parent_run_id = '';
CREATE INDEX runs_expiring ON runs (expire_us)
    WHERE state = 1 AND expire_us IS NOT NULL AND parent_run_id = '';
CREATE INDEX runs_commanded ON runs (run_id, state, attention_us, parent_run_id)
    WHERE state = 2 AND attention_us = 0 AND parent_run_id = '';
CREATE INDEX runs_due ON runs (attention_us)
    WHERE state IN (3, 4) AND attention_us IS NOT NULL AND parent_run_id = '';
ALTER TABLE sessions ADD COLUMN labels TEXT NOT NULL DEFAULT '{}';
ALTER TABLE sessions ADD COLUMN runs INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN output_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN cached_input_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN reasoning_tokens INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN nano_usd INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN unknown_cost INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN turns INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN tool_calls INTEGER NOT NULL DEFAULT 0;
ALTER TABLE sessions ADD COLUMN duration_us INTEGER NOT NULL DEFAULT 0;
CREATE INDEX sessions_used ON sessions (namespace, update_us, session_id);
CREATE TABLE session_labels (
    namespace TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    session_id TEXT NOT NULL,
    PRIMARY KEY (namespace, name, value, create_us, session_id)
) WITHOUT ROWID;
CREATE TABLE inputs (
    input_id TEXT PRIMARY KEY,
    namespace TEXT NOT NULL,
    root_run_id TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    expire_us INTEGER NOT NULL,
    request BLOB NOT NULL,
    state INTEGER NOT NULL,
    answer BLOB,
    received INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX inputs_newest ON inputs (namespace, create_us, input_id);
CREATE INDEX inputs_pending ON inputs (namespace, create_us, input_id) WHERE state = 1;
CREATE INDEX inputs_root ON inputs (root_run_id, create_us, input_id);
CREATE TABLE blobs (
    root_run_id TEXT NOT NULL,
    blob_id TEXT NOT NULL,
    mime_type TEXT NOT NULL,
    name TEXT NOT NULL,
    data BLOB NOT NULL,
    PRIMARY KEY (root_run_id, blob_id)
);
"""

_VERSION_3 = """
CREATE TABLE memories (
    namespace TEXT NOT NULL,
    memory_id TEXT NOT NULL,
    text TEXT NOT NULL,
    labels TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    expire_us INTEGER,
    run_id TEXT NOT NULL,
    PRIMARY KEY (namespace, memory_id)
);
CREATE INDEX memories_newest ON memories (namespace, create_us, memory_id);
CREATE INDEX memories_expiring ON memories (expire_us) WHERE expire_us IS NOT NULL;
CREATE TABLE memory_terms (
    namespace TEXT NOT NULL,
    term TEXT NOT NULL,
    create_us INTEGER NOT NULL,
    memory_id TEXT NOT NULL,
    PRIMARY KEY (namespace, term, create_us, memory_id)
) WITHOUT ROWID;
"""

_VERSION_4 = """
ALTER TABLE sessions ADD COLUMN base_session_id TEXT NOT NULL DEFAULT '';
DROP INDEX sessions_newest;
DROP INDEX sessions_used;
CREATE INDEX sessions_newest ON sessions (namespace, create_us, session_id) WHERE base_session_id = '';
CREATE INDEX sessions_used ON sessions (namespace, update_us, session_id) WHERE base_session_id = '';
CREATE INDEX sessions_of_steps ON sessions (namespace, base_session_id, create_us, session_id)
    WHERE base_session_id <> '';
"""

_STEPS = (_VERSION_1, _VERSION_2, _VERSION_3, _VERSION_4)
"""What makes each version out of the one before; a new file goes through all of them."""

SCHEMA_VERSION = len(_STEPS)


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


def migrate(connection: sqlite3.Connection, path: Path) -> int:
    """Bring a file to this version, a new one as well; return the version that it had, 0 for a new one.

    All of it happens or nothing. Raises ValueError for a file of a newer version, StoreUnavailableError.
    """
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == SCHEMA_VERSION:
        return version
    if version > SCHEMA_VERSION:
        raise ValueError(
            f"{path} was written by a newer version of Retinue (schema {version}, this one has "
            f"{SCHEMA_VERSION}): use that version, or another file"
        )
    steps = "".join(_STEPS[version:])
    try:
        connection.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error as error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise StoreUnavailableError(
            f"{path} cannot be brought from schema {version} to {SCHEMA_VERSION}, and is left as it was: "
            f"{error}",
            store="sqlite",
        ) from error
    return version
