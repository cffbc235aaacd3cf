"""The store on MongoDB, which several engines share."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pymongo.errors import PyMongoError

from retinue_engine.stores.mongo.acceptance import Acceptance
from retinue_engine.stores.mongo.commands import CommandWatch
from retinue_engine.stores.mongo.database import DATABASE
from retinue_engine.stores.mongo.deletion import Deletion
from retinue_engine.stores.mongo.effects import EffectWrites
from retinue_engine.stores.mongo.idle import IdleSessions
from retinue_engine.stores.mongo.inputs import Inputs
from retinue_engine.stores.mongo.memories import Memories
from retinue_engine.stores.mongo.reads import last_sequence, read_journal
from retinue_engine.stores.mongo.runs import Runs
from retinue_engine.stores.mongo.schema import Collections, open_collections
from retinue_engine.stores.mongo.sessions import Sessions
from retinue_engine.stores.mongo.turns import Turns
from retinue_engine.stores.mongo.writes import Writes
from retinue_engine.stores.rows import BlobRow, Effects, JournalRecord, RunRow
from retinue_kit.tasks import open_task_group

CLOSE_S = 5.0
"""How long what was submitted may take to be written when the store closes."""


class MongoStore(Runs, Inputs, Sessions, IdleSessions, Memories):
    """Reads on the pool of the driver; writes by group commit."""

    exclusive = False

    def __init__(self, collections: Collections, group: asyncio.TaskGroup) -> None:
        self._collections = collections
        self._turns = Turns(collections)
        self._writes = Writes(collections)
        self._acceptance = Acceptance(self._writes, self._turns)
        self._effects = EffectWrites(self._writes)
        self._deletion = Deletion(collections, self._turns)
        self._group = group
        self._following: set[asyncio.Task[None]] = set()
        for each in self._writes.groups:
            group.create_task(each.run())
        self._words = CommandWatch(collections.runs)
        self._listening = group.create_task(self._words.listen())

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
        """See Store."""
        return await self._acceptance.create_run(
            run, first, new_session=new_session, blobs=blobs, queue=queue, reject_busy=reject_busy
        )

    def append(self, record: JournalRecord, effects: Effects | None = None) -> "asyncio.Future[None]":
        """See Store."""
        if effects is None:
            return self._writes.append_record(record)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(_settle(future, self._effects.append(record, effects)))
        self._following.add(task)
        task.add_done_callback(self._following.discard)
        return future

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:
        """See Store."""
        await self._writes.claim(run.run_id, record, lease_us)

    async def read_journal(self, root_run_id: str, after: int, max_bytes: int) -> list[JournalRecord]:
        """See Store."""
        return await read_journal(self._collections.journal, root_run_id, after, max_bytes)

    async def last_sequence(self, root_run_id: str) -> int:
        """See Store."""
        return await last_sequence(self._collections.journal, root_run_id)

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:
        """See Store."""
        return await self._turns.begin_next(namespace, session_id, lease_us)

    async def delete_session(self, namespace: str, session_id: str) -> int | None:
        """See Store."""
        return await self._deletion.delete(namespace, session_id)

    async def await_command(self, longest_s: float) -> None:
        """See Store."""
        await self._words.wait(longest_s)

    async def aclose(self) -> None:
        """Write what was submitted, then end."""
        self._listening.cancel()
        if self._following:
            await asyncio.wait(self._following, timeout=CLOSE_S)
        for task in self._following:
            task.cancel()
        for each in self._writes.groups:
            each.close()


async def _settle(future: "asyncio.Future[None]", work: Coroutine[Any, Any, None]) -> None:
    """Do work whose end, however it is, belongs to who waits for the future."""
    try:
        await work
    except asyncio.CancelledError:
        future.cancel()
        raise
    except Exception as error:  # noqa: BLE001 - it is told to who waits
        if not future.done():
            future.set_exception(error)
    else:
        if not future.done():
            future.set_result(None)


@asynccontextmanager
async def open_mongo_store(uri: str) -> AsyncIterator[MongoStore]:
    """Open the store at an address `mongodb://HOST:PORT/DATABASE`, and make what is missing there.

    Raises ValueError for an address without a database, StoreUnavailableError where nobody answers.
    """
    client, database = DATABASE.connect(uri)
    try:
        try:
            await client.admin.command("ping")
        except PyMongoError as error:
            raise DATABASE.to_retinue(error) from error
        collections = await open_collections(database)
        async with open_task_group() as group:
            store = MongoStore(collections, group)
            try:
                yield store
            finally:
                await store.aclose()
    finally:
        client.close()
