"""The store in one SQLite file, for one engine on one machine."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import cast

from retinue.errors import StoreUnavailableError
from retinue_engine.group_writer import GroupWriter
from retinue_engine.store import JournalRecord, MessageRow, RunFilter, RunOutcome, RunRow, SessionRow
from retinue_engine.store_sqlite_schema import Reader, connect, create_tables
from retinue_engine.store_sqlite_writes import (
    RUN_COLUMNS,
    AppendRecord,
    BeginNext,
    CancelRun,
    ClaimRun,
    CreateRun,
    Write,
    Written,
    commit,
    read_run,
)


class SqliteStore:
    """Reads on the loop's own connection, which costs microseconds; writes by group commit on a thread."""

    exclusive = True

    def __init__(self, reader: Connection, writer: GroupWriter[Write, Written]) -> None:
        self._reader = reader
        self._writer = writer

    async def create_run(self, run: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        stored = await self._writer.submit(CreateRun(run, first, new_session))
        return cast(RunRow, stored)

    def append(self, record: JournalRecord, outcome: RunOutcome | None = None) -> "asyncio.Future[None]":
        return cast("asyncio.Future[None]", self._writer.submit(AppendRecord(record, outcome)))

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:  # noqa: ARG002 - no leases
        await self._writer.submit(ClaimRun(run.run_id, record))

    async def read_journal(self, root_run_id: str, after: int, max_bytes: int) -> list[JournalRecord]:
        rows = self._reader.execute(
            "SELECT root_run_id, first_sequence, last_sequence, writer, data FROM journal"
            " WHERE root_run_id = ?1 AND last_sequence > ?2 AND first_sequence >= coalesce((SELECT"
            " max(first_sequence) FROM journal WHERE root_run_id = ?1 AND first_sequence <= ?2 + 1), 0)"
            " ORDER BY first_sequence",
            (root_run_id, after),
        )
        records: list[JournalRecord] = []
        size = 0
        with closing(rows):
            for row in rows:
                record = JournalRecord(*row)
                size += len(record.data)
                if records and size > max_bytes:
                    break
                records.append(record)
        return records

    async def last_sequence(self, root_run_id: str) -> int:
        row = self._reader.execute(
            "SELECT last_sequence FROM journal WHERE root_run_id = ? ORDER BY first_sequence DESC LIMIT 1",
            (root_run_id,),
        ).fetchone()
        return int(row[0]) if row else 0

    async def get_run(self, namespace: str, run_id: str) -> RunRow | None:
        return read_run(self._reader, "run_id = ? AND namespace = ?", (run_id, namespace))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return read_run(
            self._reader, "namespace = ? AND request_id = ? AND request_id <> ''", (namespace, request_id)
        )

    async def list_runs(self, which: RunFilter, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
        conditions, values = ["namespace = ?"], [which.namespace]
        if which.session_id:
            conditions.append("session_id = ?")
            values.append(which.session_id)
        if which.target_name:
            conditions.append("target_name = ?")
            values.append(which.target_name)
        if which.states:
            conditions.append(f"state IN ({', '.join(str(int(state)) for state in which.states)})")
        rows = self._reader.execute(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE {' AND '.join(conditions)}"  # noqa: S608 - all of it is ours
            " AND (create_us, run_id) < (?, ?) ORDER BY create_us DESC, run_id DESC LIMIT ?",
            (*values, *(before or (2**62, "")), limit),
        )
        return [RunRow(*row) for row in rows]

    async def request_cancel(self, namespace: str, run_id: str, reason: str) -> RunRow | None:
        return await self._writer.submit(CancelRun(namespace, run_id, reason))

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:  # noqa: ARG002 - no leases
        rows = self._reader.execute(
            f"SELECT {RUN_COLUMNS} FROM runs WHERE state < 5 AND state = 2"  # noqa: S608 - columns are ours
            " ORDER BY create_us LIMIT ?",
            (limit,),
        )
        return [RunRow(*row) for row in rows]

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:  # noqa: ARG002 - no leases
        return []

    async def cancelled_runs(self) -> list[tuple[str, str]]:
        rows = self._reader.execute(
            "SELECT run_id, cancel_reason FROM runs"
            " WHERE state < 5 AND state = 2 AND cancel_reason IS NOT NULL"
        )
        return list(rows)

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:  # noqa: ARG002 - no leases
        # Nearly always there is none, and to see that costs a read. None is missed: one that was queued was
        # committed before what let its session become free.
        waits = self._reader.execute(
            "SELECT 1 FROM runs WHERE state < 5 AND state = 1 AND namespace = ? AND session_id = ? LIMIT 1",
            (namespace, session_id),
        ).fetchone()
        return await self._writer.submit(BeginNext(namespace, session_id)) if waits else None

    async def waiting_sessions(self, limit: int) -> list[tuple[str, str]]:
        rows = self._reader.execute(
            "SELECT DISTINCT r.namespace, r.session_id FROM runs AS r JOIN sessions AS s"
            " ON s.namespace = r.namespace AND s.session_id = r.session_id"
            " WHERE r.state < 5 AND r.state = 1 AND s.active_run_id IS NULL LIMIT ?",
            (limit,),
        )
        return list(rows)

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        row = self._reader.execute(
            f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE namespace = ? AND session_id = ?",  # noqa: S608 - columns are ours
            (namespace, session_id),
        ).fetchone()
        return SessionRow(*row) if row else None

    async def list_sessions(
        self, namespace: str, before: tuple[int, str] | None, limit: int
    ) -> list[SessionRow]:
        rows = self._reader.execute(
            f"SELECT {_SESSION_COLUMNS} FROM sessions WHERE namespace = ?"  # noqa: S608 - columns are ours
            " AND (create_us, session_id) < (?, ?) ORDER BY create_us DESC, session_id DESC LIMIT ?",
            (namespace, *(before or (2**62, "")), limit),
        )
        return [SessionRow(*row) for row in rows]

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        rows = self._reader.execute(
            "SELECT position, run_id, message_json, time_us FROM messages"
            " WHERE namespace = ? AND session_id = ? AND position > ? ORDER BY position LIMIT ?",
            (namespace, session_id, after, -1 if limit is None else limit),
        )
        return [MessageRow(*row) for row in rows]


_SESSION_COLUMNS = "namespace, session_id, message_count, create_us, update_us"


@contextmanager
def _sole_owner(path: Path) -> Iterator[None]:
    lock_path = path.with_name(path.name + ".lock")
    try:
        # Conversations are for nobody else on this machine; SQLite gives its log the mode of the file.
        for each in (lock_path, path):
            os.close(os.open(each, os.O_CREAT | os.O_RDWR, 0o600))
    except OSError as error:
        raise StoreUnavailableError(
            f"cannot write {path}: {error.strerror}; set RETINUE_DATA_DIR to a folder of the engine's own",
            store="sqlite",
        ) from error
    with lock_path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreUnavailableError(
                f"another engine works on {path}: stop it, or set RETINUE_STORE to another file, or to a "
                "mongodb:// address that engines can share",
                store="sqlite",
            ) from None
        yield


@asynccontextmanager
async def open_sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open the store in a file, which is made where it does not exist. Raises StoreUnavailableError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreUnavailableError(f"cannot make the folder of {path}: {error}", store="sqlite") from error
    with _sole_owner(path), closing(connect(path)) as writing, closing(connect(path, Reader)) as reading:
        create_tables(writing, path)
        reading.execute("PRAGMA query_only = ON")
        writer: GroupWriter[Write, Written] = GroupWriter(partial(commit, writing))
        writer.start()
        try:
            yield SqliteStore(reading, writer)
        finally:
            await writer.aclose()
