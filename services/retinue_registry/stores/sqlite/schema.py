"""The SQLite file's tables, version by version, and how a connection to it is set up."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinue.errors import StoreUnavailableError

LOCK_WAIT_S = 5.0
"""For other programs that look at the file; no other registry can have it."""

_VERSION_1 = """
CREATE TABLE meta (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  revision INTEGER NOT NULL
) STRICT;
INSERT INTO meta VALUES (1, 0);
CREATE TABLE component_versions (
  revision INTEGER PRIMARY KEY,
  namespace TEXT NOT NULL,
  kind TEXT NOT NULL,
  name TEXT NOT NULL,
  version INTEGER NOT NULL,
  etag TEXT NOT NULL,
  labels TEXT NOT NULL,
  spec BLOB NOT NULL,
  source_path TEXT,
  source_line INTEGER,
  create_time_us INTEGER NOT NULL,
  update_time_us INTEGER NOT NULL,
  deleted INTEGER NOT NULL,
  UNIQUE (namespace, kind, name, version)
) STRICT;
CREATE INDEX component_versions_by_namespace ON component_versions (namespace, revision);
CREATE TABLE requests (
  namespace TEXT NOT NULL,
  request_id TEXT NOT NULL,
  digest BLOB NOT NULL,
  outcomes TEXT NOT NULL,
  revision INTEGER NOT NULL,
  time_us INTEGER NOT NULL,
  PRIMARY KEY (namespace, request_id)
) STRICT, WITHOUT ROWID;
"""

_VERSION_2 = """
ALTER TABLE meta ADD COLUMN compacted_revision INTEGER NOT NULL DEFAULT 0;
ALTER TABLE component_versions ADD COLUMN source_layer TEXT;
ALTER TABLE component_versions ADD COLUMN source_distribution TEXT;
-- There was only the project.
UPDATE component_versions SET source_layer = 'project', source_distribution = ''
  WHERE source_path IS NOT NULL;
CREATE INDEX requests_by_time ON requests (time_us);
"""

_STEPS = (_VERSION_1, _VERSION_2)
"""What makes each version out of the one before; a new file goes through all of them."""

SCHEMA_VERSION = len(_STEPS)

COLUMNS = (
    *("namespace", "kind", "name", "version", "revision", "etag", "labels", "spec", "source_path"),
    *("source_line", "source_layer", "source_distribution", "create_time_us", "update_time_us", "deleted"),
)
"""Of a version, in the order in which it is read and written."""


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise StoreUnavailableError where the driver raises its own errors."""
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailableError(f"{path}: {error}", store="sqlite") from error


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection that commits durably: a commit that returned survives a loss of power."""
    db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    return db


def migrate(db: sqlite3.Connection, path: Path) -> None:
    """Bring a file to this version, a new one as well. All of it happens or nothing.

    Raises StoreUnavailableError for a file of a newer version.
    """
    db.execute("PRAGMA journal_mode = WAL")
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found > SCHEMA_VERSION:
        raise StoreUnavailableError(
            f"{path} was written by a newer Retinue (layout {found}, this one knows {SCHEMA_VERSION}): "
            "use that version, or another RETINUE_DATA_DIR",
            store="sqlite",
        )
    if found == SCHEMA_VERSION:
        return
    steps = "".join(_STEPS[found:])
    try:
        db.executescript(f"BEGIN IMMEDIATE; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise
