"""A SQLite file as the first version of Retinue wrote it."""

import sqlite3
from pathlib import Path

SCHEMA = """
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

_ROWS = """
INSERT INTO runs VALUES
    ('run-done', 'default', 'run-done', 'asked', x'01', 2, 'a', 3, 'talk', 100, x'02', x'03', 'w1',
     NULL, 7, 5, 150, x'04'),
    ('run-cancelled', 'default', 'run-cancelled', '', x'01', 2, 'a', 3, 'talk', 200, x'02', x'03', 'w2',
     'why', 7, 2, NULL, NULL),
    ('run-queued', 'default', 'run-queued', '', x'01', 2, 'b', 3, 'talk', 300, x'02', x'03', 'w3',
     NULL, 7, 1, NULL, NULL);
INSERT INTO journal VALUES
    ('run-done', 1, 1, 'w1', x'01'), ('run-done', 2, 5, 'w1', x'02'),
    ('run-cancelled', 1, 1, 'w2', x'01'), ('run-queued', 1, 1, 'w3', x'01');
INSERT INTO sessions VALUES ('default', 'talk', 2, 100, 150, 'run-cancelled');
INSERT INTO messages VALUES
    ('default', 'talk', 1, 'run-done', 'm1', 150), ('default', 'talk', 2, 'run-done', 'm2', 150);
"""


def write_version_1(path: Path) -> None:
    """One session with a run that succeeded, one at work that somebody cancelled, and one that is queued."""
    connection = sqlite3.connect(path)
    connection.executescript(
        f"PRAGMA journal_mode = WAL; BEGIN; {SCHEMA} {_ROWS} PRAGMA user_version = 1; COMMIT;"
    )
    connection.close()
