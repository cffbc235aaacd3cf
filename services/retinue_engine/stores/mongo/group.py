"""Group commit: many small writes to one collection become few requests to MongoDB."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, NamedTuple

from pymongo import InsertOne, UpdateOne
from pymongo.errors import BulkWriteError, PyMongoError

from retinue_engine.stores.company import Company
from retinue_engine.stores.mongo.database import DATABASE
from retinue_kit.mongodb import DuplicateDocumentError

MAX_BATCH = 1_000
"""Most writes in one request, so that none waits long for the others."""

MAX_BATCH_BYTES = 8 * 1024 * 1024

Document = dict[str, Any]


class _Entry(NamedTuple):
    write: InsertOne[Document] | UpdateOne
    document: Document
    """What is inserted; empty for an update."""
    size: int
    future: "asyncio.Future[Any]"
    tells: bool
    """Whether the writer is told if the document was new."""


class GroupWrites:
    """Sends what is submitted in unordered bulks, one in flight; what comes meanwhile goes with the next.

    Writes of one bulk must not depend on one another. `judge` is asked about an insert whose key is taken:
    it returns where that is as good as inserted, and raises what the writer is told where it is not.
    """

    def __init__(self, collection: Any, judge: Callable[[Document], Awaitable[None]] | None = None) -> None:
        self._collection = collection
        self._judge = judge
        self._waiting: list[_Entry] = []
        self._wake = asyncio.Event()
        self._closing = False

    def insert(self, document: Document, size: int = 0) -> "asyncio.Future[None]":
        """Insert a document of about `size` bytes; done once a majority has it in its journals.

        Fails with DuplicateDocumentError where its key is taken and there is no judge, and with
        StoreUnavailableError where it may be there or not.
        """
        return self._submit(InsertOne(document), document, size)

    def insert_and_tell(self, document: Document, size: int = 0) -> "asyncio.Future[bool]":
        """Insert a document likewise; False where the judge found it as good as inserted."""
        return self._submit(InsertOne(document), document, size, tells=True)

    def update(
        self, which: Mapping[str, Any], change: Mapping[str, Any] | Sequence[Mapping[str, Any]]
    ) -> "asyncio.Future[None]":
        """Change the first document that fits, if there is one. The change may be a pipeline."""
        return self._submit(UpdateOne(which, change), {}, 0)

    def _submit(
        self, write: InsertOne[Document] | UpdateOne, document: Document, size: int, *, tells: bool = False
    ) -> "asyncio.Future[Any]":
        if self._closing:
            raise RuntimeError("the store is closed")
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Entry(write, document, size, future, tells))
        self._wake.set()
        return future

    def close(self) -> None:
        """Take nothing more; `run` ends when everything that was submitted is written."""
        self._closing = True
        self._wake.set()

    async def run(self) -> None:
        """Write until closed."""
        company = Company()
        try:
            while True:
                await self._wake.wait()
                if (linger_s := company.linger_s()) and not self._closing:
                    await asyncio.sleep(linger_s)
                batch = self._take()
                if batch:
                    company.note(len(batch))
                    await self._write(batch)
                elif self._closing:
                    return
        finally:
            self._closing = True
            for entry in self._waiting:
                entry.future.cancel()

    def _take(self) -> list[_Entry]:
        size = count = 0
        for entry in self._waiting[:MAX_BATCH]:
            size += entry.size
            if count and size > MAX_BATCH_BYTES:
                break
            count += 1
        batch, self._waiting = self._waiting[:count], self._waiting[count:]
        if not self._waiting and not self._closing:
            self._wake.clear()
        return batch

    async def _write(self, batch: list[_Entry]) -> None:
        failed: dict[int, Exception] = {}
        try:
            await self._collection.bulk_write([entry.write for entry in batch], ordered=False)
        except BulkWriteError as error:
            # Where a majority did not confirm, nothing is sure about any of them.
            if error.details["writeConcernErrors"]:
                failed = {index: DATABASE.to_retinue(error) for index in range(len(batch))}
            else:
                failed = {each["index"]: DATABASE.write_error(each) for each in error.details["writeErrors"]}
        except PyMongoError as error:
            failed = {index: DATABASE.to_retinue(error) for index in range(len(batch))}
        except asyncio.CancelledError:
            for entry in batch:
                entry.future.cancel()
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the writers are told
            failed = dict.fromkeys(range(len(batch)), error)
        verdicts = await asyncio.gather(
            *(self._verdict(batch[index], error) for index, error in failed.items())
        )
        refused = dict(zip(failed, verdicts, strict=True))
        for index, entry in enumerate(batch):
            _deliver(entry, refused.get(index), is_new=index not in refused)

    async def _verdict(self, entry: _Entry, error: Exception) -> Exception | None:
        if self._judge is None or not isinstance(error, DuplicateDocumentError):
            return error
        try:
            await self._judge(entry.document)
        except Exception as refusal:  # noqa: BLE001 - it is what the writer is told
            return refusal
        return None


def _deliver(entry: _Entry, error: Exception | None, *, is_new: bool) -> None:
    if entry.future.done():
        return
    if error is None:
        entry.future.set_result(is_new if entry.tells else None)
    else:
        entry.future.set_exception(error)
