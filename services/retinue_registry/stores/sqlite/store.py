"""The SQLite store: one file, one registry, every write synced before it is answered."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from sqlite3 import Connection
from typing import TypeVar

from retinue.errors import StoreUnavailableError
from retinue_registry.component import Change, Key, Version
from retinue_registry.stores.sqlite import reads, writes
from retinue_registry.stores.sqlite.schema import connect, migrate, translated
from retinue_registry.stores.store import RequestRecord, Write

Result = TypeVar("Result")


class SqliteStore:
    """A store in one file. It is made by `open_sqlite_store`."""

    def __init__(
        self,
        path: Path,
        writer: Connection,
        reader: Connection,
        write_thread: ThreadPoolExecutor,
        read_thread: ThreadPoolExecutor,
    ) -> None:
        self._path = path
        self._writer = writer
        self._reader = reader
        self._write_thread = write_thread
        self._read_thread = read_thread

    async def _read(self, work: Callable[[Connection], Result]) -> Result:
        return await self._in(self._read_thread, lambda: work(self._reader))

    async def _write(self, work: Callable[[Connection], Result]) -> Result:
        return await self._in(self._write_thread, lambda: work(self._writer))

    async def _in(self, thread: ThreadPoolExecutor, work: Callable[[], Result]) -> Result:
        def call() -> Result:
            with translated(self._path):
                return work()

        return await asyncio.get_running_loop().run_in_executor(thread, call)

    async def revision(self) -> int:
        """See Store."""
        return await self._read(reads.revision)

    async def compacted_revision(self) -> int:
        """See Store."""
        return await self._read(reads.compacted_revision)

    async def current(self) -> list[Version]:
        """See Store."""
        return await self._read(reads.current)

    async def version(self, key: Key, version: int) -> Version | None:
        """See Store."""
        return await self._read(lambda db: reads.version(db, key, version))

    async def versions(self, key: Key, below: int, limit: int) -> list[Version]:
        """See Store."""
        return await self._read(lambda db: reads.versions(db, key, below, limit))

    async def at(self, revisions: Sequence[int]) -> list[Version]:
        """See Store."""
        return await self._read(lambda db: reads.at(db, revisions))

    async def changes(self, namespace: str, after: int, through: int, limit: int) -> list[Change]:
        """See Store."""
        return await self._read(lambda db: reads.changes(db, namespace, after, through, limit))

    async def request(self, namespace: str, request_id: str) -> RequestRecord | None:
        """See Store."""
        return await self._read(lambda db: reads.request(db, namespace, request_id))

    async def write(self, write: Write) -> None:
        """See Store."""
        await self._write(lambda db: writes.write(db, write))

    async def remove_versions(self, key: Key, below: int, limit: int) -> int:
        """See Store."""
        return await self._write(lambda db: writes.remove_versions(db, key, below, limit))

    async def remove_requests(self, before_us: int, limit: int) -> int:
        """See Store."""
        return await self._write(lambda db: writes.remove_requests(db, before_us, limit))


@contextmanager
def _locked(path: Path, store: Path) -> Iterator[None]:
    """Hold a file for this process alone. The lock ends with the process, however that ends."""
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _not_written(path, error) from None
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = os.read(lock, 32).decode(errors="replace").strip()
            raise StoreUnavailableError(
                f"{store} is in use by another registry{f' (process {holder})' if holder else ''}: "
                "stop it, or set another RETINUE_DATA_DIR or RETINUE_REGISTRY_STORE",
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
        raise _not_written(folder, error) from None


def _not_written(path: Path, error: OSError) -> StoreUnavailableError:
    return StoreUnavailableError(
        f"{path} cannot be written: {error.strerror}; set RETINUE_DATA_DIR to a folder that can be",
        store="sqlite",
    )


@asynccontextmanager
async def open_sqlite_store(path: Path) -> AsyncIterator[SqliteStore]:
    """Open the store in a file, which is made where it is not there. Raises StoreUnavailableError."""
    _make(path.parent)
    with (
        _locked(path.with_name(path.name + ".lock"), path),
        translated(path),
        closing(connect(path)) as writer,
    ):
        migrate(writer, path)
        with (
            closing(connect(path)) as reader,
            ThreadPoolExecutor(1, "store-write") as write_thread,
            ThreadPoolExecutor(1, "store-read") as read_thread,
        ):
            reader.execute("PRAGMA query_only = ON")
            yield SqliteStore(path, writer, reader, write_thread, read_thread)
