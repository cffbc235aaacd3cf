"""The store in one SQLite file, for one engine on one machine."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, closing, contextmanager
from functools import partial
from pathlib import Path
from sqlite3 import Connection
from typing import Any, TypeVar, cast

from retinue.errors import StoreUnavailableError
from retinue_engine.memory import MemoryRow
from retinue_engine.stores.rows import (
    BlobRow,
    Control,
    Effects,
    InputRow,
    JournalRecord,
    MessageRow,
    QueuedSession,
    RunFilter,
    RunRow,
    SessionRow,
)
from retinue_engine.stores.sqlite import inputs, memories, runs, sessions
from retinue_engine.stores.sqlite.group_writer import GroupWriter
from retinue_engine.stores.sqlite.schema import Reader, connect, migrate
from retinue_engine.stores.sqlite.writes import AppendRecord, ClaimRun, CreateRun, Write, commit

_Answer = TypeVar("_Answer")


class SqliteStore:
    """Reads on the loop's own connection, which costs microseconds; writes by group commit on a thread."""

    exclusive = True

    def __init__(self, reader: Connection, writer: GroupWriter[Write[Any], Any]) -> None:
        self._reader = reader
        self._writer = writer

    def _write(self, write: Write[_Answer]) -> "asyncio.Future[_Answer]":
        return cast("asyncio.Future[_Answer]", self._writer.submit(write))

    async def create_run(
        self,
        run: RunRow,
        first: JournalRecord,
        *,
        new_session: bool,
        blobs: Sequence[BlobRow] = (),
        queue: bool = False,
        reject_busy: bool = False,
    ) -> RunRow:
        return await self._write(CreateRun(run, first, blobs, new_session, queue, reject_busy))

    def append(self, record: JournalRecord, effects: Effects | None = None) -> "asyncio.Future[None]":
        return self._write(AppendRecord(record, effects))

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:  # noqa: ARG002 - no leases
        await self._write(ClaimRun(run.run_id, record))

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
        return runs.read_run(self._reader, "run_id = ? AND namespace = ?", (run_id, namespace))

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        return runs.read_run(
            self._reader, "namespace = ? AND request_id = ? AND request_id <> ''", (namespace, request_id)
        )

    async def list_runs(self, which: RunFilter, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
        return runs.list_runs(self._reader, which, before, limit)

    async def control_run(self, namespace: str, run_id: str, control: Control) -> RunRow | None:
        return await self._write(runs.ControlRun(namespace, run_id, control))

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:  # noqa: ARG002 - no leases
        return runs.abandoned_runs(self._reader, limit)

    async def due_runs(self, now_us: int, limit: int) -> list[RunRow]:
        return runs.due_runs(self._reader, now_us, limit)

    async def expired_runs(self, now_us: int, limit: int) -> list[RunRow]:
        return runs.expired_runs(self._reader, now_us, limit)

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:  # noqa: ARG002 - no leases
        return []

    async def await_command(self, longest_s: float) -> None:
        await asyncio.sleep(min(0.1, longest_s))

    async def commanded_runs(self) -> list[str]:
        return runs.commanded_runs(self._reader)

    async def take_commands(self, run_ids: Sequence[str]) -> list[RunRow]:
        return await self._write(runs.TakeCommands(run_ids))

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:  # noqa: ARG002 - no leases
        # Nearly always there is none, and to see that costs a read. None is missed: one that was queued was
        # committed before what let its session become free.
        if not runs.has_queued(self._reader, namespace, session_id):
            return None
        return await self._write(runs.BeginNext(namespace, session_id))

    async def queued_namespaces(self) -> list[str]:
        return runs.queued_namespaces(self._reader)

    async def count_queued(self, namespace: str | None = None) -> int:
        return runs.count_queued(self._reader, namespace)

    async def free_sessions(self, namespace: str, limit: int) -> list[QueuedSession]:
        return runs.free_sessions(self._reader, namespace, limit)

    async def get_input(self, namespace: str, input_id: str) -> InputRow | None:
        return inputs.get_input(self._reader, namespace, input_id)

    async def list_inputs(
        self,
        namespace: str,
        root_run_id: str,
        before: tuple[int, str] | None,
        limit: int,
        *,
        closed: bool = False,
    ) -> list[InputRow]:
        return inputs.list_inputs(self._reader, namespace, root_run_id, before, limit, closed=closed)

    async def answer_input(self, namespace: str, input_id: str, answer: bytes) -> InputRow | None:
        return await self._write(inputs.AnswerInput(namespace, input_id, answer))

    async def answered_inputs(self, root_run_id: str) -> list[InputRow]:
        return inputs.answered_inputs(self._reader, root_run_id)

    async def get_blob(self, root_run_id: str, blob_id: str) -> BlobRow | None:
        return inputs.get_blob(self._reader, root_run_id, blob_id)

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        return sessions.get_session(self._reader, namespace, session_id)

    async def list_sessions(
        self,
        namespace: str,
        before: tuple[int, str] | None,
        limit: int,
        labels: Mapping[str, str] | None = None,
        base: str = "",
    ) -> list[SessionRow]:
        return sessions.list_sessions(self._reader, namespace, before, limit, labels or {}, base)

    async def label_session(
        self, namespace: str, session_id: str, labels: Mapping[str, str]
    ) -> SessionRow | None:
        return await self._write(sessions.LabelSession(namespace, session_id, labels))

    async def delete_session(self, namespace: str, session_id: str) -> int | None:
        return await self._write(sessions.DeleteSession(namespace, session_id))

    async def old_sessions(self, before_us: int, limit: int) -> list[tuple[str, str]]:
        return sessions.old_sessions(self._reader, before_us, limit)

    async def surplus_sessions(self, keep: int, limit: int) -> list[tuple[str, str]]:
        return sessions.surplus_sessions(self._reader, keep, limit)

    async def write_memory(self, row: MemoryRow) -> MemoryRow:
        return await self._write(memories.WriteMemory(row))

    async def get_memory(self, namespace: str, memory_id: str, now_us: int) -> MemoryRow | None:
        return memories.get_memory(self._reader, namespace, memory_id, now_us)

    async def list_memories(
        self,
        namespace: str,
        labels: Mapping[str, str],
        before: tuple[int, str] | None,
        limit: int,
        now_us: int,
    ) -> list[MemoryRow]:
        return memories.list_memories(self._reader, namespace, labels, before, limit, now_us)

    async def search_memories(
        self, namespace: str, words: Sequence[str], labels: Mapping[str, str], limit: int, now_us: int
    ) -> list[MemoryRow]:
        return memories.search_memories(self._reader, namespace, words, labels, limit, now_us)

    async def delete_memory(self, namespace: str, memory_id: str) -> bool:
        return await self._write(memories.DeleteMemory(namespace, memory_id))

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        return sessions.list_messages(self._reader, namespace, session_id, after, limit)


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
        migrate(writing, path)
        reading.execute("PRAGMA query_only = ON")
        writer: GroupWriter[Write[Any], Any] = GroupWriter(partial(commit, writing))
        writer.start()
        try:
            yield SqliteStore(reading, writer)
        finally:
            await writer.aclose()
