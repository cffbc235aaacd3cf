"""The store on MongoDB, which several engines share."""

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import Any

from motor.motor_asyncio import AsyncIOMotorClient
from pymongo import ASCENDING
from pymongo.errors import ConfigurationError, PyMongoError

from retinue_engine.store import (
    RUN_STATE_RUNNING,
    JournalRecord,
    MessageRow,
    RunFilter,
    RunOutcome,
    RunRow,
    SessionRow,
)
from retinue_engine.store_mongo_documents import (
    NOT_FINAL,
    Collections,
    message_row,
    open_collections,
    run_row,
    session_key,
    session_row,
)
from retinue_engine.store_mongo_errors import to_retinue, translated
from retinue_engine.store_mongo_reads import last_sequence, newest, read_journal
from retinue_engine.store_mongo_turns import Turns
from retinue_engine.store_mongo_writes import Writes
from retinue_kit.tasks import open_task_group

CLOSE_S = 5.0
"""How long what was submitted may take to be written when the store closes."""

_TIMEOUTS = {"serverSelectionTimeoutMS": 5_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 20_000}
"""Bounds that an address may change."""

_DURABLE: dict[str, Any] = {"w": "majority", "journal": True, "wTimeoutMS": 10_000}
"""What no address may change: an answer is given for what survives the loss of a machine."""


class MongoStore:
    """Reads on the pool of the driver; writes by group commit."""

    exclusive = False

    def __init__(self, collections: Collections, group: asyncio.TaskGroup) -> None:
        self._runs = collections.runs
        self._journal = collections.journal
        self._sessions = collections.sessions
        self._messages = collections.messages
        self._turns = Turns(collections)
        self._writes = Writes(collections, self._turns)
        self._group = group
        self._ending: set[asyncio.Task[None]] = set()
        for each in self._writes.groups:
            group.create_task(each.run())

    async def create_run(self, run: RunRow, first: JournalRecord, *, new_session: bool) -> RunRow:
        return await self._writes.create_run(run, first, new_session=new_session)

    def append(self, record: JournalRecord, outcome: RunOutcome | None = None) -> "asyncio.Future[None]":
        if outcome is None:
            return self._writes.append_record(record)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = self._group.create_task(_settle(future, self._writes.finish(record, outcome)))
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)
        return future

    async def claim(self, run: RunRow, record: JournalRecord, lease_us: int) -> None:
        await self._writes.claim(run.run_id, record, lease_us)

    async def read_journal(self, root_run_id: str, after: int, max_bytes: int) -> list[JournalRecord]:
        return await read_journal(self._journal, root_run_id, after, max_bytes)

    async def last_sequence(self, root_run_id: str) -> int:
        return await last_sequence(self._journal, root_run_id)

    async def get_run(self, namespace: str, run_id: str) -> RunRow | None:
        return await self._find_run({"_id": run_id, "namespace": namespace})

    async def find_request(self, namespace: str, request_id: str) -> RunRow | None:
        if not request_id:
            return None
        return await self._find_run({"namespace": namespace, "request_id": request_id})

    async def _find_run(self, which: dict[str, Any]) -> RunRow | None:
        with translated():
            document = await self._runs.find_one(which)
        return run_row(document) if document else None

    async def list_runs(self, which: RunFilter, before: tuple[int, str] | None, limit: int) -> list[RunRow]:
        conditions: dict[str, Any] = {"namespace": which.namespace}
        if which.session_id:
            conditions["session_id"] = which.session_id
        if which.target_name:
            conditions["target_name"] = which.target_name
        if which.states:
            conditions["state"] = {"$in": [int(state) for state in which.states]}
        return [run_row(each) for each in await newest(self._runs, conditions, "_id", before, limit)]

    async def request_cancel(self, namespace: str, run_id: str, reason: str) -> RunRow | None:
        with translated():
            await self._runs.update_one(
                {"_id": run_id, "namespace": namespace, "state": NOT_FINAL, "cancel_reason": None},
                {"$set": {"cancel_reason": reason}},
            )
        return await self.get_run(namespace, run_id)

    async def abandoned_runs(self, now_us: int, limit: int) -> list[RunRow]:
        with translated():
            documents = await self._runs.find(
                {"state": RUN_STATE_RUNNING, "lease_us": {"$lt": now_us}},
                sort=[("create_us", ASCENDING)],
                limit=limit,
            ).to_list(None)
        return [run_row(document) for document in documents]

    async def renew_leases(self, runs: Sequence[RunRow], lease_us: int) -> list[str]:
        if not runs:
            return []
        writers = {run.run_id: run.writer for run in runs}
        # A writer's token is drawn for one claim of one run: who lost the claim renews nothing.
        which = {"_id": {"$in": list(writers)}}
        held = {**which, "writer": {"$in": list(writers.values())}, "state": NOT_FINAL}
        with translated():
            renewed = await self._runs.update_many(held, {"$set": {"lease_us": lease_us}})
            if renewed.matched_count == len(writers):
                return []
            stored = await self._runs.find(which, {"writer": True}).to_list(None)
        return [each["_id"] for each in stored if each["writer"] != writers[each["_id"]]]

    async def cancelled_runs(self) -> list[tuple[str, str]]:
        with translated():
            found = await self._runs.find(
                {"state": RUN_STATE_RUNNING, "cancel_reason": {"$gte": ""}}, {"cancel_reason": True}
            ).to_list(None)
        return [(each["_id"], each["cancel_reason"]) for each in found]

    async def next_queued(self, namespace: str, session_id: str, lease_us: int = 0) -> RunRow | None:
        return await self._turns.begin_next(namespace, session_id, lease_us)

    async def waiting_sessions(self, limit: int) -> list[tuple[str, str]]:
        return await self._turns.waiting(limit)

    async def get_session(self, namespace: str, session_id: str) -> SessionRow | None:
        with translated():
            document = await self._sessions.find_one({"_id": session_key(namespace, session_id)})
        return session_row(document) if document else None

    async def list_sessions(
        self, namespace: str, before: tuple[int, str] | None, limit: int
    ) -> list[SessionRow]:
        conditions = {"namespace": namespace}
        found = await newest(self._sessions, conditions, "session_id", before, limit)
        return [session_row(document) for document in found]

    async def list_messages(
        self, namespace: str, session_id: str, after: int, limit: int | None
    ) -> list[MessageRow]:
        if limit == 0:
            return []
        with translated():
            documents = await self._messages.find(
                {"namespace": namespace, "session_id": session_id, "position": {"$gt": after}},
                sort=[("position", ASCENDING)],
                limit=limit or 0,
            ).to_list(None)
        return [message_row(document) for document in documents]

    async def aclose(self) -> None:
        """Write what was submitted, then end."""
        if self._ending:
            await asyncio.wait(self._ending, timeout=CLOSE_S)
        for task in self._ending:
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


def _connect(uri: str) -> tuple[Any, Any]:
    """A client and its database; nothing is asked yet. Raises ValueError for an address that cannot be."""
    given = uri.lower()
    bounds: dict[str, Any] = {
        name: value for name, value in _TIMEOUTS.items() if f"{name.lower()}=" not in given
    }
    try:
        client: Any = AsyncIOMotorClient(uri, **bounds, **_DURABLE)
    except (PyMongoError, ValueError) as error:
        raise ValueError(f"the MongoDB address in RETINUE_STORE cannot be used: {error}") from error
    try:
        return client, client.get_default_database()
    except ConfigurationError:
        client.close()
        raise ValueError(
            "the MongoDB address in RETINUE_STORE names no database: put one behind the host, as in "
            "mongodb://localhost:27017/retinue"
        ) from None


@asynccontextmanager
async def open_mongo_store(uri: str) -> AsyncIterator[MongoStore]:
    """Open the store at an address `mongodb://HOST:PORT/DATABASE`, and make what is missing there.

    Raises ValueError for an address without a database, StoreUnavailableError where nobody answers.
    """
    client, database = _connect(uri)
    try:
        try:
            await client.admin.command("ping")
        except PyMongoError as error:
            raise to_retinue(error) from error
        collections = await open_collections(database)
        async with open_task_group() as group:
            store = MongoStore(collections, group)
            try:
                yield store
            finally:
                await store.aclose()
    finally:
        client.close()
