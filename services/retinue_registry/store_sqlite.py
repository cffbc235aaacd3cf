"""The SQLite store: one file, one registry, every write synced before it is answered."""

import asyncio
import fcntl
import json
import os
import sqlite3
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

from retinue.errors import StoreUnavailableError
from retinue_registry.component import BATCH_BYTES, ApiSource, Change, FileSource, Key, Source, Version
from retinue_registry.store import RequestRecord, Write

Result = TypeVar("Result")

SCHEMA_VERSION = 1
LOCK_WAIT_S = 5.0
"""For other programs that look at the file; no other registry can have it."""
_AT_ONCE = 500
"""Parameters of one statement; SQLite takes 32,766."""

_SCHEMA = """
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
_COLUMNS = (
    "namespace, kind, name, version, revision, etag, labels, spec, source_path, source_line, create_time_us, "
    "update_time_us, deleted"
)
_OF_BEFORE = ", ".join(f"b.{column.strip()}" for column in _COLUMNS.split(","))
_OF_AFTER = ", ".join(f"a.{column.strip()}" for column in _COLUMNS.split(","))
_INSERT = f"INSERT INTO component_versions ({_COLUMNS}) VALUES ({', '.join('?' * 13)})"  # noqa: S608 - constants
_CURRENT = (
    f"SELECT {_COLUMNS} FROM component_versions WHERE revision IN "  # noqa: S608 - constants
    "(SELECT max(revision) FROM component_versions GROUP BY namespace, kind, name)"
)
_VERSION = (
    f"SELECT {_COLUMNS} FROM component_versions "  # noqa: S608 - constants
    "WHERE namespace = ? AND kind = ? AND name = ? AND version = ? AND NOT deleted"
)
_CHANGES = (
    f"SELECT {_OF_AFTER}, {_OF_BEFORE} FROM component_versions a "  # noqa: S608 - constants
    "LEFT JOIN component_versions b ON a.deleted AND b.namespace = a.namespace AND b.kind = a.kind "
    "AND b.name = a.name AND b.version = a.version - 1 "
    "WHERE a.namespace = ? AND a.revision > ? AND a.revision <= ? ORDER BY a.revision LIMIT ?"
)
_WIDTH = 13


def _to_row(version: Version) -> tuple[Any, ...]:
    file = version.source if isinstance(version.source, FileSource) else None
    return (
        *version.key,
        version.version,
        version.revision,
        version.etag,
        json.dumps(version.labels, sort_keys=True, ensure_ascii=False),
        version.spec,
        file.path if file else None,
        file.line if file else None,
        version.create_time_us,
        version.update_time_us,
        int(version.deleted),
    )


def _from_row(row: Sequence[Any]) -> Version:
    namespace, kind, name, version, revision, etag, labels, spec, path, line, created, updated, deleted = row
    source: Source = ApiSource() if path is None else FileSource(path, line)
    labels = json.loads(labels) if labels != "{}" else {}
    key = Key(namespace, kind, name)
    return Version(key, version, revision, etag, labels, spec, source, created, updated, bool(deleted))


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreUnavailableError(f"{path}: {error}", store="sqlite") from error


class SqliteStore:
    """A store in one file. It is made by `open_sqlite_store`."""

    def __init__(
        self,
        path: Path,
        writer: sqlite3.Connection,
        reader: sqlite3.Connection,
        write_thread: ThreadPoolExecutor,
        read_thread: ThreadPoolExecutor,
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._write_thread = write_thread
        self._read_thread = read_thread

    async def _read(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        def call() -> Result:
            with _translated(self._path):
                return work(self._reader)

        return await asyncio.get_running_loop().run_in_executor(self._read_thread, call)

    async def revision(self) -> int:
        """The store's revision; 0 where nothing was ever written."""
        return await self._read(lambda db: int(db.execute("SELECT revision FROM meta").fetchone()[0]))

    async def current(self) -> list[Version]:
        """The newest version of every key, the ends of deleted ones included."""
        return await self._read(lambda db: [_from_row(row) for row in db.execute(_CURRENT)])

    async def version(self, key: Key, version: int) -> Version | None:
        """One version; None where there is none, or it is an end."""
        row = await self._read(lambda db: db.execute(_VERSION, (*key, version)).fetchone())
        return _from_row(row) if row else None

    async def at(self, revisions: Sequence[int]) -> list[Version]:
        """The versions with these revisions, in that order."""

        def work(db: sqlite3.Connection) -> list[Version]:
            found: dict[int, Version] = {}
            for start in range(0, len(revisions), _AT_ONCE):
                part = revisions[start : start + _AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT {_COLUMNS} FROM component_versions WHERE revision IN ({marks})"  # noqa: S608 - marks
                found |= {version.revision: version for version in map(_from_row, db.execute(query, part))}
            return [found[revision] for revision in revisions]

        return await self._read(work)

    async def changes(self, namespace: str, after: int, through: int, limit: int) -> list[Change]:
        """The first changes of a namespace after one revision and up to another, in order."""

        def work(db: sqlite3.Connection) -> list[Change]:
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

        return await self._read(work)

    async def request(self, namespace: str, request_id: str) -> RequestRecord | None:
        """What is known of a request_id."""
        query = (
            "SELECT digest, outcomes, revision, time_us FROM requests WHERE namespace = ? AND request_id = ?"
        )
        row = await self._read(lambda db: db.execute(query, (namespace, request_id)).fetchone())
        if row is None:
            return None
        digest, outcomes, revision, time_us = row
        known = [(int(number), str(what)) for number, what in json.loads(outcomes)]
        return RequestRecord(namespace, request_id, digest, known, revision, time_us)

    async def write(self, write: Write) -> None:
        """Store all of it, durably. Raises StoreUnavailableError where somebody else wrote in between."""

        def call() -> None:
            with _translated(self._path):
                _write(self._writer, write)

        await asyncio.get_running_loop().run_in_executor(self._write_thread, call)


def _write(db: sqlite3.Connection, write: Write) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        _claim_revision(db, write)
        db.executemany(_INSERT, map(_to_row, write.versions))
        for version in write.moved:
            row = _to_row(version)
            db.execute(
                "UPDATE component_versions SET source_path = ?, source_line = ? WHERE revision = ?",
                (row[8], row[9], version.revision),
            )
        if request := write.request:
            known = (request.namespace, request.request_id, request.digest, json.dumps(request.outcomes))
            row = (*known, request.revision, request.time_us)
            db.execute("INSERT INTO requests VALUES (?, ?, ?, ?, ?, ?)", row)
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _claim_revision(db: sqlite3.Connection, write: Write) -> None:
    query = "UPDATE meta SET revision = ? WHERE revision = ?"
    if db.execute(query, (write.revision, write.after_revision)).rowcount != 1:
        raise StoreUnavailableError(
            "the store is at another revision than this registry: somebody else writes to it; start again",
            store="sqlite",
        )


def _connect(path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=LOCK_WAIT_S, isolation_level=None, check_same_thread=False)
    db.execute("PRAGMA synchronous = FULL")
    return db


def _prepare(db: sqlite3.Connection, path: Path) -> None:
    db.execute("PRAGMA journal_mode = WAL")
    found = int(db.execute("PRAGMA user_version").fetchone()[0])
    if found == 0:
        db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    elif found != SCHEMA_VERSION:
        raise StoreUnavailableError(
            f"{path} was written by another Retinue (layout {found}, this one knows {SCHEMA_VERSION}): "
            "use that version, or another RETINUE_DATA_DIR",
            store="sqlite",
        )


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold a file for this process alone. The lock ends with the process, however that ends."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreUnavailableError(
            f"{path} cannot be written: {error.strerror}; set RETINUE_DATA_DIR to a folder that can be",
            store="sqlite",
        ) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            raise StoreUnavailableError(
                f"{path.parent} is in use by another registry{f' (process {holder})' if holder else ''}: "
                "stop it, or set another RETINUE_DATA_DIR",
                store="sqlite",
            ) from None
        os.ftruncate(lock, 0)
        os.write(lock, str(os.getpid()).encode())
        yield
    finally:
        os.close(lock)


def _make(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.name == ".retinue":  # inside of a project, where it is nobody's to commit
            (folder / ".gitignore").write_text("*\n")
    except OSError as error:
        raise StoreUnavailableError(
            f"{folder} cannot be written: {error.strerror}; set RETINUE_DATA_DIR to a folder that can be",
            store="sqlite",
        ) from None


@asynccontextmanager
async def open_sqlite_store(folder: Path) -> AsyncIterator[SqliteStore]:
    """Open the store in a folder, which is made where it is not there. Raises StoreUnavailableError."""
    path = folder / "registry.db"
    _make(folder)
    with _locked(folder / "registry.lock"), _translated(path):
        writer = _connect(path)
        try:
            _prepare(writer, path)
            reader = _connect(path)
            reader.execute("PRAGMA query_only = ON")
            try:
                with (
                    ThreadPoolExecutor(1, "store-write") as writes,
                    ThreadPoolExecutor(1, "store-read") as reads,
                ):
                    yield SqliteStore(path, writer, reader, writes, reads)
            finally:
                reader.close()
        finally:
            writer.close()
